/* A table as the files of a Hugging Face model directory. Whatever container the vocabulary came
 * from, it becomes a tokenizer.json: that is the one file that says everything, and that any
 * version of the library reads alike. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/json.h"
#include "engine/base/utf8.h"
#include "tokenizer/gguf_tok.h"
#include "tokenizer/table_parts.h"

#define MARK "\u2581"

typedef struct writing {
    const tok_table *t;
    strbuf *out;
    json_t *normalizer, *pre, *decoder; /* owned; NULL: null */
    bool bos, sep, eos;                 /* what goes around */
} writing;

static bool said(int8_t value, bool fallback) {
    return value == TOK_UNSAID ? fallback : value;
}

static bool is_added(const tok_table *t, int32_t id) {
    uint8_t type = t->types[id];
    return t->pieces[id].n && (type == SPM_CONTROL || type == SPM_USER || type == SPM_UNKNOWN);
}

/* Filler for rows without a token; a Unigram's list has no holes. */
static bool is_hole(const tok_table *t, int32_t id) {
    char hole[24];
    snprintf(hole, sizeof hole, "[PAD%d]", id);
    return !t->pieces[id].n || (t->types[id] == SPM_UNUSED && str_eqz(t->pieces[id], hole));
}

static void put_json(strbuf *out, const char *key, json_t *value) {
    strbuf_addf(out, ",\n  \"%s\": ", key);
    if (value)
        strbuf_add_js(out, value);
    else
        strbuf_addz(out, "null");
}

/* ---- models ---- */

static void put_vocab(writing *w, bool words) {
    strbuf piece = {0};
    const char *comma = "";
    strbuf_addz(w->out, "\"vocab\": {");
    for (int32_t id = 0; id < w->t->n; id++) {
        if (is_hole(w->t, id)) continue;
        if (words) gguf_word_piece(w->t->pieces[id], w->t->types[id], &piece);
        strbuf_addf(w->out, "%s\n      ", comma);
        strbuf_add_json(w->out, words ? strbuf_str(&piece) : w->t->pieces[id]);
        strbuf_addf(w->out, ": %d", id);
        comma = ",";
    }
    strbuf_addz(w->out, "}");
    strbuf_done(&piece);
}

static void put_unk(writing *w) {
    int32_t unk = w->t->ids[TOK_UNK];
    strbuf_addz(w->out, "\"unk_token\": ");
    if (unk >= 0 && w->t->pieces[unk].n)
        strbuf_add_json(w->out, w->t->pieces[unk]);
    else
        strbuf_addz(w->out, "null");
    strbuf_addz(w->out, ", ");
}

static void put_merge_list(writing *w, const str *merges, size_t n) {
    strbuf_addz(w->out, ",\n    \"merges\": [");
    for (size_t i = 0; i < n; i++) {
        strbuf_addz(w->out, i ? ",\n      " : "\n      ");
        strbuf_add_json(w->out, merges[i]);
    }
    strbuf_addz(w->out, "]");
}

static status put_gpt2(writing *w, error *err) {
    gguf_pre implied;
    if (!w->t->merges)
        return error_set(err, ERR_FORMAT, "tokenizer.ggml.merges is not a list of strings");
    TRY(gguf_pre_json(w->t->pre, &implied, &w->pre, &w->normalizer, err));
    w->bos = said(w->t->add_bos, implied.bos);
    w->sep = said(w->t->add_sep, implied.sep);
    w->decoder = json_pack("{s:s,s:b,s:b,s:b}", "type", "ByteLevel", "add_prefix_space", 1,
                           "trim_offsets", 1, "use_regex", 1);
    strbuf_addf(w->out,
                "{\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
                "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, "
                "\"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": %s,\n    ",
                implied.ignore_merges ? "true" : "false");
    put_vocab(w, false);
    put_merge_list(w, w->t->merges, w->t->n_merges);
    return OK;
}

