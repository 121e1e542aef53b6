/* Plain names are compared component by component, expressions run as name_regex.h has them. */
#include "engine/quant_match.h"

#include "engine/base/mem.h"

status name_pattern_init(name_pattern *p, str text, bool is_regex, error *err) {
    *p = (name_pattern){0};
    if (memchr(text.p, 0, text.n) || text.n > NAME_REGEX_BYTES)
        return error_set(err, ERR_INVALID, "a name pattern of %zu bytes, or with a NUL", text.n);
    if (is_regex) TRY(name_regex_new(text, &p->regex, err));
    p->text = mem_alloc(text.n + 1);
    memcpy(p->text, text.p, text.n);
    p->text[text.n] = 0;
    return OK;
}

void name_pattern_done(name_pattern *p) {
    name_regex_free(p->regex);
    mem_free(p->text);
    *p = (name_pattern){0};
}

bool name_pattern_is(const name_pattern *p, const char *name) {
    return p->regex ? name_regex_match(p->regex, str_z(name)) : strcmp(p->text, name) == 0;
}

bool name_pattern_in(const name_pattern *p, const char *name) {
    size_t n = strlen(p->text);
    if (name_pattern_is(p, name)) return true;
    if (p->regex || n == 0) return false;
    for (const char *at = name; (at = strstr(at, p->text)); at++)
        if ((at == name || at[-1] == '.') && (at[n] == 0 || at[n] == '.')) return true;
    return false;
}
