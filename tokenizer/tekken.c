/* Mistral's tekken.json: ranks as a JSON list, a split pattern, and special tokens, whose ids come
 * first: rank r of the vocabulary has the id r + default_num_special_tokens, and of the list only
 * as many entries count as default_vocab_size leaves room for.
 *
 * Mistral's own code never looks for special tokens in text, for it builds prompts from ids. Here
 * they are recognised, as in the tokenizer.json that is made of this file, since prompts are
 * rendered as text. */
#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/jscan.h"
#include "tokenizer/tok.h"

typedef struct reading {
    tokenizer *t;
    int64_t n_special, n_vocab; /* the latter without the special ones */
    strbuf bytes, b64;
} reading;

static status read_sizes(const json_t *config, reading *r, error *err) {
    int64_t all = js_get_int(config, "default_vocab_size", -1);
    r->n_special = js_get_int(config, "default_num_special_tokens", -1);
    if (all < 0 || all > LIMIT_VOCAB || r->n_special < 0 || r->n_special > all)
        return error_set(err, ERR_FORMAT,
                         "config: default_vocab_size %lld and default_num_special_tokens %lld do "
                         "not fit",
                         (long long)all, (long long)r->n_special);
    r->n_vocab = all - r->n_special;
    return OK;
}

static bool read_entry(jscan *s, int64_t *rank, strbuf *b64) {
    str key, value;
    *rank = -1;
    strbuf_clear(b64);
    if (!jscan_enter(s, '{')) return false;
    while (jscan_more(s, '}')) {
        if (!jscan_key(s, &key)) return false;
        bool is_rank = str_eqz(key, "rank"), is_bytes = str_eqz(key, "token_bytes");
        bool ok = is_rank    ? jscan_int(s, rank)
                  : is_bytes ? jscan_string(s, &value) && strbuf_add(b64, value)
                             : jscan_raw(s, &value);
        if (!ok) return false;
    }
    return !s->want;
}

static status put_entry(reading *r, int64_t rank, size_t i, error *err) {
    if (rank >= r->n_vocab) return OK; /* of a larger vocabulary than this one */
    strbuf_clear(&r->bytes);
    if (rank < 0 || !base64_decode(strbuf_str(&r->b64), &r->bytes) || !r->bytes.n)
        return error_set(err, ERR_FORMAT, "vocab[%zu] needs a rank and token_bytes", i);
    if (!vocab_put(&r->t->pieces, (int32_t)(rank + r->n_special), strbuf_str(&r->bytes)))
        return error_set(err, ERR_TOO_LARGE, "vocab is too large");
    return OK;
}

static status read_vocab(str raw, reading *r, error *err) {
    jscan s;
    jscan_init(&s, raw);
    status st = OK;
    int64_t rank;
    size_t i = 0;
    if (jscan_enter(&s, '['))
        while (st == OK && jscan_more(&s, ']') && read_entry(&s, &rank, &r->b64))
            st = put_entry(r, rank, i++, err);
    if (st == OK) st = jscan_status(&s, "vocab", err);
    jscan_done(&s);
    return st;
}

static status put_special(reading *r, int64_t id, str name, error *err) {
    if (id < 0 || id >= r->n_special || !name.n)
        return error_set(err, ERR_FORMAT, "special_tokens: \"" STR_FMT "\" has the rank %lld",
                         STR_ARG(str_cut(name, 0, MIN(name.n, (size_t)60))), (long long)id);
    TRY(tok_put_special(r->t, (int32_t)id, name, err));
    added_set_add(r->t->added, &(added_token){.id = (int32_t)id, .pattern = name});
    return OK;
}

/* What files of before version 11 mean without saying it. */
static status put_implied(reading *r, error *err) {
    static const char *const names[] = {"<unk>",
                                        "<s>",
                                        "</s>",
                                        "[INST]",
                                        "[/INST]",
                                        "[AVAILABLE_TOOLS]",
                                        "[/AVAILABLE_TOOLS]",
                                        "[TOOL_RESULTS]",
                                        "[/TOOL_RESULTS]",
                                        "[TOOL_CALLS]",
                                        "[IMG]",
                                        "<pad>",
                                        "[IMG_BREAK]",
                                        "[IMG_END]",
                                        "[PREFIX]",
                                        "[MIDDLE]",
                                        "[SUFFIX]",
                                        "[SYSTEM_PROMPT]",
                                        "[/SYSTEM_PROMPT]",
                                        "[TOOL_CONTENT]"};
    for (size_t i = 0; i < ARRAY_LEN(names) && (int64_t)i < r->n_special; i++)
        TRY(put_special(r, (int64_t)i, str_z(names[i]), err));
    return OK;
}

static status put_specials(const json_t *list, reading *r, error *err) {
    if (!json_array_size(list)) TRY(put_implied(r, err));
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *j = json_array_get(list, i);
        TRY(put_special(r, js_get_int(j, "rank", -1), js_get_str(j, "token_str"), err));
    }
    for (int64_t id = 0; id < r->n_special; id++) {
        char name[32];
        snprintf(name, sizeof name, "<SPECIAL_%d>", (int)id);
        if (!vocab_piece(&r->t->pieces, (int32_t)id).p) TRY(put_special(r, id, str_z(name), err));
    }
    return OK;
}

static status parse_part(str raw, const char *name, json_t **ret, error *err) {
    *ret = NULL;
    if (!raw.p) return OK;
    status st = js_parse(raw, ret, err);
    if (st != OK) error_prefix(err, "%s", name);
    return st == OK ? OK : ERR_FORMAT;
}

static status read_pattern(const json_t *config, tokenizer *t, error *err) {
    json_t *j = js_get(config, "pattern");
    const char *pattern = json_string_value(j);
    if (!pattern || strlen(pattern) != json_string_length(j))
        return error_set(err, ERR_FORMAT, "config: there is no pattern");
    return pretok_of_regexes(&pattern, 1, &t->pre, err);
}

static status read_all(str text, reading *r, error *err) {
    static const char *const names[] = {"config", "vocab", "special_tokens"};
    str part[3];
    json_t *config, *specials = NULL;
    if (!utf8_valid(text.p ? text.p : "", text.n))
        return error_set(err, ERR_FORMAT, "the file is not valid UTF-8");
    TRY(jscan_members(text, "tekken.json", names, 3, part, err));
    TRY(parse_part(part[0], "config", &config, err));
    status st = parse_part(part[2], "special_tokens", &specials, err);
    if (st == OK) st = read_sizes(config, r, err);
    if (st == OK) st = read_pattern(config, r->t, err);
    if (st == OK && !part[1].p) st = error_set(err, ERR_FORMAT, "there is no \"vocab\"");
    if (st == OK) st = read_vocab(part[1], r, err);
    if (st == OK) st = rank_model(r->t, err);
    if (st == OK) st = put_specials(specials, r, err);
    json_decref(config);
    json_decref(specials);
    return st;
}

status tekken_open(str text, tokenizer **ret, error *err) {
    tokenizer *t = tok_new();
    reading r = {.t = t};
    t->raw_is_stored = true;
    status st = read_all(text, &r, err);
    strbuf_done(&r.bytes);
    strbuf_done(&r.b64);
    if (st != OK) {
        tokenizer_free(t);
        return st;
    }
    t->bos = vocab_id(&t->pieces, STR("<s>"));
    t->eos = vocab_id(&t->pieces, STR("</s>"));
    if (t->bos >= 0) vec_push(&t->before, t->bos);
    tok_finish(t);
    *ret = t;
    return OK;
}
