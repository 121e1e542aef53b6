/* Names of other programs. They are resolved where an option's name is read, so that everything
 * behind it (types, ranges, sources) knows options only. */
#include "engine/base/mem.h"

#include "conf/conf.h"

const conf_alias conf_aliases[] = {
#define ALIAS(name, field, program)       {#name, OPT_##field, NULL, NULL, program},
#define FIXED(name, values, program, why) {#name, -1, values, why, program},
#include "conf/aliases.def"
#undef ALIAS
#undef FIXED
};
const int conf_n_aliases = (int)ARRAY_LEN(conf_aliases);

/* Names stand with '_' in the table. */
static bool same(str a, const char *name) {
    if (a.n != strlen(name)) return false;
    for (size_t i = 0; i < a.n; i++)
        if ((a.p[i] == '-' ? '_' : a.p[i]) != name[i]) return false;
    return true;
}

const conf_alias *conf_alias_find(str name) {
    for (int i = 0; i < conf_n_aliases; i++)
        if (same(name, conf_aliases[i].name)) return &conf_aliases[i];
    return NULL;
}

status conf_alias_check(const conf_alias *a, str value, error *err) {
    for (const char *at = a->only; *at;) {
        size_t n = strcspn(at, "|");
        if (str_eq(value, str_n(at, n))) return OK;
        at += n + (at[n] != 0);
    }
    return error_set(err, ERR_INVALID, "--%s: " STR_FMT " is not accepted, only %s: %s", a->name,
                     (int)MIN(value.n, (size_t)80), value.p, a->only, a->why);
}
