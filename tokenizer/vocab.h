/* The table of pieces: id -> bytes and bytes -> id. Ids may have holes. */
#ifndef TOKENIZER_VOCAB_H
#define TOKENIZER_VOCAB_H

#include <stdbool.h>

#include "engine/base/str.h"
#include "engine/base/vec.h"

typedef struct vocab_slot {
    uint32_t tag;  /* part of the hash, and the length in the low byte (255: or more) */
    uint32_t id1;  /* id + 1; 0: empty; VOCAB_ALIAS and up: an index of aliases */
    uint64_t head; /* the first 8 bytes of the piece, zero padded */
} vocab_slot;

/* A string that is found although its id shows another one. */
typedef struct vocab_alias {
    uint32_t off, len;
    int32_t id;
} vocab_alias;

typedef struct vocab {
    strbuf bytes; /* all pieces, one after another */
    struct vocab_at {
        uint32_t off, len;
    } * at;         /* by id; len VOCAB_HOLE: none */
    int32_t n, cap; /* ids are 0 .. n-1 */
    vocab_slot *slots;
    uint32_t n_slots, n_keys; /* n_slots: a power of two or 0 */
    VEC(vocab_alias) aliases;
    bool crossed; /* some string had two ids, or some id two strings */
} vocab;

#define VOCAB_HOLE  UINT32_MAX
#define VOCAB_ALIAS 0x80000000u

void vocab_done(vocab *v);
void vocab_reserve(vocab *v, int32_t ids, size_t bytes);
/* id in [0, LIMIT_VOCAB), checked by the caller. A known string moves to the new id (the old one
 * still shows it); an id that had another string shows the new one, and both are found, as in the
 * reference. False: the bytes of all pieces would pass LIMIT_TOKENIZER_BYTES. */
bool vocab_put(vocab *v, int32_t id, str piece);
/* The same, but only id -> bytes; for tables in which nothing is looked up. */
bool vocab_set(vocab *v, int32_t id, str piece);
int32_t vocab_id(const vocab *v, str piece);    /* -1: none */
void vocab_prefetch(const vocab *v, str piece); /* vocab_id of it comes soon */
/* {NULL,0}: a hole or out of range. */
static inline str vocab_piece(const vocab *v, int32_t id) {
    if (id < 0 || id >= v->n || v->at[id].len == VOCAB_HOLE) return (str){0};
    return str_n(v->bytes.p + v->at[id].off, v->at[id].len);
}

/* All strings: i counts from 0 to v->n + v->aliases.n. *ret_id: what vocab_id() says, -1 with a
 * hole
 * ({NULL,0}). A string that moved comes twice. */
str vocab_string(const vocab *v, size_t i, int32_t *ret_id);

#endif
