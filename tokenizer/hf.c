/* tokenizer.json (the "fast" tokenizers of Hugging Face): the small parts go through jansson, the
 * vocabulary and the merges through jscan straight into the tables.
 *
 * Order matters: the model first (its vocabulary decides the ids of added tokens), then the
 * normaliser (added tokens may be matched in normal form), then the added tokens. */
#include "conf/limits.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/hf_bpe.h"
#include "tokenizer/jscan.h"
#include "tokenizer/tok.h"
#include "tokenizer/unigram.h"
#include "tokenizer/wordpiece.h"

typedef struct parts {
    str model, normalizer, pre_tokenizer, post_processor, decoder, added_tokens;
} parts;

typedef struct model_parts {
    str type, vocab, merges, unk_token, prefix, suffix, fuse_unk, byte_fallback, ignore_merges,
        dropout, unk_id, max_chars;
} model_parts;

static status parse_part(str raw, const char *name, json_t **ret, error *err) {
    *ret = NULL;
    if (!raw.p) return OK;
    status st = js_parse(raw, ret, err);
    if (st != OK) error_prefix(err, "%s", name);
    return st == OK ? OK : ERR_FORMAT;
}

/* ---- model ---- */

static str own(str t) {
    char *p = mem_alloc(t.n + 1);
    memcpy(p, t.p, t.n);
    return str_n(p, t.n);
}

/* A JSON string's value in fresh memory, {NULL,0} for null or "". */
static status own_string(str raw, const char *name, str *ret, error *err) {
    *ret = (str){0};
    if (!raw.p) return OK;
    jscan s;
    jscan_init(&s, raw);
    str v;
    if (jscan_string(&s, &v) && v.n) *ret = own(v);
    status st = jscan_status(&s, name, err);
    jscan_done(&s);
    return st;
}

/* Id of a token named in the model, -1 for null; an error if it is not in the vocabulary. */
static status token_id(str raw, const char *name, const vocab *v, int32_t *ret, error *err) {
    str t;
    *ret = -1;
    TRY(own_string(raw, name, &t, err));
    if (!t.p) return OK;
    *ret = vocab_id(v, t);
    status st = OK;
    if (*ret < 0)
        st = error_set(err, ERR_FORMAT, "%s \"" STR_FMT "\" is not in the vocabulary", name,
                       STR_ARG(t));
    mem_free((void *)t.p);
    return st;
}

static bool is_true(str raw) {
    return str_eqz(raw, "true");
}

static status read_bpe(const model_parts *p, tokenizer *t, error *err) {
    bpe *b = hf_bpe_make(t, pretok_bytes(t->pre));
    if (p->dropout.p && !str_eqz(p->dropout, "0.0") && !str_eqz(p->dropout, "0"))
        return error_set(err, ERR_UNSUPPORTED, "model.dropout is not supported (it is random)");
    b->fuse_unk = is_true(p->fuse_unk);
    b->byte_fallback = is_true(p->byte_fallback);
    b->ignore_merges = is_true(p->ignore_merges);
    TRY(own_string(p->prefix, "model.continuing_subword_prefix", &b->prefix, err));
    TRY(own_string(p->suffix, "model.end_of_word_suffix", &b->suffix, err));
    if (MAX(b->prefix.n, b->suffix.n) > BPE_AFFIX_MAX)
        return error_set(err, ERR_UNSUPPORTED, "model: a prefix or suffix of more than %d bytes",
                         BPE_AFFIX_MAX);
    TRY(hf_vocab(p->vocab, &t->pieces, err));
    TRY(token_id(p->unk_token, "model.unk_token", &t->pieces, &b->unk, err));
    if (p->merges.p) TRY(hf_merges(p->merges, &t->pieces, b, err));
    hf_bpe_finish(t, b);
    return OK;
}

