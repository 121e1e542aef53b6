/* Open addressing with linear probing. A slot keeps part of the hash, the length and the first
 * eight bytes, so that a look-up of a short piece touches one cache line and a longer one touches
 * the bytes only of the piece that is meant. At most half of the slots are used. Opening a file
 * with 280,000 merges is a million look-ups: this table is what it waits for.
 *
 * Invariant: a slot's string is that of its id, or of its alias: a slot is never found by bytes
 * that are no longer there, and growing puts it where it is looked for. */
#include "tokenizer/vocab.h"

#include "conf/limits.h"
#include "engine/base/check.h"
#include "engine/base/hash.h"
#include "engine/base/mem.h"

void vocab_done(vocab *v) {
    strbuf_done(&v->bytes);
    mem_free(v->at);
    mem_free(v->slots);
    vec_done(&v->aliases);
    *v = (vocab){0};
}

static void reserve_ids(vocab *v, int32_t want) {
    if (want <= v->cap) return;
    int32_t cap = MAX(want, MIN(v->cap * 2, LIMIT_VOCAB));
    v->at = mem_realloc(v->at, (size_t)cap * sizeof *v->at);
    for (int32_t i = v->cap; i < cap; i++) v->at[i].len = VOCAB_HOLE;
    v->cap = cap;
}

/* What a slot for this piece holds, and where probing for it begins. */
static vocab_slot slot_of(str piece, uint32_t *start) {
    uint64_t h = hash64(piece.p, piece.n, 0);
    vocab_slot s = {.tag = (uint32_t)(h >> 32) << 8 | (uint32_t)MIN(piece.n, (size_t)255)};
    if (piece.n) memcpy(&s.head, piece.p, MIN(piece.n, sizeof s.head));
    *start = (uint32_t)h;
    return s;
}

static str bytes_at(const vocab *v, uint32_t off, uint32_t len) {
    return str_n(v->bytes.p + off, len);
}

static str slot_piece(const vocab *v, const vocab_slot *s) {
    if (s->id1 < VOCAB_ALIAS) return vocab_piece(v, (int32_t)s->id1 - 1);
    const vocab_alias *a = &v->aliases.p[s->id1 - VOCAB_ALIAS];
    return bytes_at(v, a->off, a->len);
}

static int32_t slot_id(const vocab *v, const vocab_slot *s) {
    return s->id1 < VOCAB_ALIAS ? (int32_t)s->id1 - 1 : v->aliases.p[s->id1 - VOCAB_ALIAS].id;
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
        uint32_t at;
        slot_of(slot_piece(v, &old[i]), &at);
        for (at &= n - 1; v->slots[at].id1;) at = (at + 1) & (n - 1);
        v->slots[at] = old[i];
    }
    mem_free(old);
}

void vocab_reserve(vocab *v, int32_t ids, size_t bytes) {
    reserve_ids(v, MIN(ids, LIMIT_VOCAB));
    reserve_slots(v, (uint32_t)MIN(ids, LIMIT_VOCAB));
    strbuf_reserve(&v->bytes, bytes);
}

/* The slot of piece, or the empty slot where it belongs; *ret_new is what to put there. */
static vocab_slot *find(const vocab *v, str piece, vocab_slot *ret_new) {
    uint32_t mask = v->n_slots - 1, start;
    *ret_new = slot_of(piece, &start);
    for (uint32_t at = start & mask;; at = (at + 1) & mask) {
        vocab_slot *s = &v->slots[at];
        if (!s->id1) return s;
        if (s->tag != ret_new->tag || s->head != ret_new->head) continue;
        if (piece.n <= sizeof s->head || str_eq(slot_piece(v, s), piece)) return s;
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

/* The string that id shows, if it is found by it, becomes an alias: the id is to show another. */
static void keep_old(vocab *v, int32_t id) {
    str old = vocab_piece(v, id);
    vocab_slot fresh, *s = old.p ? find(v, old, &fresh) : NULL;
    if (!s || s->id1 != (uint32_t)id + 1) return;
    s->id1 = VOCAB_ALIAS + (uint32_t)v->aliases.n;
    vec_push(&v->aliases, ((vocab_alias){v->at[id].off, v->at[id].len, id}));
    v->crossed = true;
}

bool vocab_put(vocab *v, int32_t id, str piece) {
    vocab_slot fresh;
    reserve_slots(v, v->n_keys + 1);
    vocab_slot *s = find(v, piece, &fresh);
    if (s->id1 && slot_id(v, s) == id) return true;
    if (v->aliases.n == LIMIT_VOCAB) return false;
    keep_old(v, id);
    if (!vocab_set(v, id, piece)) return false;
    if (s->id1)
        v->crossed = true;
    else
        v->n_keys++;
    fresh.id1 = (uint32_t)id + 1;
    *s = fresh;
    return true;
}

int32_t vocab_id(const vocab *v, str piece) {
    vocab_slot fresh;
    const vocab_slot *s = v->n_slots ? find(v, piece, &fresh) : NULL;
    return s && s->id1 ? slot_id(v, s) : -1;
}

str vocab_string(const vocab *v, size_t i, int32_t *ret_id) {
    str s = vocab_piece(v, (int32_t)MIN(i, (size_t)v->n));
    if (i >= (size_t)v->n) {
        const vocab_alias *a = &v->aliases.p[i - (size_t)v->n];
        s = bytes_at(v, a->off, a->len);
    }
    *ret_id = !s.p ? -1 : v->crossed ? vocab_id(v, s) : (int32_t)i;
    return s;
}

void vocab_prefetch(const vocab *v, str piece) {
    if (v->n_slots)
        __builtin_prefetch(&v->slots[(uint32_t)hash64(piece.p, piece.n, 0) & (v->n_slots - 1)]);
}
