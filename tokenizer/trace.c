/* The rule for changes is the reference's transform: a place in the old text that moves on with
 * each character that replaces one. A list of changes that takes more than there is cannot be drawn
 * from text, but is met with `none` all the same. */
#include "tokenizer/trace.h"

#include "engine/base/mem.h"
#include "engine/base/utf8.h"

static size_t char_bytes(str s, size_t at) {
    uint32_t cp;
    size_t k = at < s.n ? utf8_get(s.p + at, s.n - at, &cp) : 0;
    return k ? k : at < s.n;
}

void origins_fill(origins *o, size_t n, origin v) {
    if (n <= o->n) return;
    vec_reserve(o, n);
    while (o->n < n) o->p[o->n++] = v;
}

void origins_copy(origins *o, const origin *from, size_t n) {
    if (!n) return;
    vec_reserve(o, o->n + n);
    memcpy(o->p + o->n, from, n * sizeof *from);
    o->n += n;
}

void origins_of_text(origins *o, str text, size_t base) {
    for (size_t at = 0, k; at < text.n; at += k) {
        k = char_bytes(text, at);
        origins_fill(o, o->n + k, (origin){(uint32_t)(base + at), (uint32_t)(base + at + k)});
    }
}

void origins_change(origins *o, str in, const origin *in_o, str out, const vec_i32 *changes,
                    origin none) {
    size_t old = 0, at = 0;
    for (size_t i = 0; i < changes->n; i++) {
        int32_t change = changes->p[i];
        bool put_in = change > 0;
        origin v = put_in ? (old ? in_o[old - 1] : none) : (old < in.n ? in_o[old] : none);
        size_t k = char_bytes(out, at);
        at += k;
        origins_fill(o, at, v);
        for (; !put_in && change <= 0; change++) old += char_bytes(in, old);
    }
}

void trace_done(trace *t) {
    vec_done(&t->buf[0]);
    vec_done(&t->buf[1]);
    vec_done(&t->changes);
}
