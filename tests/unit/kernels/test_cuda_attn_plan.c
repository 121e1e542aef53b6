/* The division of attention for a device: every row and chunk exactly once, cut tiles merged, the
 * longest first, and cuts where they should pay. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "kernels/cuda/cuda_attn_plan.h"
#include "tests/unit/suite.h"

static attn_shape shape(int32_t group, int32_t n_kv_heads, int32_t slots) {
    return (attn_shape){.group = group,
                        .n_kv_heads = n_kv_heads,
                        .tile_rows = {16, 128},
                        .slots = {slots, slots},
                        .states_max = 1 << 20};
}

/* The row at f of a sequence, by the op's definition: does it see key j? */
static bool sees(const attn_shape *s, const attn_seq *q, int64_t f, int32_t j) {
    int32_t i = q->pos0 + (int32_t)(f / s->group);
    int32_t apart = i > j ? i - j : j - i;
    if (j > i && !(i < q->prefix && j < q->prefix)) return false;
    return s->window <= 0 || apart < s->window;
}

/* Items and merges of one sequence: how often each (row, chunk) is done, and states for it. */
typedef struct seen {
    int32_t n_chunks;
    int *done;      /* [rows][chunks] */
    int64_t *state; /* [rows][chunks], -1: none */
} seen;

static seen seen_of(const attn_plan *p, const attn_shape *s, const attn_seq *q, int32_t seq) {
    int64_t n_f = (int64_t)q->n_rows * s->group;
    int32_t len = q->pos0 + q->n_rows > q->prefix ? q->pos0 + q->n_rows : q->prefix;
    seen x = {.n_chunks = CEIL_DIV(len, ATTN_CHUNK)};
    x.done = mem_calloc((size_t)(n_f * x.n_chunks), sizeof *x.done);
    x.state = mem_calloc((size_t)(n_f * x.n_chunks), sizeof *x.state);
    memset(x.state, 0xFF, (size_t)(n_f * x.n_chunks) * sizeof *x.state);
    for (size_t i = 0; i < p->items.n; i++) {
        const attn_item *t = &p->items.p[i];
        if (t->seq != seq) continue;
        ck_assert_int_ge(t->f0, 0);
        ck_assert_int_le(t->f0 + t->n_f, n_f);
        ck_assert_int_lt(t->chunk0, t->chunk1);
        ck_assert_int_le(t->chunk1, x.n_chunks);
        for (int32_t f = 0; f < t->n_f; f++)
            for (int32_t c = t->chunk0; c < t->chunk1; c++) {
                int64_t at = (t->f0 + f) * (int64_t)x.n_chunks + c;
                x.done[at]++;
                if (t->state >= 0) x.state[at] = t->state + (int64_t)(c - t->chunk0) * t->n_f + f;
            }
    }
    return x;
}

/* Every state that a merge reads was written by an item, in ascending order of chunks. */
static void check_merges(const attn_plan *p, const seen *x, int32_t seq, char *used) {
    for (size_t i = 0; i < p->merges.n; i++) {
        const attn_merge *m = &p->merges.p[i];
        if (m->seq != seq) continue;
        ck_assert_int_le(m->n_f, p->merge_rows);
        ck_assert_int_gt(m->n_chunks, 1);
        for (int32_t f = 0; f < m->n_f; f++) {
            int32_t first = 0;
            const int64_t *row = x->state + (m->f0 + f) * (int64_t)x->n_chunks;
            while (first < x->n_chunks && row[first] < 0) first++;
            for (int32_t c = 0; c < m->n_chunks; c++) {
                int64_t state = m->state + (int64_t)c * m->n_f + f;
                ck_assert_int_lt(state, p->n_states);
                ck_assert_int_eq(row[first + c], state);
                ck_assert(!used[state]);
                used[state] = 1;
            }
        }
    }
}

static void check_plan(const attn_shape *s, const attn_seq *seqs, int32_t n, const attn_plan *p) {
    char *used = mem_calloc((size_t)p->n_states + 1, 1);
    for (int32_t i = 0; i < n; i++) {
        seen x = seen_of(p, s, &seqs[i], i);
        int64_t n_f = (int64_t)seqs[i].n_rows * s->group;
        for (int64_t f = 0; f < n_f; f++)
            for (int32_t c = 0; c < x.n_chunks; c++) {
                bool needed = false;
                for (int32_t j = c * ATTN_CHUNK; j < (c + 1) * ATTN_CHUNK && !needed; j += 7)
                    needed = sees(s, &seqs[i], f, j);
                ck_assert_int_le(x.done[f * x.n_chunks + c], 1);
                ck_assert(!needed || x.done[f * x.n_chunks + c] == 1);
            }
        check_merges(p, &x, i, used);
        mem_free(x.done);
        mem_free(x.state);
    }
    for (int64_t i = 0; i < p->n_states; i++) ck_assert_msg(used[i], "state %d unread", (int)i);
    mem_free(used);
    int32_t at = 0;
    for (int w = 0; w < ATTN_WIDTHS; w++) {
        int32_t before = INT32_MAX;
        for (int32_t i = 0; i < p->n_items[w]; i++, at++) {
            const attn_item *t = &p->items.p[at];
            bool narrow = seqs[t->seq].n_rows * s->group <= s->tile_rows[ATTN_NARROW];
            ck_assert_int_eq(narrow, w == ATTN_NARROW);
            ck_assert_int_le(t->chunk1 - t->chunk0, before);
            before = t->chunk1 - t->chunk0;
        }
    }
    ck_assert_uint_eq((size_t)at, p->items.n);
}