static status read_model(str raw, tokenizer *t, error *err) {
    static const char *const names[] = {"type",
                                        "vocab",
                                        "merges",
                                        "unk_token",
                                        "continuing_subword_prefix",
                                        "end_of_word_suffix",
                                        "fuse_unk",
                                        "byte_fallback",
                                        "ignore_merges",
                                        "dropout",
                                        "unk_id",
                                        "max_input_chars_per_word"};
    model_parts p;
    _Static_assert(sizeof p == ARRAY_LEN(names) * sizeof(str), "one name for each part");
    if (!raw.p) return error_set(err, ERR_FORMAT, "there is no \"model\"");
    TRY(jscan_members(raw, "model", names, ARRAY_LEN(names), &p.type, err));
    if (!p.vocab.p) return error_set(err, ERR_FORMAT, "model: there is no \"vocab\"");
    /* Old files have no type: merges make a BPE, a list of pairs a Unigram. */
    bool bpe_like = str_eqz(p.type, "\"BPE\"") || (!p.type.p && p.merges.p);
    if (bpe_like) return read_bpe(&p, t, err);
    if (pretok_bytes(t->pre))
        return error_set(err, ERR_UNSUPPORTED,
                         "a ByteLevel pre_tokenizer is supported with BPE models only");
    if (str_eqz(p.type, "\"Unigram\"") || (!p.type.p && p.vocab.p[0] == '['))
        return unigram_read(p.vocab, p.unk_id, is_true(p.byte_fallback), t, err);
    if (str_eqz(p.type, "\"WordPiece\"")) {
        TRY(hf_vocab(p.vocab, &t->pieces, err));
        int32_t unk;
        str prefix;
        TRY(token_id(p.unk_token, "model.unk_token", &t->pieces, &unk, err));
        TRY(own_string(p.prefix, "model.continuing_subword_prefix", &prefix, err));
        int64_t max_chars;
        if (!str_to_i64(p.max_chars, &max_chars)) max_chars = 100;
        wordpiece_make(unk, prefix, max_chars, t);
        return OK;
    }
    if (str_eqz(p.type, "\"WordLevel\"")) {
        int32_t unk;
        TRY(hf_vocab(p.vocab, &t->pieces, err));
        TRY(token_id(p.unk_token, "model.unk_token", &t->pieces, &unk, err));
        wordlevel_make(unk, t);
        return OK;
    }
    return error_set(err, ERR_UNSUPPORTED, "model.type " STR_FMT " is not supported",
                     STR_ARG(p.type.p ? p.type : STR("(none)")));
}

/* ---- added tokens ---- */

/* The reference takes the id from the model's vocabulary if the token is there, else counts on
 * from the end; the file's id is the same in every file that the library wrote. */
static status read_added(str raw, tokenizer *t, error *err) {
    json_t *list;
    TRY(parse_part(raw, "added_tokens", &list, err));
    status st = OK;
    for (size_t i = 0; st == OK && i < json_array_size(list); i++) {
        json_t *j = json_array_get(list, i);
        added_spec a = {
            .id = (int32_t)MAX(-1, MIN(js_get_int(j, "id", -1), LIMIT_VOCAB)),
            .content = js_get_str(j, "content"),
            .special = js_get_bool(j, "special", false),
            .lstrip = js_get_bool(j, "lstrip", false),
            .rstrip = js_get_bool(j, "rstrip", false),
            .single_word = js_get_bool(j, "single_word", false),
        };
        a.normalized = js_get_bool(j, "normalized", !a.special);
        if (!a.content.n || a.id < 0 || a.id >= LIMIT_VOCAB)
            st = error_set(err, ERR_FORMAT, "added_tokens[%zu] needs content and an id", i);
        else
            st = tok_add(t, &a, err);
    }
    json_decref(list);
    return st;
}

/* ---- post-processor ---- */

typedef struct post {
    vec_i32 before, after;
} post;

static status template_token(const json_t *specials, str name, vec_i32 *out, error *err) {
    strbuf key = {0};
    strbuf_add(&key, name);
    json_t *ids = js_get(js_get(specials, key.p ? key.p : ""), "ids");
    strbuf_done(&key);
    for (size_t i = 0; i < json_array_size(ids); i++)
        vec_push(out, (int32_t)json_integer_value(json_array_get(ids, i)));
    if (json_array_size(ids)) return OK;
    return error_set(err, ERR_FORMAT,
                     "post_processor: no ids for the special token \"" STR_FMT "\"", STR_ARG(name));
}

static status post_template(const json_t *j, post *p, error *err) {
    json_t *single = js_get(j, "single"), *specials = js_get(j, "special_tokens");
    bool seen = false;
    for (size_t i = 0; i < json_array_size(single); i++) {
        json_t *item = json_array_get(single, i);
        str special = js_get_str(js_get(item, "SpecialToken"), "id");
        if (special.p)
            TRY(template_token(specials, special, seen ? &p->after : &p->before, err));
        else if (seen)
            return error_set(err, ERR_UNSUPPORTED,
                             "post_processor: a template with two sequences is not supported");
        else
            seen = true;
    }
    if (seen) return OK;
    return error_set(err, ERR_UNSUPPORTED, "post_processor: the template has no sequence");
}

