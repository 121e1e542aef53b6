/* vocab.json with merges.txt: GPT-2's own form of a byte-level BPE. What a tokenizer.json would say
 * about splitting and decoding is fixed for it. */
#include "engine/base/json.h"
#include "engine/base/utf8.h"
#include "tokenizer/hf_bpe.h"
#include "tokenizer/patterns.h"

static status fill(str vocab_json, str merges_txt, tokenizer *t, error *err) {
    bpe *b = hf_bpe_make(t, true);
    if (!utf8_valid(vocab_json.p ? vocab_json.p : "", vocab_json.n) ||
        !utf8_valid(merges_txt.p ? merges_txt.p : "", merges_txt.n))
        return error_set(err, ERR_FORMAT, "vocab.json or merges.txt is not valid UTF-8");
    TRY(pretok_of_regexes((const char *[]){PATTERN_GPT2}, 1, &t->pre, err));
    TRY(hf_vocab(vocab_json, &t->pieces, err));
    TRY(hf_merges_text(merges_txt, &t->pieces, b, err));
    hf_bpe_finish(t, b);
    t->dec = decoder_of_bytes();
    int32_t end = vocab_id(&t->pieces, STR("<|endoftext|>"));
    if (end < 0) return OK;
    t->bos = t->eos = end;
    return tok_add(t, &(added_spec){.id = end, .content = STR("<|endoftext|>"), .special = true},
                   err);
}

status gpt2files_open(str vocab_json, str merges_txt, tokenizer **ret, error *err) {
    tokenizer *t = tok_new();
    status st = fill(vocab_json, merges_txt, t, err);
    if (st != OK) {
        tokenizer_free(t);
        return st;
    }
    tok_finish(t);
    *ret = t;
    return OK;
}
