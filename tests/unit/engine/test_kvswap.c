/* The second tier of the KV cache: what is planned, and that pages move whole. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/mem.h"
#include "engine/kvswap.h"
#include "engine/memplan.h"
#include "tests/unit/suite.h"

#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

/* A device of 80 GiB with a model of 16. */
static memplan device(size_t wanted, size_t host) {
    return (memplan){.weights = 16 * GIB,
                     .page_bytes = 2 * MIB,
                     .page_tokens = 16,
                     .ctx_max = 8192,
                     .max_seqs = 256,
                     .kv_fraction = 0.5,
                     .available = 80 * GIB,
                     .limited_by = "the device's free memory",
                     .swap_wanted = wanted,
                     .host_available = host};
}

START_TEST(chosen_from_what_the_host_has) {
    static const struct {
        size_t wanted, host;
        int32_t pages;
    } cases[] = {
        {0, 64 * GIB, 0},           {SIZE_MAX, 64 * GIB, 4096}, /* 8 GiB at most */
        {SIZE_MAX, 16 * GIB, 2048}, {SIZE_MAX, 0, 0},
        {5 * MIB, 64 * GIB, 2},     {40 * GIB, 64 * GIB, 20480},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        memplan m = device(cases[i].wanted, cases[i].host);
        error err;
        ck_assert_msg(memplan_decide(&m, &err) == OK, "%s", err.text);
        ck_assert_int_eq(m.n_host_pages, cases[i].pages);
        ck_assert_uint_eq(m.swap, (size_t)cases[i].pages * m.page_bytes);
        ck_assert_uint_lt(m.total, 80 * GIB);
    }
    memplan small = device(SIZE_MAX, 64 * GIB); /* as much as the first tier, no more */
    small.kv_wanted = GIB;
    ck_assert_int_eq(memplan_decide(&small, NULL), OK);
    ck_assert_int_eq(small.n_host_pages, 512);
}
END_TEST

START_TEST(refused_with_numbers) {
    memplan m = device(32 * GIB, 8 * GIB);
    error err;
    ck_assert_int_eq(memplan_decide(&m, &err), ERR_NOMEM);
    ck_assert_msg(strstr(err.text, "32.0 GiB") && strstr(err.text, "8.0 GiB"), "%s", err.text);
    m = device(4, 8 * GIB); /* "4", where 4GiB was meant */
    ck_assert_int_eq(memplan_decide(&m, &err), ERR_INVALID);
    ck_assert_str_eq(err.text,
                     "kv_swap: 4 bytes do not hold a page of the KV cache, which takes 2.0 MiB");
}
END_TEST

START_TEST(a_reason_is_printed) {
    memplan m = device(GIB, 64 * GIB);
    strbuf out = {0};
    ck_assert_int_eq(memplan_decide(&m, NULL), OK);
    memplan_print(&m, &out);
    ck_assert_msg(strstr(out.p, "KV swap") && strstr(out.p, "512 pages"), "%s", out.p);
    strbuf_clear(&out);
    m.swap_why = "none: because";
    ck_assert_int_eq(memplan_decide(&m, NULL), OK);
    ck_assert_int_eq(m.n_host_pages, 0);
    memplan_print(&m, &out);
    ck_assert_msg(strstr(out.p, "none: because"), "%s", out.p);
    strbuf_done(&out);
}
END_TEST

/* What a page holds in all of its buffers. */
static unsigned char byte_of(int page, size_t at) {
    return (unsigned char)(page * 31 + (int)(at % 251) + 1);
}

static void fill(kvcache *c, int page) {
    for (int i = 0; i < c->shape.n_layers * c->shape.n_buffers; i++)
        for (size_t k = 0; k < c->page_bytes; k++)
            ((unsigned char *)c->buffers[i])[(size_t)page * c->page_bytes + k] =
                byte_of(page, (size_t)i * 7 + k);
}

/* Does `page` hold what was filled into page `was`? */
static bool holds(const kvcache *c, int page, int was) {
    for (int i = 0; i < c->shape.n_layers * c->shape.n_buffers; i++)
        for (size_t k = 0; k < c->page_bytes; k++)
            if (((unsigned char *)c->buffers[i])[(size_t)page * c->page_bytes + k] !=
                byte_of(was, (size_t)i * 7 + k))
                return false;
    return true;
}

START_TEST(pages_move_whole_and_in_order) {
    backend *b;
    cpu_options o = {.n_threads = 1};
    ck_assert_int_eq(backend_cpu_open(&o, &b, NULL), OK);
    kvcache c = {.b = b, .shape = {3, 2, 12, DT_BF16}, .n_pages = 5};
    ck_assert_int_eq(kvcache_alloc(&c, 4, NULL), OK);
    ck_assert_int_eq(kvswap_alloc(&c, 2, NULL), OK);
    for (int p = 0; p < 5; p++) fill(&c, p);
    ck_assert_int_eq(kvswap_measure(&c, NULL), OK);
    ck_assert(c.move_us >= 0);
    for (int p = 0; p < 5; p++) ck_assert_msg(holds(&c, p, p), "page %d after measuring", p);
    /* 4 goes to slot 1 and comes back as 0; then slot 1 takes 3, which comes back as 4 */
    const page_move moves[] = {
        {4, 1, true}, {0, 1, false}, {3, 1, true}, {4, 1, false}, {2, 0, true}};
    kvswap_run(&c, moves, ARRAY_LEN(moves));
    ck_assert(holds(&c, 0, 4) && holds(&c, 1, 1) && holds(&c, 2, 2) && holds(&c, 3, 3) &&
              holds(&c, 4, 3));
    kvswap_run(&c, &(page_move){1, 0, false}, 1);
    ck_assert(holds(&c, 1, 2) && holds(&c, 0, 4));
    kvswap_done(&c);
    kvcache_done(&c);
    backend_close(b);
}
END_TEST

int main(void) {
    Suite *s = suite_create("kvswap");
    TCase *t = tcase_create("all");
    tcase_add_test(t, chosen_from_what_the_host_has);
    tcase_add_test(t, refused_with_numbers);
    tcase_add_test(t, a_reason_is_printed);
    tcase_add_test(t, pages_move_whole_and_in_order);
    suite_add_tcase(s, t);
    return suite_run(s);
}
