/* RWKV's World vocabulary: each line an id, a Python literal (text or bytes) and its length in
 * bytes. A text is cut greedily, the longest token first; there is nothing to learn and no merging.
 * Id 0 ends a text and is not in the file. */
#include "conf/limits.h"
#include "engine/base/mem.h"
#include "engine/base/utf8.h"
#include "tokenizer/tok.h"
#include "tokenizer/trie.h"

static void cut(const trie *tokens, str text, vec_i32 *ids, span_vec *spans) {
    for (size_t at = 0, end; at < text.n; at = end) {
        int32_t id = -1;
        uint32_t node = 0;
        end = at + 1; /* a byte that no token starts with gives nothing */
        for (size_t i = at; i < text.n; i++) {
            node = trie_next(tokens, node, (uint8_t)text.p[i]);
            if (!node) break;
            if (trie_value(tokens, node) < 0) continue;
            id = trie_value(tokens, node);
            end = i + 1;
        }
        if (id < 0) continue;
        vec_push(ids, id);
        if (spans) vec_push(spans, ((span){(uint32_t)at, (uint32_t)(end - at)}));
    }
}

static void rwkv_encode(const void *self, str text, vec_i32 *ids) {
    cut(self, text, ids, NULL);
}

static void rwkv_spans(const void *self, str text, vec_i32 *ids, span_vec *spans) {
    cut(self, text, ids, spans);
}

static void rwkv_free(void *self) {
    trie_done(self);
    mem_free(self);
}

/* `digits` hexadecimal digits at *at; -1 if they are not there. */
static int64_t hex(str s, size_t *at, int digits) {
    int64_t v = 0;
    for (; digits; digits--, ++*at) {
        char c = *at < s.n ? s.p[*at] : 0;
        int d = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                       : -1;
        if (d < 0) return -1;
        v = v * 16 + d;
    }
    return v;
}

/* What follows a backslash at *at. */
static bool unescape(str s, size_t *at, bool bytes, strbuf *out) {
    static const char from[] = "ntr\\'\"", to[] = "\n\t\r\\'\"";
    char c = *at < s.n ? s.p[(*at)++] : 0;
    const char *plain = c ? strchr(from, c) : NULL;
    if (plain) return strbuf_addc(out, to[plain - from]);
    int digits = c == 'x' ? 2 : c == 'u' && !bytes ? 4 : c == 'U' && !bytes ? 8 : 0;
    int64_t v = digits ? hex(s, at, digits) : -1;
    if (v < 0 || v > 0x10FFFF) return false;
    return bytes ? strbuf_addc(out, (char)v) : strbuf_addcp(out, (uint32_t)v);
}

/* '...', "..." or b'...', the whole of s. */
static bool literal(str s, strbuf *out) {
    bool bytes = s.n && s.p[0] == 'b', open = true;
    size_t at = bytes;
    char quote = at < s.n ? s.p[at++] : 0;
    if (quote != '\'' && quote != '"') return false;
    while (at < s.n) {
        char c = s.p[at++];
        open = c != quote;
        if (!open) break;
        if (c != '\\')
            strbuf_addc(out, c);
        else if (!unescape(s, &at, bytes, out))
            return false;
    }
    return !open && at == s.n;
}

static status read_line(str line, size_t number, tokenizer *t, trie *tokens, strbuf *b,
                        error *err) {
    ptrdiff_t first = str_find(line, STR(" "), 0);
    size_t last = line.n;
    while (last && line.p[last - 1] != ' ') last--;
    int64_t id = -1, length = -1;
    strbuf_clear(b);
    bool ok = first > 0 && last > (size_t)first + 1 &&
              str_to_i64(str_cut(line, 0, (size_t)first), &id) &&
              str_to_i64(str_cut(line, last, line.n), &length) &&
              literal(str_cut(line, (size_t)first + 1, last - 1), b);
    if (!ok || id < 1 || id >= LIMIT_VOCAB || !b->n || length != (int64_t)b->n)
        return error_set(err, ERR_FORMAT,
                         "line %zu: expected an id, a Python literal and its length in bytes",
                         number);
    if (!vocab_put(&t->pieces, (int32_t)id, strbuf_str(b)))
        return error_set(err, ERR_TOO_LARGE, "the tokens are too large");
    trie_add(tokens, strbuf_str(b), (int32_t)id);
    return OK;
}

status rwkv_open(str text, tokenizer **ret, error *err) {
    tokenizer *t = tok_new();
    trie *tokens = mem_calloc(1, sizeof *tokens);
    t->model = (model){"rwkv trie", tokens, rwkv_encode, rwkv_spans, rwkv_free};
    t->raw_is_stored = true;
    t->dec = decoder_of_bytes();
    strbuf b = {0};
    status st = OK;
    size_t number = 0;
    for (size_t at = 0; st == OK && at < text.n;) {
        ptrdiff_t nl = str_find(text, STR("\n"), at);
        size_t end = nl < 0 ? text.n : (size_t)nl;
        str line = str_trim(str_cut(text, at, end));
        at = end + 1;
        number++;
        if (line.n) st = read_line(line, number, t, tokens, &b, err);
    }
    strbuf_done(&b);
    if (st == OK && !tokens->n_edges) st = error_set(err, ERR_FORMAT, "there are no tokens");
    if (st == OK) st = tok_put_special(t, t->eos = 0, STR("<|endoftext|>"), err);
    if (st != OK) {
        tokenizer_free(t);
        return st;
    }
    tok_finish(t);
    *ret = t;
    return OK;
}
