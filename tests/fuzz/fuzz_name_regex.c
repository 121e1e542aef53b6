/* A pattern, a line feed and a name. Looking ahead reads the pattern backwards: both ways must
 * agree. */
#include <stdint.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"
#include "engine/name_regex.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Does front pattern ) match? -1: it is not read, for its size. */
static int match_within(const char *front, str pattern, str name) {
    strbuf b = {0};
    name_regex *re;
    error err;
    int found = -1;
    strbuf_addz(&b, front);
    strbuf_add(&b, pattern);
    strbuf_addc(&b, ')');
    if (name_regex_new(strbuf_str(&b), &re, &err) == OK) {
        found = name_regex_match(re, name);
        name_regex_free(re);
    }
    strbuf_done(&b);
    return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    str all = str_n((const char *)data, n);
    ptrdiff_t cut = str_find(all, STR("\n"), 0);
    if (cut < 0) return 0;
    str pattern = str_cut(all, 0, (size_t)cut), name = str_cut(all, (size_t)cut + 1, n);
    name_regex *re;
    error err;
    name.n = MIN(name.n, (size_t)500);
    if (name_regex_new(pattern, &re, &err) != OK) return 0;
    bool found = name_regex_match(re, name);
    CHECK(name_regex_states(re) <= NAME_REGEX_STATES);
    name_regex_free(re);
    int ahead = match_within("(?=", pattern, name), not_ahead = match_within("(?!", pattern, name);
    CHECK(ahead < 0 || ahead == found);
    CHECK(not_ahead < 0 || not_ahead == !found);
    return 0;
}
