/* The division of a call of attention.
 *
 * A decoding batch is a few rows per sequence over keys of very different lengths, and the device
 * runs some hundreds of blocks at once. A block works through its keys one after another, so that
 * a call lasts as long as its longest block, or as many rounds of blocks as there are: cutting
 * tiles shortens the first and evens out the second, but every item pays for its start, and every
 * cut tile for its merge. attn_split_chunks tries a ladder of sizes (steps of at most a third) and
 * takes the cheapest; costs are in keys, the time that a block takes for one key.
 *
 * The constants below are estimates by counting (a block's start: launch, queries, the first loads
 * under way; a merge: one more kernel, and a chain of two operations per chunk), not timed on a
 * GPU.
 *
 * A plan takes O(items): it is made on the way of every step. */
#include "kernels/cuda/cuda_attn_plan.h"

#include <string.h>

#include "engine/base/check.h"

#define ITEM_KEYS  128 /* start of an item */
#define MERGE_KEYS 256 /* one more kernel */
#define STATE_KEYS 2   /* one state in the chain of a merge */

static int32_t n_chunks_of(const attn_item *t) {
    return t->chunk1 - t->chunk0;
}

/* Cost of items of at most `per` chunks; -1: there would be more states or items than there may be.
 */
static int64_t cost_of(const attn_item *tiles, int32_t n, int32_t n_kv_heads, int32_t slots,
                       int64_t states_max, int32_t items_max, int32_t per) {
    int64_t n_items = 0, keys = 0, n_states = 0;
    int32_t item_max = 0, merge_max = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t chunks = n_chunks_of(&tiles[i]);
        n_items += CEIL_DIV(chunks, per);
        keys += (int64_t)chunks * ATTN_CHUNK;
        item_max = MAX(item_max, MIN(chunks, per));
        if (chunks <= per) continue;
        n_states += (int64_t)chunks * tiles[i].n_f * n_kv_heads;
        merge_max = MAX(merge_max, chunks);
    }
    if (n_states > states_max || n_states > INT32_MAX) return -1;
    if (items_max && n_items > items_max) return -1;
    int64_t mean = (keys + n_items - 1) / n_items + ITEM_KEYS;
    int64_t waves = CEIL_DIV(n_items * n_kv_heads, (int64_t)slots);
    int64_t longest = (int64_t)item_max * ATTN_CHUNK + ITEM_KEYS;
    return MAX(waves * mean, longest) +
           (merge_max ? MERGE_KEYS + (int64_t)merge_max * STATE_KEYS : 0);
}

int32_t attn_split_chunks(const attn_item *tiles, int32_t n, int32_t n_kv_heads, int32_t slots,
                          int64_t states_max, int32_t items_max) {
    int32_t most = 1;
    for (int32_t i = 0; i < n; i++) most = MAX(most, n_chunks_of(&tiles[i]));
    if (n == 0) return most;
    int32_t best = most;
    int64_t best_cost = cost_of(tiles, n, n_kv_heads, slots, states_max, 0, most);
    for (int32_t per = 1; per < most; per += MAX(1, per / 3)) {
        int64_t cost = cost_of(tiles, n, n_kv_heads, slots, states_max, items_max, per);
        if (cost < 0 || cost >= best_cost) continue;
        best = per;
        best_cost = cost;
    }
    return best;
}

/* Tiles of one width of all sequences. */
static void find_tiles(const attn_shape *s, const attn_seq *seqs, int32_t n, attn_width width,
                       attn_plan *p) {
    p->tiles.n = 0;
    for (int32_t i = 0; i < n; i++) {
        int64_t n_f = (int64_t)seqs[i].n_rows * s->group;
        CHECK(n_f <= INT32_MAX);
        bool narrow = n_f <= s->tile_rows[ATTN_NARROW];
        if (narrow != (width == ATTN_NARROW)) continue;
        for (int32_t f0 = 0; f0 < n_f; f0 += s->tile_rows[width]) {
            attn_item t = {i, f0, (int32_t)MIN((int64_t)s->tile_rows[width], n_f - f0)};
            int32_t first = seqs[i].pos0 + f0 / s->group;
            int32_t last = seqs[i].pos0 + (f0 + t.n_f - 1) / s->group;
            t.chunk0 = attn_first_key(s->window, first) / ATTN_CHUNK;
            t.chunk1 = attn_last_key(s->window, seqs[i].prefix, last) / ATTN_CHUNK + 1;
            t.state = -1;
            vec_push(&p->tiles, t);
        }
    }
}

