/* The table itself, its reading from a GGUF header, and the comparison that stands behind every
 * conversion: two tokenizers are asked for the ids of the same texts. */
#include "tokenizer/table.h"

#include <stdarg.h>
#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/mem.h"
#include "tokenizer/table_parts.h"

#define KEY "tokenizer.ggml."

const tok_id_name tok_id_names[TOK_IDS] = {
    {"bos", "bos"},     {"eos", "eos"},     {"eot", NULL},
    {"eom", NULL},      {"unknown", "unk"}, {"seperator", "sep"}, /* the format's own spelling */
    {"padding", "pad"}, {"cls", "cls"},     {"mask", "mask"},
};

void tok_table_init(tok_table *t, int32_t n) {
    *t = (tok_table){.n = n, .mem = arena_new(0)};
    t->pieces = arena_array(t->mem, (size_t)n + 1, sizeof *t->pieces);
    t->types = arena_array(t->mem, (size_t)n + 1, 1);
    memset(t->types, SPM_NORMAL, (size_t)n + 1);
    for (int i = 0; i < TOK_IDS; i++) t->ids[i] = -1;
    t->add_bos = t->add_eos = t->add_sep = t->add_space_prefix = t->remove_extra_spaces =
        TOK_UNSAID;
}

float *tok_table_scores(tok_table *t) {
    return t->scores = arena_array(t->mem, (size_t)t->n + 1, sizeof *t->scores);
}

str tok_table_keep(tok_table *t, str s) {
    return str_n(arena_strdup(t->mem, s), s.n);
}