/* A merge of SentencePiece's BPE: any two pieces that make a third, ranked by the third's score. */
typedef struct split_of {
    float score;
    int32_t id;
    uint32_t at; /* bytes of the left part */
} split_of;

static int by_score(const void *a, const void *b) {
    const split_of *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? 1 : -1;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return (x->at > y->at) - (x->at < y->at);
}

static void put_spm_merges(writing *w) {
    const tok_table *t = w->t;
    vocab v = {0};
    VEC(split_of) list = {0};
    for (int32_t id = 0; id < t->n; id++)
        if (t->pieces[id].n && t->types[id] == SPM_NORMAL) vocab_put(&v, id, t->pieces[id]);
    for (int32_t id = 0; id < t->n; id++) {
        str s = t->pieces[id];
        if (t->types[id] != SPM_NORMAL || vocab_id(&v, s) != id) continue;
        for (uint32_t at = 1; at < s.n; at++) {
            if (((unsigned char)s.p[at] & 0xC0) == 0x80) continue;
            if (vocab_id(&v, str_cut(s, 0, at)) < 0 || vocab_id(&v, str_cut(s, at, s.n)) < 0)
                continue;
            vec_push(&list, ((split_of){t->scores ? t->scores[id] : 0, id, at}));
        }
    }
    if (list.n) qsort(list.p, list.n, sizeof *list.p, by_score);
    strbuf_addz(w->out, ",\n    \"merges\": [");
    for (size_t i = 0; i < list.n; i++) {
        str s = t->pieces[list.p[i].id];
        strbuf_addz(w->out, i ? ",\n      [" : "\n      [");
        strbuf_add_json(w->out, str_cut(s, 0, list.p[i].at));
        strbuf_addc(w->out, ',');
        strbuf_add_json(w->out, str_cut(s, list.p[i].at, s.n));
        strbuf_addc(w->out, ']');
    }
    strbuf_addz(w->out, "]");
    vec_done(&list);
    vocab_done(&v);
}

static json_t *replace(const char *kind, const char *from, const char *to) {
    return json_pack("{s:s,s:{s:s},s:s}", "type", "Replace", "pattern", kind, from, "content", to);
}

static void put_base64(str raw, strbuf *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < raw.n; i += 3) {
        uint32_t x = 0;
        size_t n = MIN(raw.n - i, (size_t)3);
        for (size_t k = 0; k < 3; k++) x = x << 8 | (k < n ? (uint8_t)raw.p[i + k] : 0);
        for (size_t k = 0; k < 4; k++)
            strbuf_addc(out, k <= n ? digits[x >> (18 - 6 * k) & 63] : '=');
    }
}

/* What SentencePiece does before its model: the map, and white space that is too much. */
static json_t *spm_normalizers(const tok_table *t, bool collapse) {
    json_t *list = json_array();
    if (t->charsmap.n) {
        strbuf b = {0};
        put_base64(t->charsmap, &b);
        json_array_append_new(list, json_pack("{s:s,s:s#}", "type", "Precompiled",
                                              "precompiled_charsmap", b.p, (int)b.n));
        strbuf_done(&b);
    }
    if (!collapse) return list;
    json_array_append_new(
        list, json_pack("{s:s,s:b,s:b}", "type", "Strip", "strip_left", 1, "strip_right", 1));
    json_array_append_new(list, replace("Regex", " {2,}", " "));
    return list;
}

static bool has_bytes(const tok_table *t) {
    for (int32_t id = 0; id < t->n; id++)
        if (t->types[id] == SPM_BYTE) return true;
    return false;
}