static int32_t pick(int32_t from, int32_t to) {
    static uint64_t at;
    return from + (int32_t)(rng_uniform(7, at++, 0) * (to - from + 1));
}

START_TEST(random_batches_are_covered_once) {
    attn_plan p = {0};
    for (int round = 0; round < 60; round++) {
        attn_shape s = shape(pick(1, 9), pick(1, 8), pick(1, 300));
        s.window = pick(0, 1) * pick(1, 2000);
        s.states_max = pick(0, 1) ? 1 << 20 : pick(0, 2000);
        attn_seq seqs[12];
        int32_t n = pick(1, 12);
        for (int32_t i = 0; i < n; i++) {
            int32_t rows = pick(0, 2) ? 1 : pick(1, 60);
            seqs[i] = (attn_seq){.n_rows = rows, .pos0 = pick(0, 1) ? pick(0, 9000) : 3};
            seqs[i].prefix = pick(0, 3) ? 0 : pick(0, 5000);
        }
        attn_plan_make(&s, seqs, n, &p);
        ck_assert_int_le(p.n_states * s.n_kv_heads, s.states_max);
        check_plan(&s, seqs, n, &p);
    }
    attn_plan_done(&p);
}
END_TEST

START_TEST(one_long_sequence_fills_the_device) {
    attn_plan p = {0};
    attn_shape s = shape(4, 8, 264);
    attn_seq one = {.n_rows = 1, .pos0 = 65535};
    attn_plan_make(&s, &one, 1, &p);
    check_plan(&s, &one, 1, &p);
    ck_assert_int_ge(p.n_items[ATTN_NARROW] * s.n_kv_heads, 200);
    ck_assert_uint_eq(p.merges.n, 1);
    ck_assert_int_eq(p.merges.p[0].n_chunks, 65536 / ATTN_CHUNK);
    /* The same tile is not cut where the device is full without. */
    s.slots[ATTN_NARROW] = 8;
    attn_plan_make(&s, &one, 1, &p);
    ck_assert_uint_eq(p.items.n, 1);
    ck_assert_uint_eq(p.merges.n, 0);
    ck_assert_int_eq(p.items.p[0].state, -1);
    attn_plan_done(&p);
}
END_TEST

START_TEST(what_is_short_or_full_is_not_cut) {
    attn_plan p = {0};
    attn_shape s = shape(4, 8, 264);
    attn_seq batch[256];
    for (int32_t i = 0; i < 256; i++) batch[i] = (attn_seq){.n_rows = 1, .pos0 = 4095};
    attn_plan_make(&s, batch, 256, &p); /* 2048 blocks for 264 places */
    ck_assert_uint_eq(p.merges.n, 0);
    ck_assert_uint_eq(p.items.n, 256);
    for (int32_t i = 0; i < 4; i++) batch[i].pos0 = ATTN_CHUNK - 1;
    attn_plan_make(&s, batch, 4, &p); /* one chunk each */
    ck_assert_uint_eq(p.merges.n, 0);
    ck_assert_uint_eq(p.items.n, 4);
    attn_plan_done(&p);
}
END_TEST

START_TEST(one_long_among_short_is_cut) {
    attn_plan p = {0};
    attn_shape s = shape(4, 8, 264);
    attn_seq batch[64];
    for (int32_t i = 0; i < 64; i++) batch[i] = (attn_seq){.n_rows = 1, .pos0 = 300};
    batch[17].pos0 = 100000;
    attn_plan_make(&s, batch, 64, &p);
    check_plan(&s, batch, 64, &p);
    ck_assert_uint_eq(p.merges.n, 1);
    ck_assert_int_eq(p.merges.p[0].seq, 17);
    ck_assert_int_eq(p.items.p[0].seq, 17);
    attn_plan_done(&p);
}
END_TEST

START_TEST(too_many_states_are_refused) {
    attn_plan p = {0};
    attn_shape s = shape(4, 8, 264);
    attn_seq one = {.n_rows = 1, .pos0 = 65535};
    s.states_max = 8 * 4 * 128 - 1; /* kv heads x rows x chunks, and one too few */
    attn_plan_make(&s, &one, 1, &p);
    ck_assert_int_eq(p.n_states, 0);
    ck_assert_uint_eq(p.items.n, 1);
    s.states_max++;
    attn_plan_make(&s, &one, 1, &p);
    ck_assert_int_eq(p.n_states * s.n_kv_heads, s.states_max);
    attn_plan_done(&p);
}
END_TEST