void tok_table_note(tok_table *t, const char *fmt, ...) {
    char line[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    strbuf_addz(&t->notes, line);
    strbuf_addc(&t->notes, '\n');
}

void tok_table_done(tok_table *t) {
    arena_free(t->mem);
    strbuf_done(&t->notes);
    tokenizer_free(t->source);
    *t = (tok_table){0};
}

/* ---- GGUF ---- */

static const gguf_value *list_of(const gguf *g, const char *key) {
    const gguf_value *v = gguf_find(g, key);
    return v && v->is_array && v->kind == GGUF_STRING ? v : NULL;
}

static status read_types(const gguf_value *types, const gguf_value *scores, tok_table *t,
                         error *err) {
    for (uint64_t i = 0; types && i < (uint64_t)t->n; i++) {
        int64_t v;
        if (gguf_i64(types, i, &v) && v > SPM_NORMAL && v <= SPM_BYTE) t->types[i] = (uint8_t)v;
    }
    if (!scores) return OK;
    tok_table_scores(t);
    for (uint64_t i = 0; i < (uint64_t)t->n; i++) {
        double score;
        if (!gguf_f64(scores, i, &score) || score != score)
            return error_set(err, ERR_FORMAT, KEY "scores[%d] is not a number", (int)i);
        t->scores[i] = (float)score;
    }
    return OK;
}

static status read_lists(const gguf *g, tok_table *t, error *err) {
    const gguf_value *tokens = list_of(g, KEY "tokens"), *types = gguf_find(g, KEY "token_type"),
                     *scores = gguf_find(g, KEY "scores"), *merges = list_of(g, KEY "merges");
    if (!tokens || !tokens->n)
        return error_set(err, ERR_FORMAT, KEY "tokens is not a list of strings");
    if (tokens->n >= LIMIT_VOCAB)
        return error_set(err, ERR_TOO_LARGE, KEY "tokens has %llu entries, more than %d",
                         (unsigned long long)tokens->n, LIMIT_VOCAB - 1);
    if ((types && types->n != tokens->n) || (scores && scores->n != tokens->n))
        return error_set(err, ERR_FORMAT, KEY "tokens, token_type and scores differ in length");
    tok_table_init(t, (int32_t)tokens->n);
    gguf_strings it = gguf_strings_of(tokens);
    for (int32_t i = 0; i < t->n && gguf_next(&it, &t->pieces[i]);) i++;
    TRY(read_types(types, scores, t, err));
    if (!merges) return OK;
    t->merges = arena_array(t->mem, (size_t)merges->n + 1, sizeof *t->merges);
    it = gguf_strings_of(merges);
    while (t->n_merges < merges->n && gguf_next(&it, &t->merges[t->n_merges])) t->n_merges++;
    return OK;
}

static int32_t id_of(const gguf *g, const tok_table *t, const char *name) {
    char key[64];
    snprintf(key, sizeof key, KEY "%s_token_id", name);
    int64_t v = gguf_get_int(g, key, -1);
    return v < 0 || v >= t->n ? -1 : (int32_t)v;
}

static int8_t switch_of(const gguf *g, const char *key) {
    const gguf_value *v = gguf_find(g, key);
    return v && !v->is_array && v->kind == GGUF_BOOL ? gguf_get_bool(g, key, false) : TOK_UNSAID;
}

static bool is_phi3(str name) {
    char low[64];
    size_t n = MIN(name.n, sizeof low - 1);
    for (size_t i = 0; i < n; i++)
        low[i] = name.p[i] >= 'A' && name.p[i] <= 'Z' ? (char)(name.p[i] + 32) : name.p[i];
    low[n] = 0;
    return strstr(low, "phi-3") || strstr(low, "phi3");
}

status tok_table_of_gguf(const gguf *g, tok_table *t, error *err) {
    const gguf_value *chars = gguf_find(g, KEY "precompiled_charsmap");
    *t = (tok_table){0};
    status st = read_lists(g, t, err);
    if (st != OK) {
        tok_table_done(t);
        return st;
    }
    t->model = gguf_get_str(g, KEY "model");
    t->pre = gguf_get_str(g, KEY "pre");
    for (int i = 0; i < TOK_IDS; i++) t->ids[i] = id_of(g, t, tok_id_names[i].gguf);
    if (t->ids[TOK_SEP] < 0) t->ids[TOK_SEP] = id_of(g, t, "separator");
    for (int32_t i = 0; t->ids[TOK_UNK] < 0 && i < t->n; i++)
        if (t->types[i] == SPM_UNKNOWN) t->ids[TOK_UNK] = i;
    t->add_bos = switch_of(g, KEY "add_bos_token");
    t->add_eos = switch_of(g, KEY "add_eos_token");
    t->add_sep = switch_of(g, KEY "add_sep_token");
    t->add_space_prefix = switch_of(g, KEY "add_space_prefix");
    t->remove_extra_spaces = switch_of(g, KEY "remove_extra_whitespaces");
    if (chars && chars->is_array && (chars->kind == GGUF_U8 || chars->kind == GGUF_I8))
        t->charsmap = str_n((const char *)chars->p, chars->n);
    t->chat_template = gguf_get_str(g, "tokenizer.chat_template");
    t->rstrip = is_phi3(gguf_get_str(g, "general.name"));
    return OK;
}

/* ---- comparison ---- */

#define CHAIN 12

typedef struct comparing {
    const tokenizer *a, *b;
    uint8_t *skip; /* by id of a */
    vec_i32 x, y;
    int n, n_differ;
    strbuf first; /* the first text that differs */
} comparing;

static void compare_text(comparing *c, str text, unsigned flags) {
    error err;
    c->x.n = c->y.n = 0;
    bool same = tokenizer_encode(c->a, text, flags, 0, &c->x, &err) == OK &&
                tokenizer_encode(c->b, text, flags, 0, &c->y, &err) == OK && c->x.n == c->y.n &&
                (c->x.n == 0 || memcmp(c->x.p, c->y.p, c->x.n * sizeof *c->x.p) == 0);
    c->n++;
    if (same) return;
    if (!c->n_differ++) strbuf_add(&c->first, str_cut(text, 0, MIN(text.n, (size_t)80)));
}

static void compare_samples(comparing *c) {
    static const char *const texts[] = {
        "",
        "Hello, world!",
        " a  b   c    d\n\n e\t\tf \r\n  g ",
        "It's 1234567 o'clock, I'LL say: they've DON'T we'd",
        "H\u00e9llo \u00dcber e\u0301 \u212b \ufb01 na\u00efve \u00c5ngstr\u00f6m",
        "\u6211\u7231\u5317\u4eac\uff0c\u4f60\u597d\uff01 \uc548\ub155\ud558\uc138\uc694 "
        "\u3053\u3093\u306b\u3061\u306f\u30ab\u30bf\u30ab\u30ca",
        "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440, \u0645\u0631\u062d\u0628\u0627 "
        "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
        "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2581x \u00a0y\u3000z",
        "for (int i=0; i<10; ++i) { a[i] += x->y::z; } // ***--==##",
        "x = {\"key\": [1, 2.5e-3, null], 'a\\\\b': `c`}\n\n\n\n",
    };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) compare_text(c, str_z(texts[i]), ENCODE_SPECIAL);
}