static status post_pair(const json_t *j, post *p, error *err) {
    json_t *cls = json_array_get(js_get(j, "cls"), 1), *sep = json_array_get(js_get(j, "sep"), 1);
    if (!json_is_integer(cls) || !json_is_integer(sep))
        return error_set(err, ERR_FORMAT, "post_processor: cls and sep need ids");
    vec_push(&p->before, (int32_t)json_integer_value(cls));
    vec_push(&p->after, (int32_t)json_integer_value(sep));
    return OK;
}

static void add_trim(const json_t *j, tokenizer *t) {
    if (!js_get_bool(j, "trim_offsets", true) || t->n_trims == TOK_TRIMS) return;
    bool keep = js_get_bool(j, "add_prefix_space", true);
    t->trims[t->n_trims++] = TOK_TRIM | (keep ? TOK_TRIM_KEEP : 0);
}

static status read_post(const json_t *j, tokenizer *t, int depth, error *err) {
    str type = js_get_str(j, "type");
    if (j && (str_eqz(type, "ByteLevel") || str_eqz(type, "RobertaProcessing"))) add_trim(j, t);
    if (!j || str_eqz(type, "ByteLevel")) return OK;
    if (str_eqz(type, "Sequence") && depth < 8) {
        json_t *list = js_get(j, "processors");
        for (size_t i = 0; i < json_array_size(list); i++)
            TRY(read_post(json_array_get(list, i), t, depth + 1, err));
        return OK;
    }
    post p = {0};
    status st;
    if (str_eqz(type, "TemplateProcessing"))
        st = post_template(j, &p, err);
    else if (str_eqz(type, "BertProcessing") || str_eqz(type, "RobertaProcessing"))
        st = post_pair(j, &p, err);
    else
        st = error_set(err, ERR_UNSUPPORTED,
                       "post_processor: type \"" STR_FMT "\" is not supported", STR_ARG(type));
    /* A later processor goes around what the earlier ones made. */
    for (size_t i = 0; i < t->before.n; i++) vec_push(&p.before, t->before.p[i]);
    for (size_t i = 0; i < p.after.n; i++) vec_push(&t->after, p.after.p[i]);
    vec_done(&t->before);
    t->before = p.before;
    vec_done(&p.after);
    return st;
}

/* ---- all ---- */

static status read_small(const parts *p, tokenizer *t, error *err) {
    json_t *j = NULL;
    status st = parse_part(p->normalizer, "normalizer", &j, err);
    if (st == OK) st = normalizer_new(j, &t->norm, err);
    json_decref(j);
    TRY(st);
    st = parse_part(p->pre_tokenizer, "pre_tokenizer", &j, err);
    if (st == OK) st = pretok_new(j, &t->pre, err);
    json_decref(j);
    TRY(st);
    st = parse_part(p->decoder, "decoder", &j, err);
    if (st == OK) st = decoder_new(j, &t->dec, err);
    json_decref(j);
    TRY(st);
    st = parse_part(p->post_processor, "post_processor", &j, err);
    if (st == OK) st = read_post(j, t, 0, err);
    json_decref(j);
    return st;
}

status hf_open(str text, tokenizer **ret, error *err) {
    static const char *const names[] = {"model",          "normalizer", "pre_tokenizer",
                                        "post_processor", "decoder",    "added_tokens"};
    parts p;
    _Static_assert(sizeof p == ARRAY_LEN(names) * sizeof(str), "one name for each part");
    if (!utf8_valid(text.p ? text.p : "", text.n))
        return error_set(err, ERR_FORMAT, "the file is not valid UTF-8");
    TRY(jscan_members(text, "tokenizer.json", names, ARRAY_LEN(names), &p.model, err));
    tokenizer *t = tok_new();
    status st = read_small(&p, t, err);
    if (st == OK) st = read_model(p.model, t, err);
    if (st == OK) st = read_added(p.added_tokens, t, err);
    if (st != OK) {
        tokenizer_free(t);
        return st;
    }
    tok_finish(t);
    *ret = t;
    return OK;
}