static status put_llama(writing *w, error *err) {
    const tok_table *t = w->t;
    bool prefix = said(t->add_space_prefix, true);
    json_t *steps = spm_normalizers(t, said(t->remove_extra_spaces, false)), *back = json_array();
    if (prefix)
        json_array_append_new(steps, json_pack("{s:s,s:s}", "type", "Prepend", "prepend", MARK));
    json_array_append_new(steps, replace("String", " ", MARK));
    w->normalizer = json_pack("{s:s,s:o}", "type", "Sequence", "normalizers", steps);
    json_array_append_new(back, replace("String", MARK, " "));
    json_array_append_new(back, json_pack("{s:s}", "type", "ByteFallback"));
    json_array_append_new(back, json_pack("{s:s}", "type", "Fuse"));
    if (prefix)
        json_array_append_new(back, json_pack("{s:s,s:s,s:i,s:i}", "type", "Strip", "content", " ",
                                              "start", 1, "stop", 0));
    w->decoder = json_pack("{s:s,s:o}", "type", "Sequence", "decoders", back);
    w->bos = said(t->add_bos, true);
    strbuf_addz(w->out, "{\"type\": \"BPE\", \"dropout\": null, ");
    put_unk(w);
    strbuf_addf(w->out,
                "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, "
                "\"fuse_unk\": true, \"byte_fallback\": %s, \"ignore_merges\": false,\n    ",
                has_bytes(t) ? "true" : "false");
    put_vocab(w, false);
    put_spm_merges(w);
    return OK;
}

static status put_t5(writing *w, error *err) {
    const tok_table *t = w->t;
    const char *scheme = said(t->add_space_prefix, true) ? "always" : "never";
    json_t *steps = spm_normalizers(t, said(t->remove_extra_spaces, true));
    w->normalizer = json_pack("{s:s,s:o}", "type", "Sequence", "normalizers", steps);
    w->pre = json_pack("{s:s,s:s,s:s,s:b}", "type", "Metaspace", "replacement", MARK,
                       "prepend_scheme", scheme, "split", 0);
    w->decoder = json_copy(w->pre);
    w->bos = said(t->add_bos, false);
    w->eos = said(t->add_eos, true);
    strbuf_addz(w->out, "{\"type\": \"Unigram\", \"unk_id\": ");
    if (t->ids[TOK_UNK] >= 0)
        strbuf_addf(w->out, "%d", t->ids[TOK_UNK]);
    else
        strbuf_addz(w->out, "null");
    strbuf_addf(w->out, ", \"byte_fallback\": %s,\n    \"vocab\": [",
                has_bytes(t) ? "true" : "false");
    for (int32_t id = 0; id < t->n; id++) {
        strbuf_addz(w->out, id ? ",\n      [" : "\n      [");
        strbuf_add_json(w->out, t->pieces[id]);
        strbuf_addf(w->out, ", %.9g]", t->scores ? (double)t->scores[id] : 0.0);
    }
    strbuf_addz(w->out, "]");
    return OK;
}

static status put_bert(writing *w, error *err) {
    bool lower = gguf_words_lower(w->t);
    w->normalizer =
        json_pack("{s:s,s:b,s:b,s:b,s:b}", "type", "BertNormalizer", "clean_text", 1,
                  "handle_chinese_chars", 1, "strip_accents", (int)lower, "lowercase", (int)lower);
    w->pre = json_pack("{s:s}", "type", "BertPreTokenizer");
    w->decoder = json_pack("{s:s,s:s,s:b}", "type", "WordPiece", "prefix", "##", "cleanup", 1);
    w->bos = said(w->t->add_bos, true);
    w->sep = said(w->t->add_sep, true);
    strbuf_addz(w->out, "{\"type\": \"WordPiece\", ");
    put_unk(w);
    strbuf_addz(w->out, "\"continuing_subword_prefix\": \"##\", "
                        "\"max_input_chars_per_word\": 100,\n    ");
    put_vocab(w, true);
    return OK;
}

static status put_model(writing *w, error *err) {
    static const struct {
        const char *name;
        status (*put)(writing *w, error *err);
    } models[] = {{"gpt2", put_gpt2}, {"llama", put_llama}, {"t5", put_t5}, {"bert", put_bert}};
    w->eos = said(w->t->add_eos, false);
    for (size_t i = 0; i < ARRAY_LEN(models); i++)
        if (str_eqz(w->t->model, models[i].name)) return models[i].put(w, err);
    return error_set(err, ERR_UNSUPPORTED, "tokenizer.ggml.model \"" STR_FMT "\" is not supported",
                     STR_ARG(w->t->model));
}