/* GGUF does not keep these flags. */
static void skip_flagged(comparing *c) {
    const added_set *sets[] = {c->a->added, c->a->added_normalized, c->b->added,
                               c->b->added_normalized};
    for (size_t k = 0; k < ARRAY_LEN(sets); k++) {
        size_t n;
        const added_token *list = added_set_list(sets[k], &n);
        for (size_t i = 0; i < n; i++)
            if (list[i].id < tokenizer_vocab(c->a))
                c->skip[list[i].id] |= list[i].lstrip | list[i].rstrip | list[i].single_word;
    }
}

static bool is_plain(const comparing *c, int32_t id, strbuf *text) {
    strbuf_clear(text);
    if (c->skip[id] || tokenizer_is_special(c->a, id) || tokenizer_is_special(c->b, id))
        return false;
    tokenizer_bytes(c->a, id, text);
    return text->n > 0;
}

static void compare_pieces(comparing *c) {
    int32_t n = tokenizer_vocab(c->a);
    strbuf text = {0}, chain = {0};
    for (int32_t i = 0; i < n; i++) {
        if (!is_plain(c, i, &text)) continue;
        compare_text(c, strbuf_str(&text), ENCODE_PLAIN);
        /* far apart, so that words of all kinds meet */
        strbuf_clear(&chain);
        for (int32_t k = 0; k < CHAIN && i % CHAIN == 0; k++) {
            int32_t other = (int32_t)(((int64_t)i + (int64_t)k * 7919) % n);
            if (!is_plain(c, other, &text)) continue;
            strbuf_add(&chain, strbuf_str(&text));
            if (k % 3 == 0) strbuf_addc(&chain, ' ');
        }
        if (chain.n) compare_text(c, strbuf_str(&chain), ENCODE_PLAIN);
    }
    strbuf_done(&text);
    strbuf_done(&chain);
}

status tok_compare(const tokenizer *a, const tokenizer *b, bool few, int *ret_differ, error *err) {
    comparing c = {.a = a, .b = b};
    status st = OK;
    c.skip = mem_calloc((size_t)tokenizer_vocab(a) + 1, 1);
    skip_flagged(&c);
    compare_samples(&c);
    compare_pieces(&c);
    *ret_differ = c.n_differ;
    if (c.n_differ && (!few || c.n_differ > c.n / 1000)) {
        strbuf quoted = {0};
        strbuf_add_json(&quoted, strbuf_str(&c.first));
        st = error_set(err, ERR_UNSUPPORTED,
                       "it would tokenise %d of %d sample texts otherwise, such as " STR_FMT,
                       c.n_differ, c.n, STR_ARG(strbuf_str(&quoted)));
        strbuf_done(&quoted);
    }
    strbuf_done(&c.first);
    vec_done(&c.x);
    vec_done(&c.y);
    mem_free(c.skip);
    return st;
}
