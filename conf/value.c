/* The table of options, and their values: text to the typed field. Every refusal says the option,
 * the text found and what is expected, with the range where there is one. */
#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>

#include "conf/conf.h"
#include "engine/base/check.h"
#include "engine/base/mem.h"

/* options.def as it stands, group titles in between (rows without a name). */
static const conf_row table[] = {
#define GROUP(title) {.group = title},
#define OPT(type, field, default_, lo, hi, what, commands, help)                                   \
    {NULL, #field, CONF_##type,          default_, lo,                                             \
     hi,   what,   (unsigned)(commands), help,     offsetof(conf, field)},
#include "conf/options.def"
#undef OPT
#undef GROUP
};

static conf_row rows[OPT_COUNT];
static char names[OPT_COUNT][32];

static void rows_fill(void) {
    const char *group = NULL;
    int o = 0;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (!table[i].name) {
            group = table[i].group;
            continue;
        }
        CHECK(o < OPT_COUNT);
        CHECK(strlen(table[i].name) < sizeof names[o]);
        for (size_t k = 0; table[i].name[k]; k++)
            names[o][k] = table[i].name[k] == '_' ? '-' : table[i].name[k];
        rows[o] = table[i];
        rows[o].group = group;
        rows[o].name = names[o];
        o++;
    }
}

const conf_row *conf_rows(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, rows_fill);
    return rows;
}

/* A number followed by a unit of a table: "1.5GiB", "30s". The unit may be left out. */
typedef struct unit {
    const char *name;
    double factor;
} unit;

static const unit units_bytes[] = {
    {"", 1},
    {"B", 1},
    {"K", 1024.0},
    {"KiB", 1024.0},
    {"M", 1048576.0},
    {"MiB", 1048576.0},
    {"G", 1073741824.0},
    {"GiB", 1073741824.0},
    {"T", 1099511627776.0},
    {"TiB", 1099511627776.0},
    {"kB", 1e3},
    {"KB", 1e3},
    {"MB", 1e6},
    {"GB", 1e9},
    {"TB", 1e12},
    {NULL, 0},
};
static const unit units_seconds[] = {
    {"", 1}, {"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"m", 60}, {"min", 60}, {"h", 3600}, {NULL, 0},
};

static bool with_unit(str text, const unit *units, double *ret) {
    size_t k = 0;
    while (k < text.n && ((text.p[k] >= '0' && text.p[k] <= '9') || text.p[k] == '.')) k++;
    double x;
    if (!str_to_f64(str_cut(text, 0, k), &x)) return false;
    str suffix = str_trim(str_cut(text, k, text.n));
    for (; units->name; units++) {
        if (!str_eqz(suffix, units->name)) continue;
        *ret = x * units->factor;
        return true;
    }
    return false;
}

static bool to_bool(str text, bool *ret) {
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};
    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        if (str_eqz(text, yes[i])) return *ret = true;
        if (str_eqz(text, no[i])) return !(*ret = false);
    }
    return false;
}

static bool is_choice(const char *choices, str text) {
    str all = str_z(choices);
    for (size_t from = 0; from <= all.n;) {
        ptrdiff_t bar = str_find(all, STR("|"), from);
        size_t to = bar < 0 ? all.n : (size_t)bar;
        if (str_eq(text, str_cut(all, from, to))) return true;
        from = to + 1;
    }
    return false;
}

/* Other programs' words for the choices of an option; LMDeploy's quant_policy is a number of bits.
 */
static str choice(const conf_row *row, str text) {
    static const char *const words[][2] = {
        {"float32", "f32"}, {"fp32", "f32"}, {"float", "f32"},     {"float16", "f16"},
        {"fp16", "f16"},    {"half", "f16"}, {"bfloat16", "bf16"}, {"fp8_e4m3", "fp8"},
    };
    static const char *const policies[][2] = {{"0", "auto"}, {"8", "int8"}};
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (str_eqz(text, words[i][0])) return str_z(words[i][1]);
    for (size_t i = 0; i < ARRAY_LEN(policies); i++)
        if (row == &conf_rows()[OPT_kv_cache_dtype] && str_eqz(text, policies[i][0]))
            return str_z(policies[i][1]);
    return text;
}

static const char *expected(conf_type t) {
    switch (t) {
    case CONF_INT: return "a whole number";
    case CONF_FLOAT: return "a number";
    case CONF_BOOL: return "true or false";
    case CONF_BYTES: return "a size such as 512MiB or 4GiB";
    case CONF_DURATION: return "a time such as 500ms, 30s or 5m";
    default: return "text";
    }
}

static bool takes_auto(const conf_row *row) {
    return row->type == CONF_BYTES && is_choice(row->what, STR("auto"));
}

static status refuse(const conf_row *row, str text, error *err) {
    return error_set(err, ERR_INVALID, "--%s: \"%.80s\" is not %s%s", row->name,
                     text.n ? text.p : "", row->type == CONF_ENUM ? row->what : expected(row->type),
                     takes_auto(row) ? ", auto or off" : "");
}