/* ---- the rest of tokenizer.json ---- */

static void put_added(writing *w) {
    const tok_table *t = w->t;
    const char *comma = "";
    strbuf_addz(w->out, ",\n  \"added_tokens\": [");
    for (int32_t id = 0; id < t->n; id++) {
        if (!is_added(t, id)) continue;
        str s = t->pieces[id];
        bool plain = str_eqz(s, "<unk>") || str_eqz(s, "<s>") || str_eqz(s, "<|endoftext|>");
        strbuf_addf(w->out, "%s\n    {\"id\": %d, \"content\": ", comma, id);
        strbuf_add_json(w->out, s);
        strbuf_addf(w->out,
                    ", \"single_word\": false, \"lstrip\": false, \"rstrip\": %s, "
                    "\"normalized\": false, \"special\": %s}",
                    t->rstrip && !plain ? "true" : "false",
                    t->types[id] == SPM_USER ? "false" : "true");
        comma = ",";
    }
    strbuf_addz(w->out, "]");
}

static void put_end(writing *w, int32_t id, json_t *list, json_t *specials, int type_id) {
    str s = w->t->pieces[id];
    json_t *name = json_stringn(s.p, s.n);
    json_array_append_new(
        list, json_pack("{s:{s:O,s:i}}", "SpecialToken", "id", name, "type_id", type_id));
    json_object_setn_new(specials, s.p, s.n,
                         json_pack("{s:O,s:[i],s:[O]}", "id", name, "ids", id, "tokens", name));
    json_decref(name);
}

/* The template for one text, or the second half of that for a pair. */
static void put_sequence(writing *w, const char *which, int type_id, bool first, json_t *list,
                         json_t *specials) {
    const int32_t *ids = w->t->ids;
    int32_t bos = ids[TOK_BOS] >= 0 ? ids[TOK_BOS] : ids[TOK_CLS],
            sep = ids[TOK_SEP] >= 0 ? ids[TOK_SEP] : ids[TOK_EOS];
    if (first && w->bos && bos >= 0) put_end(w, bos, list, specials, type_id);
    json_array_append_new(list,
                          json_pack("{s:{s:s,s:i}}", "Sequence", "id", which, "type_id", type_id));
    if (w->sep && sep >= 0) put_end(w, sep, list, specials, type_id);
    if (w->eos && ids[TOK_EOS] >= 0) put_end(w, ids[TOK_EOS], list, specials, type_id);
}

static json_t *post_processor(writing *w) {
    json_t *single = json_array(), *pair = json_array(), *specials = json_object();
    put_sequence(w, "A", 0, true, single, specials);
    put_sequence(w, "A", 0, true, pair, specials);
    put_sequence(w, "B", 1, false, pair, specials);
    if (json_array_size(single) > 1)
        return json_pack("{s:s,s:o,s:o,s:o}", "type", "TemplateProcessing", "single", single,
                         "pair", pair, "special_tokens", specials);
    json_decref(single);
    json_decref(pair);
    json_decref(specials);
    return NULL;
}

static status put_tokenizer(const tok_table *t, strbuf *out, error *err) {
    strbuf made = {0};
    writing w = {.t = t, .out = &made};
    status st = put_model(&w, err);
    w.out = out;
    if (st == OK) {
        json_t *post = post_processor(&w);
        strbuf_addz(out, "{\n  \"version\": \"1.0\", \"truncation\": null, \"padding\": null");
        put_added(&w);
        put_json(out, "normalizer", w.normalizer);
        put_json(out, "pre_tokenizer", w.pre);
        put_json(out, "post_processor", post);
        put_json(out, "decoder", w.decoder);
        strbuf_addz(out, ",\n  \"model\": ");
        strbuf_add(out, strbuf_str(&made));
        strbuf_addz(out, "}\n}\n");
        json_decref(post);
    }
    json_decref(w.normalizer);
    json_decref(w.pre);
    json_decref(w.decoder);
    strbuf_done(&made);
    return st;
}

