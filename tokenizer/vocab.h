/* The table of pieces: id -> bytes and bytes -> id. Ids may have holes. */
#ifndef TOKENIZER_VOCAB_H
#define TOKENIZER_VOCAB_H

#include "engine/base/str.h"

typedef struct vocab_slot {
    uint32_t tag;  /* part of the hash, and the length in the low byte (255: or more) */
    uint32_t id1;  /* id + 1; 0: empty */
    uint64_t head; /* the first 8 bytes of the piece, zero padded */
} vocab_slot;

typedef struct vocab {
    strbuf bytes; /* all pieces, one after another */
    struct vocab_at {
        uint32_t off, len;
    } * at;         /* by id; len VOCAB_HOLE: none */
    int32_t n, cap; /* ids are 0 .. n-1 */
    vocab_slot *slots;
    uint32_t n_slots, n_keys; /* n_slots: a power of two or 0 */
} vocab;

#define VOCAB_HOLE UINT32_MAX

void vocab_done(vocab *v);
void vocab_reserve(vocab *v, int32_t ids, size_t bytes);
/* id in [0, LIMIT_VOCAB), checked by the caller. A known string moves to the new id; an id that
 * had another string shows the new one, and the old one is no longer found. False: the bytes of all
 * pieces would pass LIMIT_TOKENIZER_BYTES. */
bool vocab_put(vocab *v, int32_t id, str piece);
/* The same, but only id -> bytes. */
bool vocab_set(vocab *v, int32_t id, str piece);
int32_t vocab_id(const vocab *v, str piece);    /* -1: none */
void vocab_prefetch(const vocab *v, str piece); /* vocab_id of it comes soon */
/* {NULL,0}: a hole or out of range. */
static inline str vocab_piece(const vocab *v, int32_t id) {
    if (id < 0 || id >= v->n || v->at[id].len == VOCAB_HOLE) return (str){0};
    return str_n(v->bytes.p + v->at[id].off, v->at[id].len);
}

#endif