static bool is_auto_or_off(const conf_row *row, str text, uint64_t *ret) {
    if (!takes_auto(row) || !(str_eqz(text, "auto") || str_eqz(text, "off"))) return false;
    *ret = str_eqz(text, "auto") ? CONF_AUTO : 0;
    return true;
}

static status range(const conf_row *row, str text, double x, error *err) {
    if (x >= row->lo && x <= row->hi) return OK;
    const char *of = row->type == CONF_DURATION ? " seconds"
                     : row->type == CONF_BYTES  ? " bytes"
                                                : "";
    return error_set(err, ERR_INVALID, "--%s: %.80s is out of range (%.15g to %.15g%s)", row->name,
                     text.p, row->lo, row->hi, of);
}

static void set_string(char **field, str text) {
    mem_free(*field);
    *field = NULL;
    if (!text.p) return;
    *field = mem_alloc(text.n + 1);
    memcpy(*field, text.p, text.n);
    (*field)[text.n] = 0;
}

/* One more line. */
static status append(char **field, const conf_row *row, str text, error *err) {
    strbuf all = {0};
    if (!text.n || memchr(text.p, '\n', text.n)) return refuse(row, text, err);
    if (*field) strbuf_addf(&all, "%s\n", *field);
    strbuf_add(&all, text);
    mem_free(*field);
    *field = strbuf_take(&all);
    return OK;
}

bool conf_list_next(const char **at, str *ret) {
    if (!*at) return false;
    size_t n = strcspn(*at, "\n");
    *ret = str_n(*at, n);
    *at = (*at)[n] ? *at + n + 1 : NULL;
    return true;
}

/* `text` is NUL-terminated here. */
static status set_typed(void *field, const conf_row *row, str text, error *err) {
    double x = 0;
    int64_t i = 0;
    bool b = false;
    switch (row->type) {
    case CONF_INT:
        if (!str_to_i64(text, &i)) return refuse(row, text, err);
        TRY(range(row, text, (double)i, err));
        *(int64_t *)field = i;
        return OK;
    case CONF_FLOAT:
        if (!str_to_f64(text, &x)) return refuse(row, text, err);
        TRY(range(row, text, x, err));
        *(double *)field = x;
        return OK;
    case CONF_BOOL:
        if (!to_bool(text, &b)) return refuse(row, text, err);
        *(bool *)field = b;
        return OK;
    case CONF_BYTES:
    case CONF_DURATION:
        if (is_auto_or_off(row, text, field)) return OK;
        if (!with_unit(text, row->type == CONF_BYTES ? units_bytes : units_seconds, &x))
            return refuse(row, text, err);
        TRY(range(row, text, x, err));
        *(uint64_t *)field = (uint64_t)llround(row->type == CONF_BYTES ? x : x * 1e6);
        return OK;
    case CONF_ENUM:
        if (!is_choice(row->what, text) && !is_choice(row->what, choice(row, text)))
            return refuse(row, text, err);
        set_string(field, is_choice(row->what, text) ? text : choice(row, text));
        return OK;
    case CONF_STRING: set_string(field, text); return OK;
    case CONF_LIST: return append(field, row, text, err);
    }
    CHECK(!"option type");
    return ERR_INTERNAL;
}

status conf_set(conf *c, conf_opt o, str text, conf_source from, error *err) {
    const conf_row *row = &conf_rows()[o];
    char *z = NULL; /* a terminated copy: messages and numbers want one */
    if (row->type == CONF_LIST && c->source[o] != from)
        set_string((char **)((char *)c + row->offset), (str){0});
    set_string(&z, text.p ? text : STR(""));
    status st = set_typed((char *)c + row->offset, row, str_n(z, text.n), err);
    if (st == OK) c->source[o] = (uint8_t)from;
    mem_free(z);
    return st;
}

void conf_init(conf *c) {
    *c = (conf){0};
    for (int o = 0; o < OPT_COUNT; o++) {
        error err;
        const char *text = conf_rows()[o].default_text;
        if (text) CHECK(conf_set(c, (conf_opt)o, str_z(text), FROM_DEFAULT, &err) == OK);
    }
}

static void foreign_free(conf_foreign *f) {
    if (!f) return;
    for (int i = 0; i < f->n_expect; i++) {
        mem_free(f->expect[i].where);
        mem_free(f->expect[i].value);
    }
    strbuf_done(&f->notes);
    strbuf_done(&f->unknown);
    mem_free(f);
}

void conf_done(conf *c) {
    foreign_free(c->foreign);
    for (int o = 0; o < OPT_COUNT; o++) {
        conf_type t = conf_rows()[o].type;
        if (t == CONF_STRING || t == CONF_ENUM || t == CONF_LIST)
            mem_free(*(char **)((char *)c + conf_rows()[o].offset));
    }
    *c = (conf){0};
}