/* ---- the small files ---- */

static void put_pretty(json_t *j, strbuf *out) {
    char *text = json_dumps(j, JSON_INDENT(2));
    strbuf_addf(out, "%s\n", text ? text : "{}");
    free(text);
    json_decref(j);
}

static void put_config(const tok_table *t, strbuf *out) {
    json_t *j = json_object();
    json_object_set_new(j, "tokenizer_class", json_string("PreTrainedTokenizerFast"));
    json_object_set_new(j, "clean_up_tokenization_spaces", json_false());
    for (int i = 0; i < TOK_IDS; i++) {
        char key[24];
        int32_t id = t->ids[i];
        if (!tok_id_names[i].hf || id < 0 || !t->pieces[id].n) continue;
        snprintf(key, sizeof key, "%s_token", tok_id_names[i].hf);
        json_object_set_new(j, key, json_stringn(t->pieces[id].p, t->pieces[id].n));
    }
    if (t->chat_template.n)
        json_object_set_new(j, "chat_template",
                            json_stringn(t->chat_template.p, t->chat_template.n));
    put_pretty(j, out);
}

static void put_generation(const tok_table *t, strbuf *out) {
    static const tok_id ends[] = {TOK_EOS, TOK_EOT, TOK_EOM};
    json_t *j = json_object(), *eos = json_array();
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        bool known = t->ids[ends[i]] < 0;
        for (size_t k = 0; k < i && !known; k++) known = t->ids[ends[k]] == t->ids[ends[i]];
        if (!known) json_array_append_new(eos, json_integer(t->ids[ends[i]]));
    }
    if (t->ids[TOK_BOS] >= 0) json_object_set_new(j, "bos_token_id", json_integer(t->ids[TOK_BOS]));
    if (json_array_size(eos)) json_object_set(j, "eos_token_id", eos);
    if (t->ids[TOK_PAD] >= 0) json_object_set_new(j, "pad_token_id", json_integer(t->ids[TOK_PAD]));
    json_decref(eos);
    put_pretty(j, out);
}

/* ---- all ---- */

static status check_text(const tok_table *t, error *err) {
    for (int32_t id = 0; id < t->n; id++)
        if (!utf8_valid(t->pieces[id].p ? t->pieces[id].p : "", t->pieces[id].n))
            return error_set(err, ERR_UNSUPPORTED,
                             "token %d is not UTF-8: tokenizer.json cannot hold it", id);
    return OK;
}

static status check(const tok_table *t, str text, error *err) {
    tokenizer *from = NULL, *made = NULL;
    int differ;
    status st = tok_table_open(t, &from, err);
    if (st == OK) st = hf_open(text, &made, err);
    if (st == OK) st = tok_compare(from, made, str_eqz(t->model, "t5"), &differ, err);
    tokenizer_free(from);
    tokenizer_free(made);
    return st;
}

status tok_table_files(const tok_table *t, const char *name, tok_files_text *ret, error *err) {
    *ret = (tok_files_text){0};
    status st = check_text(t, err);
    if (st == OK) st = put_tokenizer(t, &ret->tokenizer, err);
    if (st == OK) st = check(t, strbuf_str(&ret->tokenizer), err);
    if (st != OK) {
        error_prefix(err, "%s: its tokenizer as tokenizer.json", name);
        tok_files_text_done(ret);
        return st;
    }
    put_config(t, &ret->config);
    put_generation(t, &ret->generation);
    return OK;
}

void tok_files_text_done(tok_files_text *f) {
    strbuf_done(&f->tokenizer);
    strbuf_done(&f->config);
    strbuf_done(&f->generation);
}
