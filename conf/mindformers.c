/* The YAML is flattened to leaves "model.model_config.seq_length" = "512"; --options replaces
 * leaves or adds some; then every leaf meets its row of mindformers.def. A few keys mean something
 * only together (OWN); they are looked up by name at the end.
 *
 * The architecture is what the checkpoint's config.json says. A file that names other dimensions
 * is not silently overruled: such keys are kept in conf.foreign and compared when the model is
 * opened. */
#include "conf/mindformers.h"

#include "conf/yaml_leaves.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"

typedef struct reader {
    const char *file;
    yaml_leaves leaves;
    conf *c;
} reader;

typedef enum key_kind { SET, EQUAL, ONE, EMPTY, WORD, OWN, NOTE, NONE } key_kind;

typedef struct key_row {
    const char *path;
    key_kind kind;
    int opt;
    const char *text;
} key_row;

static const key_row rows[] = {
#define KEY(path, kind, opt, text) {path, kind, opt, text},
#include "conf/mindformers.def"
#undef KEY
};

static yaml_leaf *find(reader *r, const char *path) {
    for (size_t i = r->leaves.n; i-- > 0;)
        if (strcmp(r->leaves.p[i].path, path) == 0) return &r->leaves.p[i];
    return NULL;
}

/* A value that is there and says something. */
static const char *value_of(reader *r, const char *path) {
    const yaml_leaf *l = find(r, path);
    return l && l->value[0] ? l->value : NULL;
}

bool mindformers_is(str text) {
    static const char *const only[] = {"model.model_config.", "run_mode", "pretrained_model_dir",
                                       "trainer.", "parallel_config."};
    yaml_leaves leaves = {0};
    error err;
    bool is = false;
    if (yaml_leaves_read("", text, &leaves, &err) == OK)
        for (size_t i = 0; i < leaves.n; i++)
            for (size_t k = 0; k < ARRAY_LEN(only); k++)
                is |= strncmp(leaves.p[i].path, only[k], strlen(only[k])) == 0;
    yaml_leaves_done(&leaves);
    return is;
}

/* --- --options */

static status override_one(reader *r, str text, error *err) {
    ptrdiff_t eq = str_find(text, STR("="), 0);
    if (eq <= 0)
        return error_set(err, ERR_INVALID, "--options: \"" STR_FMT "\" is not KEY=VALUE",
                         STR_ARG(text));
    str key = str_trim(str_cut(text, 0, (size_t)eq)), value = str_cut(text, (size_t)eq + 1, text.n);
    int o = conf_find(key);
    if (o >= 0) return conf_set(r->c, (conf_opt)o, value, FROM_FILE, err);
    yaml_leaves_add(&r->leaves, key, value, 0);
    yaml_leaf *mine = &r->leaves.p[r->leaves.n - 1], *first = r->leaves.p;
    while (strcmp(first->path, mine->path) != 0) first++;
    if (first == mine) return OK;
    mem_free(first->path);
    mem_free(first->value);
    *first = *mine;
    r->leaves.n--;
    return OK;
}

static status override_all(reader *r, const char *lines, error *err) {
    str one;
    for (const char *at = lines; conf_list_next(&at, &one);) TRY(override_one(r, one, err));
    return OK;
}

/* --- what goes to the user and to the check of the model */

static conf_foreign *foreign(conf *c) {
    if (!c->foreign) c->foreign = mem_calloc(1, sizeof *c->foreign);
    return c->foreign;
}

static void where(const reader *r, const yaml_leaf *l, strbuf *out) {
    if (l->line)
        strbuf_addf(out, "%s, line %d: %s", r->file, l->line, l->path);
    else
        strbuf_addf(out, "--options %s", l->path);
}

static void note(reader *r, const yaml_leaf *l, bool known, const char *text) {
    strbuf *out = known ? &foreign(r->c)->notes : &foreign(r->c)->unknown;
    if (out->n) strbuf_addc(out, '\n');
    where(r, l, out);
    strbuf_addf(out, ": %s", text);
}

static void expect(reader *r, const yaml_leaf *l, const char *keys, const char *value) {
    conf_foreign *f = foreign(r->c);
    if (f->n_expect == (int)ARRAY_LEN(f->expect)) return;
    conf_expect *e = &f->expect[f->n_expect++];
    strbuf w = {0};
    where(r, l, &w);
    e->where = strbuf_take(&w);
    e->value = mem_strdup(value);
    e->keys = keys;
}

static status bad(reader *r, const yaml_leaf *l, error *err, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

static status bad(reader *r, const yaml_leaf *l, error *err, const char *fmt, ...) {
    strbuf w = {0};
    va_list ap;
    va_start(ap, fmt);
    error_setv(err, ERR_INVALID, fmt, ap);
    va_end(ap);
    where(r, l, &w);
    error_prefix(err, "%s", w.p);
    strbuf_done(&w);
    return ERR_INVALID;
}

/* --- rows */

static const key_row *row_of(const char *path) {
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        size_t n = strlen(rows[i].path);
        bool all = n > 2 && strcmp(rows[i].path + n - 2, ".*") == 0;
        if (all ? strncmp(path, rows[i].path, n - 1) == 0 ||
                      (strlen(path) == n - 2 && strncmp(path, rows[i].path, n - 2) == 0)
                : strcmp(path, rows[i].path) == 0)
            return &rows[i];
    }
    return NULL;
}

static bool is_false(const char *v) {
    return !*v || strcasecmp(v, "false") == 0 || strcmp(v, "0") == 0;
}

