/* vocab.txt is what old BERT checkpoints ship; tokenizer_config.json says how text is normalised.
 */
#include "tokenizer/bert.h"

#include "conf/limits.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/wordpiece.h"

status bert_make(tokenizer *t, const bert_options *o, error *err) {
    json_t *norm = json_pack("{s:s,s:b,s:b,s:b,s:b}", "type", "BertNormalizer", "clean_text", 1,
                             "handle_chinese_chars", o->chinese, "strip_accents", o->strip_accents,
                             "lowercase", o->lowercase),
           *pre = json_pack("{s:s}", "type", "BertPreTokenizer"),
           *dec = json_pack("{s:s,s:s,s:b}", "type", "WordPiece", "prefix", "##", "cleanup", 1);
    status st = normalizer_new(norm, &t->norm, err);
    if (st == OK) st = pretok_new(pre, &t->pre, err);
    if (st == OK) st = decoder_new(dec, &t->dec, err);
    json_decref(norm);
    json_decref(pre);
    json_decref(dec);
    TRY(st);
    char *prefix = mem_strdup("##");
    int32_t unk = o->unk >= 0 ? o->unk : vocab_id(&t->pieces, STR("[UNK]"));
    wordpiece_make(unk, str_z(prefix), 100, t);
    return OK;
}

static status read_lines(str text, tokenizer *t, error *err) {
    int32_t id = 0;
    for (size_t at = 0; at < text.n; id++) {
        ptrdiff_t nl = str_find(text, STR("\n"), at);
        size_t end = nl < 0 ? text.n : (size_t)nl;
        str line = str_cut(text, at, end);
        if (line.n && line.p[line.n - 1] == '\r') line.n--;
        at = end + 1;
        if (id >= LIMIT_VOCAB || (line.n && !vocab_put(&t->pieces, id, line)))
            return error_set(err, ERR_TOO_LARGE, "more than %d pieces", LIMIT_VOCAB);
    }
    return id ? OK : error_set(err, ERR_FORMAT, "there are no pieces");
}

static status add_specials(tokenizer *t, error *err) {
    static const char *const names[] = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        int32_t id = vocab_id(&t->pieces, str_z(names[i]));
        added_spec a = {.id = id, .content = str_z(names[i]), .special = true};
        if (id >= 0) TRY(tok_add(t, &a, err));
    }
    int32_t cls = vocab_id(&t->pieces, STR("[CLS]")), sep = vocab_id(&t->pieces, STR("[SEP]"));
    if (cls >= 0) vec_push(&t->before, cls);
    if (sep >= 0) vec_push(&t->after, sep);
    return OK;
}

status bert_open(str vocab_txt, const json_t *config, tokenizer **ret, error *err) {
    tokenizer *t = tok_new();
    bert_options o = {.unk = -1,
                      .lowercase = js_get_bool(config, "do_lower_case", true),
                      .chinese = js_get_bool(config, "tokenize_chinese_chars", true)};
    o.strip_accents = js_get_bool(config, "strip_accents", o.lowercase);
    status st = read_lines(vocab_txt, t, err);
    if (st == OK) st = bert_make(t, &o, err);
    if (st == OK) st = add_specials(t, err);
    if (st != OK) {
        tokenizer_free(t);
        return st;
    }
    tok_finish(t);
    *ret = t;
    return OK;
}
