/* Where the bytes of a rewritten text came from: offsets of tokens in the text that a caller gave,
 * through normalisers and pre-tokenisers that change its length.
 *
 * Beside a text goes one origin a byte; all bytes of a character have the same. A step that
 * rewrites a text says for each character that it writes what it stands for, by the rules of the
 * reference (tokenizers' NormalizedString), quirks included: of a composed character the first part
 * counts, and what is put in stands where the character before it stands. */
#ifndef TOKENIZER_TRACE_H
#define TOKENIZER_TRACE_H

#include <stdint.h>

#include "engine/base/str.h"
#include "engine/base/vec.h"

typedef struct span {
    uint32_t off, len;
} span;
typedef VEC(span) span_vec;

typedef struct origin {
    uint32_t from, to; /* bytes of the text that was given */
} origin;
typedef VEC(origin) origins;

/* Of a text that is as it was given (valid UTF-8), from byte `base` of the whole. */
void origins_of_text(origins *o, str text, size_t base);
/* Entries up to the n-th become v. */
void origins_fill(origins *o, size_t n, origin v);
void origins_copy(origins *o, const origin *from, size_t n);
/* `out` was made of `in`; changes has one entry for each of its characters: 0: it replaces the next
 * one of `in`, 1: it was put in behind the last one replaced, -k: it replaces the next one and k
 * more go away. `none` stands for what was put in before everything. */
void origins_change(origins *o, str in, const origin *in_o, str out, const vec_i32 *changes,
                    origin none);

/* What a traced run of steps carries. {0}: nothing is traced. */
typedef struct trace {
    bool on;
    origin none;      /* the place where the text begins, empty */
    const origin *in; /* of the text at hand */
    origins buf[2];   /* beside the two text buffers that steps use in turns */
    origins *out;     /* of the text that is being written */
    vec_i32 changes;
} trace;
void trace_done(trace *t);
/* All that was written to `out` so far and is not traced yet stands for byte `at` of the input. */
static inline void trace_put(trace *t, const strbuf *out, size_t at) {
    if (t->on) origins_fill(t->out, out->n, t->in[at]);
}
static inline void trace_copy(trace *t, size_t at, size_t n) {
    if (t->on) origins_copy(t->out, t->in + at, n);
}

#endif