static bool is_word(const char *words, const char *v) {
    for (size_t n; *words; words += n + (words[n] != 0)) {
        n = strcspn(words, "|");
        if (strlen(v) == n && strncmp(words, v, n) == 0) return true;
    }
    return false;
}

static status set(reader *r, const yaml_leaf *l, int opt, error *err) {
    if (!l->value[0]) return OK;
    status st = conf_set(r->c, (conf_opt)opt, str_z(l->value), FROM_FILE, err);
    if (st == OK) return OK;
    strbuf w = {0};
    where(r, l, &w);
    error_prefix(err, "%s", w.p);
    strbuf_done(&w);
    return st;
}

/* More than one is ignored by MindFormers itself while use_parallel is false; said on the command
 * line it is meant. */
static status only_one(reader *r, const yaml_leaf *l, const char *what, error *err) {
    int64_t n;
    if (!l->value[0]) return OK;
    if (!str_to_i64(str_z(l->value), &n)) return bad(r, l, err, "is not a whole number");
    const char *parallel = value_of(r, "use_parallel");
    if (n <= 1) return OK;
    if (l->line && (!parallel || is_false(parallel))) {
        note(r, l, true, "without effect while use_parallel is false");
        return OK;
    }
    return bad(r, l, err, "is %s, but %s is not there yet: only 1", l->value, what);
}

static status apply(reader *r, const yaml_leaf *l, error *err) {
    const key_row *row = row_of(l->path);
    if (!row) {
        note(r, l, false, "not known, without effect");
        return OK;
    }
    switch (row->kind) {
    case SET: return set(r, l, row->opt, err);
    case EQUAL:
        if (l->value[0]) expect(r, l, row->text, l->value);
        return OK;
    case ONE: return only_one(r, l, row->text, err);
    case EMPTY: return is_false(l->value) ? OK : bad(r, l, err, "is %s: %s", l->value, row->text);
    case WORD:
        if (!l->value[0] || is_word(row->text, l->value)) return OK;
        return bad(r, l, err, "is %s, expected %s", l->value, row->text);
    case NOTE:
        if (l->value[0]) note(r, l, true, row->text);
        return OK;
    case OWN:
    case NONE: return OK;
    }
    return OK;
}

/* --- keys that mean something together */

static status own_model(reader *r, error *err) {
    const yaml_leaf *ckpt = find(r, "load_checkpoint");
    const yaml_leaf *dir = find(r, "pretrained_model_dir");
    const yaml_leaf *l = ckpt && ckpt->value[0] ? ckpt : dir;
    if (!l || !l->value[0]) return OK;
    if (str_ends(str_z(l->value), STR(".ckpt")))
        return bad(r, l, err,
                   "is %s: a MindSpore checkpoint cannot be read, a directory in Hugging Face "
                   "layout is expected",
                   l->value);
    return set(r, l, OPT_model, err);
}

/* The file may be bare ranks: a model directory that has a tokenizer says more (cmd_tokenizer). */
static status own_tokenizer(reader *r, error *err) {
    static const char *const keys[] = {"processor.tokenizer.tokenizer_file",
                                       "processor.tokenizer.vocab_file"};
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        const yaml_leaf *l = find(r, keys[i]);
        if (!l || !l->value[0]) continue;
        bool there = file_exists(l->value);
        note(r, l, true,
             there ? "is used if the model's directory has no tokenizer"
                   : "is not there; the model directory's tokenizer is used");
        if (there) return set(r, l, OPT_tokenizer, err);
    }
    return OK;
}

static status own_sampling(reader *r, error *err) {
    const yaml_leaf *l = find(r, "model.model_config.do_sample");
    if (!l || !l->value[0] || !is_false(l->value)) return OK;
    return conf_set(r->c, OPT_temperature, STR("0"), FROM_FILE, err);
}

static status own_rope(reader *r, error *err) {
    static const struct {
        const char *method, *type;
    } names[] = {{"PI", "linear"},
                 {"NTK", "dynamic"},
                 {"DYNAMIC_NTK", "dynamic"},
                 {"LLAMA3", "llama3"},
                 {"YARN", "yarn"}};
    const yaml_leaf *l = find(r, "model.model_config.extend_method");
    const yaml_leaf *factor = find(r, "model.model_config.scaling_factor");
    if (!l || !l->value[0]) return OK;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcasecmp(l->value, names[i].method) != 0) continue;
        expect(r, l, "rope_scaling.rope_type|rope_scaling.type|rope_parameters.rope_type",
               names[i].type);
        if (factor && factor->value[0])
            expect(r, factor, "rope_scaling.factor|rope_parameters.factor", factor->value);
        return OK;
    }
    return bad(r, l, err, "is %s, expected None, PI, NTK, DYNAMIC_NTK, LLAMA3 or YARN", l->value);
}

static status apply_all(reader *r, error *err) {
    for (size_t i = 0; i < r->leaves.n; i++) TRY(apply(r, &r->leaves.p[i], err));
    TRY(own_model(r, err));
    TRY(own_tokenizer(r, err));
    TRY(own_rope(r, err));
    return own_sampling(r, err);
}

status mindformers_load(const char *path, str text, const char *overrides, conf *c, error *err) {
    reader r = {.file = path, .c = c};
    status st = text.n ? yaml_leaves_read(path, text, &r.leaves, err) : OK;
    if (st == OK) st = override_all(&r, overrides, err);
    if (st == OK) st = apply_all(&r, err);
    yaml_leaves_done(&r.leaves);
    return st;
}