/* A tile as items of at most `per` chunks, numbered behind the others of the plan. */
static void cut_tile(const attn_item *t, int32_t per, attn_plan *p) {
    if (n_chunks_of(t) <= per) {
        vec_push(&p->items, *t);
        return;
    }
    attn_merge m = {t->seq, t->f0, t->n_f, n_chunks_of(t), (int32_t)p->n_states};
    vec_push(&p->merges, m);
    p->merge_rows = MAX(p->merge_rows, t->n_f);
    for (int32_t c = t->chunk0; c < t->chunk1; c += per) {
        attn_item i = *t;
        i.chunk0 = c;
        i.chunk1 = MIN(c + per, t->chunk1);
        i.state = (int32_t)(p->n_states + (int64_t)(c - t->chunk0) * t->n_f);
        vec_push(&p->items, i);
    }
    p->n_states += (int64_t)m.n_chunks * t->n_f;
}

/* Items from..n by number of chunks, the most first, in order among equals: a counting sort. */
static void longest_first(attn_plan *p, size_t from) {
    int32_t most = 0;
    size_t n = p->items.n - from;
    for (size_t i = from; i < p->items.n; i++) most = MAX(most, n_chunks_of(&p->items.p[i]));
    vec_reserve(&p->counts, (size_t)most + 1);
    vec_reserve(&p->tiles, n);
    memset(p->counts.p, 0, ((size_t)most + 1) * sizeof *p->counts.p);
    for (size_t i = from; i < p->items.n; i++) p->counts.p[n_chunks_of(&p->items.p[i])]++;
    int32_t at = 0;
    for (int32_t c = most; c >= 0; c--) {
        int32_t here = p->counts.p[c];
        p->counts.p[c] = at;
        at += here;
    }
    for (size_t i = from; i < p->items.n; i++)
        p->tiles.p[p->counts.p[n_chunks_of(&p->items.p[i])]++] = p->items.p[i];
    if (n) memcpy(p->items.p + from, p->tiles.p, n * sizeof *p->items.p);
}

void attn_plan_make(const attn_shape *s, const attn_seq *seqs, int32_t n, attn_plan *p) {
    CHECK(s->group > 0 && s->n_kv_heads > 0);
    p->items.n = p->merges.n = 0;
    p->merge_rows = 0;
    p->n_states = 0;
    for (attn_width w = ATTN_NARROW; w < ATTN_WIDTHS; w++) {
        CHECK(s->tile_rows[w] > 0 && s->slots[w] > 0);
        find_tiles(s, seqs, n, w, p);
        int64_t left = s->states_max - p->n_states * s->n_kv_heads;
        int32_t per = attn_split_chunks(p->tiles.p, (int32_t)p->tiles.n, s->n_kv_heads, s->slots[w],
                                        left, s->items_max);
        size_t from = p->items.n;
        for (size_t i = 0; i < p->tiles.n; i++) cut_tile(&p->tiles.p[i], per, p);
        longest_first(p, from);
        p->n_items[w] = (int32_t)(p->items.n - from);
    }
}

void attn_plan_done(attn_plan *p) {
    vec_done(&p->items);
    vec_done(&p->merges);
    vec_done(&p->tiles);
    vec_done(&p->counts);
}

attn_width attn_fixed_width(const attn_shape *s) {
    return s->group <= s->tile_rows[ATTN_NARROW] ? ATTN_NARROW : ATTN_WIDE;
}

attn_most attn_fixed_most(const attn_shape *s, int32_t n) {
    attn_width w = attn_fixed_width(s);
    int32_t tiles = n * CEIL_DIV(s->group, s->tile_rows[w]);
    return (attn_most){tiles + 2 * CEIL_DIV(s->slots[w], s->n_kv_heads), tiles};
}

size_t attn_fixed_bytes(attn_most most) {
    return attn_fixed_merges_at(most) + (size_t)most.merges * sizeof(attn_merge);
}

void attn_fixed_write(const attn_plan *p, attn_most most, void *to) {
    attn_fixed *head = to;
    CHECK(p->items.n <= (size_t)most.items && p->merges.n <= (size_t)most.merges);
    *head = (attn_fixed){.n_items = (int32_t)p->items.n, .n_merges = (int32_t)p->merges.n};
    memcpy(head + 1, p->items.p, p->items.n * sizeof *p->items.p);
    if (p->merges.n)
        memcpy((char *)to + attn_fixed_merges_at(most), p->merges.p,
               p->merges.n * sizeof *p->merges.p);
}

int32_t attn_slots(int32_t n_sms, int32_t cc, int64_t smem, int32_t per_sm) {
    int64_t all = cc == 80 || cc == 87 ? 164 : cc >= 90 && cc < 120 ? 228 : 100; /* KB of an SM */
    int64_t fit = all * 1024 / (smem + 1024);
    return MAX(1, n_sms) * (int32_t)MAX(1, MIN(fit, per_sm));
}
