/* The small tokenizers of fixtures/ against what the reference library gave for generated texts
 * (make_fixtures.py made both). Runs from the project's root. */
#include <stdio.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "tests/tokenizer/golden.h"

#define DIR "tests/tokenizer/fixtures/"

static int n_passed, n_failed;

static void run_case(str line, char *open_name, size_t open_cap, tokenizer **t) {
    json_t *c;
    error err;
    char path[256];
    if (js_parse(line, &c, &err) != OK) {
        printf("FAIL cases.jsonl: %s\n", err.text);
        n_failed++;
        return;
    }
    const char *name = json_string_value(js_get(c, "file"));
    if (name && strcmp(name, open_name) != 0) {
        tokenizer_free(*t);
        *t = NULL;
        snprintf(open_name, open_cap, "%s", name);
        snprintf(path, sizeof path, DIR "%s.json", name);
        if (tokenizer_open(path, NULL, t, &err) != OK) printf("FAIL %s\n", err.text);
    }
    if (*t && golden_check(open_name, *t, js_get_str(c, "text"), c))
        n_passed++;
    else
        n_failed++;
    json_decref(c);
}

int main(void) {
    strbuf b = {0};
    error err;
    tokenizer *t = NULL;
    char name[128] = "";
    if (file_read(DIR "cases.jsonl", (size_t)16 << 20, &b, &err) != OK) {
        printf("FAIL: %s\n", err.text);
        return 1;
    }
    str text = strbuf_str(&b);
    for (size_t at = 0; at < text.n;) {
        ptrdiff_t nl = str_find(text, STR("\n"), at);
        size_t end = nl < 0 ? text.n : (size_t)nl;
        if (end > at) run_case(str_cut(text, at, end), name, sizeof name, &t);
        at = end + 1;
    }
    tokenizer_free(t);
    strbuf_done(&b);
    printf("%d passed, %d failed, 0 skipped\n", n_passed, n_failed);
    return n_failed > 0 || n_passed == 0;
}
