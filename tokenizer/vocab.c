/* Open addressing with linear probing; a slot keeps half of the hash, so that a probe touches the
 * bytes only for the piece that is meant. At most half of the slots are used. */
#include "tokenizer/vocab.h"

#include "conf/limits.h"
#include "engine/base/check.h"
#include "engine/base/hash.h"
#include "engine/base/mem.h"

void vocab_done(vocab *v) {
    strbuf_done(&v->bytes);
    mem_free(v->at);
    mem_free(v->slots);
    *v = (vocab){0};
}

static void reserve_ids(vocab *v, int32_t want) {
    if (want <= v->cap) return;
    int32_t cap = MAX(want, MIN(v->cap * 2, LIMIT_VOCAB));
    v->at = mem_realloc(v->at, (size_t)cap * sizeof *v->at);
    for (int32_t i = v->cap; i < cap; i++) v->at[i].len = VOCAB_HOLE;
    v->cap = cap;
}

static void reserve_slots(vocab *v, uint32_t keys) {
    uint32_t n = MAX(v->n_slots, 64);
    while (n < keys * 2) n *= 2;
    if (n == v->n_slots) return;
    vocab_slot *old = v->slots;
    uint32_t n_old = v->n_slots;
    v->slots = mem_calloc(n, sizeof *v->slots);
    v->n_slots = n;
    for (uint32_t i = 0; i < n_old; i++) {
        if (!old[i].id1) continue;
        str s = vocab_piece(v, (int32_t)old[i].id1 - 1);
        uint32_t at = (uint32_t)hash64(s.p, s.n, 0) & (n - 1);
        while (v->slots[at].id1) at = (at + 1) & (n - 1);
        v->slots[at] = old[i];
    }
    mem_free(old);
}

void vocab_reserve(vocab *v, int32_t ids, size_t bytes) {
    reserve_ids(v, MIN(ids, LIMIT_VOCAB));
    reserve_slots(v, (uint32_t)MIN(ids, LIMIT_VOCAB));
    strbuf_reserve(&v->bytes, bytes);
}

str vocab_piece(const vocab *v, int32_t id) {
    if (id < 0 || id >= v->n || v->at[id].len == VOCAB_HOLE) return (str){0};
    return str_n(v->bytes.p + v->at[id].off, v->at[id].len);
}

/* The slot of piece, or the empty slot where it belongs. */
static vocab_slot *find(const vocab *v, str piece, uint64_t h) {
    uint32_t mask = v->n_slots - 1, tag = (uint32_t)(h >> 32);
    for (uint32_t at = (uint32_t)h & mask;; at = (at + 1) & mask) {
        vocab_slot *s = &v->slots[at];
        if (!s->id1) return s;
        if (s->tag == tag && str_eq(vocab_piece(v, (int32_t)s->id1 - 1), piece)) return s;
    }
}

bool vocab_set(vocab *v, int32_t id, str piece) {
    CHECK(id >= 0 && id < LIMIT_VOCAB);
    if (v->bytes.n + piece.n > LIMIT_TOKENIZER_BYTES) return false;
    reserve_ids(v, id + 1);
    v->n = MAX(v->n, id + 1);
    if (!v->bytes.p) strbuf_reserve(&v->bytes, 1);
    v->at[id].off = (uint32_t)v->bytes.n;
    v->at[id].len = (uint32_t)piece.n;
    strbuf_add(&v->bytes, piece);
    return true;
}

bool vocab_put(vocab *v, int32_t id, str piece) {
    reserve_slots(v, v->n_keys + 1);
    uint64_t h = hash64(piece.p, piece.n, 0);
    vocab_slot *s = find(v, piece, h);
    if (s->id1 == (uint32_t)id + 1) return true;
    bool is_new = s->id1 == 0;
    if (!vocab_set(v, id, piece)) return false;
    v->n_keys += is_new;
    *s = (vocab_slot){.tag = (uint32_t)(h >> 32), .id1 = (uint32_t)id + 1};
    return true;
}

int32_t vocab_id(const vocab *v, str piece) {
    if (!v->n_slots) return -1;
    return (int32_t)find(v, piece, hash64(piece.p, piece.n, 0))->id1 - 1;
}
