/* tiktoken rank files: one "base64 rank" a line. A rank is the token's id and, as merges go by the
 * rank of the token they make, all that BPE needs. A word that is a token itself is that token.
 *
 * The file says nothing about splitting: the pattern comes from an option by name. Special tokens
 * are not in it either; a bare rank file has none. */
#include "conf/limits.h"
#include "engine/base/mem.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/patterns.h"
#include "tokenizer/tok.h"

static const struct {
    const char *name, *pattern;
} patterns[] = {
    {"cl100k", PATTERN_LLAMA3}, {"llama3", PATTERN_LLAMA3}, {"glm4", PATTERN_LLAMA3},
    {"qwen2", PATTERN_QWEN2},   {"o200k", PATTERN_O200K},   {"llama4", PATTERN_O200K},
};

static status pattern_of(const char *name, const char **ret, error *err) {
    for (size_t i = 0; name && i < ARRAY_LEN(patterns); i++)
        if (strcmp(name, patterns[i].name) == 0) {
            *ret = patterns[i].pattern;
            return OK;
        }
    return error_set(err, ERR_INVALID,
                     "a rank file needs a pre-tokenizer (cl100k, o200k, llama3, llama4, qwen2 or "
                     "glm4)%s%s",
                     name ? ", not " : "", name ? name : "");
}

static status read_line(str line, size_t number, tokenizer *t, strbuf *bytes, error *err) {
    ptrdiff_t space = str_find(line, STR(" "), 0);
    int64_t rank = -1;
    strbuf_clear(bytes);
    if (space < 0 || !base64_decode(str_cut(line, 0, (size_t)space), bytes) || !bytes->n ||
        !str_to_i64(str_cut(line, (size_t)space + 1, line.n), &rank) || rank < 0 ||
        rank >= LIMIT_VOCAB)
        return error_set(err, ERR_FORMAT, "line %zu: expected a base64 token and its rank", number);
    if (!vocab_put(&t->pieces, (int32_t)rank, strbuf_str(bytes)))
        return error_set(err, ERR_TOO_LARGE, "the tokens are too large");
    return OK;
}

static status read_ranks(str text, tokenizer *t, error *err) {
    strbuf bytes = {0};
    status st = OK;
    size_t number = 0;
    vocab_reserve(&t->pieces, (int32_t)MIN(text.n / 12, (size_t)LIMIT_VOCAB), text.n);
    for (size_t at = 0; st == OK && at < text.n;) {
        ptrdiff_t nl = str_find(text, STR("\n"), at);
        size_t end = nl < 0 ? text.n : (size_t)nl;
        str line = str_trim(str_cut(text, at, end));
        at = end + 1;
        number++;
        if (line.n) st = read_line(line, number, t, &bytes, err);
    }
    strbuf_done(&bytes);
    return st;
}

static void bpe_free_(void *self) {
    bpe_done(self);
    mem_free(self);
}

static void bpe_encode_(const void *self, str word, vec_i32 *ids) {
    bpe_encode(self, word, ids);
}

static void bpe_spans_(const void *self, str word, vec_i32 *ids, span_vec *spans) {
    bpe_spans(self, word, ids, spans);
}

status rank_model(tokenizer *t, error *err) {
    bpe *b = mem_calloc(1, sizeof *b);
    bpe_init(b);
    t->model = (model){"bpe (ranks)", b, bpe_encode_, bpe_spans_, bpe_free_};
    b->bytes = b->ignore_merges = true;
    vocab_reserve(&b->whole, t->pieces.n, t->pieces.bytes.n);
    for (int32_t id = 0; id < t->pieces.n; id++) {
        str s = vocab_piece(&t->pieces, id);
        if (s.p) vocab_put(&b->whole, id, s);
    }
    for (int i = 0; i < 256; i++) {
        b->byte_id[i] = vocab_id(&t->pieces, str_n((char[]){(char)i}, 1));
        if (b->byte_id[i] < 0)
            return error_set(err, ERR_FORMAT, "there is no token for the byte 0x%02X", i);
    }
    bpe_pairs_from_ranks(b, &b->whole);
    t->dec = decoder_of_bytes();
    return OK;
}

status tiktoken_open(str text, const char *pretokenizer, tokenizer **ret, error *err) {
    const char *pattern;
    TRY(pattern_of(pretokenizer, &pattern, err));
    tokenizer *t = tok_new();
    t->raw_is_stored = true;
    status st = read_ranks(text, t, err);
    if (st == OK) st = pretok_of_regexes(&pattern, 1, &t->pre, err);
    if (st == OK) st = rank_model(t, err);
    if (st != OK) {
        tokenizer_free(t);
        return st;
    }
    tok_finish(t);
    *ret = t;
    return OK;
}