START_TEST(windows_leave_out_what_is_behind) {
    attn_plan p = {0};
    attn_shape s = shape(2, 4, 1000);
    s.window = 1024;
    attn_seq one = {.n_rows = 1, .pos0 = 50 * ATTN_CHUNK};
    attn_plan_make(&s, &one, 1, &p);
    check_plan(&s, &one, 1, &p);
    int32_t first = INT32_MAX, last = 0;
    for (size_t i = 0; i < p.items.n; i++) {
        first = MIN(first, p.items.p[i].chunk0);
        last = MAX(last, p.items.p[i].chunk1);
    }
    ck_assert_int_eq(first, 48);
    ck_assert_int_eq(last, 51);
    attn_plan_done(&p);
}
END_TEST

START_TEST(places_on_a_device) {
    ck_assert_int_eq(attn_slots(132, 90, 77 * 1024, 2), 264);
    ck_assert_int_eq(attn_slots(132, 90, 155 * 1024, 2), 132);
    ck_assert_int_eq(attn_slots(128, 89, 77 * 1024, 2), 128);
    ck_assert_int_eq(attn_slots(108, 80, 77 * 1024, 2), 216);
    ck_assert_int_eq(attn_slots(0, 89, 400 * 1024, 2), 1);
}
END_TEST

/* The division for a fixed grid: within its bounds whatever the lengths, each row and chunk once,
 * and readable where the kernels will look. */
START_TEST(a_fixed_grid_holds_every_division) {
    static char place[1 << 17];
    attn_plan p = {0};
    for (int round = 0; round < 80; round++) {
        attn_shape s = shape(pick(1, 40), pick(1, 8), pick(1, 600));
        s.window = pick(0, 1) * pick(1, 2000);
        s.states_max = pick(0, 2) ? 1 << 20 : 0;
        attn_seq seqs[24];
        int32_t n = pick(1, 24);
        for (int32_t i = 0; i < n; i++)
            seqs[i] = (attn_seq){.row0 = i, .n_rows = 1, .pos0 = pick(0, 3) ? pick(0, 9000) : 0};
        attn_most most = attn_fixed_most(&s, n);
        s.items_max = most.items;
        attn_plan_make(&s, seqs, n, &p);
        check_plan(&s, seqs, n, &p);
        ck_assert_uint_le(p.items.n, (size_t)most.items);
        ck_assert_uint_le(p.merges.n, (size_t)most.merges);
        ck_assert_int_eq(p.n_items[attn_fixed_width(&s)], (int32_t)p.items.n);
        ck_assert_uint_le(attn_fixed_bytes(most), sizeof place);
        memset(place, 0xEE, sizeof place);
        attn_fixed_write(&p, most, place);
        const attn_fixed *head = (const attn_fixed *)place;
        ck_assert_int_eq(head->n_items, (int32_t)p.items.n);
        ck_assert_int_eq(head->n_merges, (int32_t)p.merges.n);
        ck_assert_int_eq(memcmp(head + 1, p.items.p, p.items.n * sizeof *p.items.p), 0);
        if (p.merges.n)
            ck_assert_int_eq(memcmp(place + attn_fixed_merges_at(most), p.merges.p,
                                    p.merges.n * sizeof *p.merges.p),
                             0);
        size_t end = attn_fixed_bytes(most);
        while (end < sizeof place && (unsigned char)place[end] == 0xEE) end++;
        ck_assert_uint_eq(end, sizeof place);
    }
    attn_plan_done(&p);
}
END_TEST

/* The bound on items gives way to nothing: without it this one would be cut finer. */
START_TEST(items_have_a_bound) {
    attn_plan p = {0};
    attn_seq one = {.n_rows = 1, .pos0 = 100 * ATTN_CHUNK - 1};
    attn_shape s = shape(4, 1, 400);
    attn_plan_make(&s, &one, 1, &p);
    ck_assert_uint_eq(p.items.n, 100);
    s.items_max = 7;
    attn_plan_make(&s, &one, 1, &p);
    ck_assert_uint_le(p.items.n, 7);
    ck_assert_uint_ge(p.items.n, 5);
    check_plan(&s, &one, 1, &p);
    attn_plan_done(&p);
}
END_TEST

int main(void) {
    Suite *s = suite_create("cuda_attn_plan");
    TCase *t = tcase_create("plan");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, random_batches_are_covered_once);
    tcase_add_test(t, one_long_sequence_fills_the_device);
    tcase_add_test(t, what_is_short_or_full_is_not_cut);
    tcase_add_test(t, one_long_among_short_is_cut);
    tcase_add_test(t, too_many_states_are_refused);
    tcase_add_test(t, windows_leave_out_what_is_behind);
    tcase_add_test(t, places_on_a_device);
    tcase_add_test(t, a_fixed_grid_holds_every_division);
    tcase_add_test(t, items_have_a_bound);
    suite_add_tcase(s, t);
    return suite_run(s);
}
