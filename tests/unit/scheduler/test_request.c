/* Requests: the size of the ring, references, defaults. */
#include <check.h>
#include <stdlib.h>

#include "scheduler/request.h"
#include "tests/unit/suite.h"

START_TEST(the_ring_is_bounded_and_an_end_always_fits) {
    static const struct {
        int32_t n, max_tokens, ring_max, want;
    } cases[] = {
        {1, 0, 0, 2},          {1, 1, 0, 2},
        {1, 100, 0, 101},      {4, 9, 0, 40},
        {1, 1 << 30, 0, 4096}, {128, 1, 0, 256},
        {128, 1000, 8, 256},   {1, 100, 8, 8},
        {1, INT32_MAX, 1, 2},  {100, INT32_MAX, 0, 4096},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        request *r = request_new(1000);
        r->n = cases[i].n;
        r->max_tokens = cases[i].max_tokens;
        r->ring_max = cases[i].ring_max;
        ck_assert_int_eq(request_ring_cap(r), cases[i].want);
        request_unref(r);
    }
}
END_TEST

START_TEST(armed_rings_hold_events_with_logprobs) {
    request *r = request_new(1000);
    r->max_tokens = 3;
    r->params.n_logprobs = 2;
    request_arm(r);
    _Alignas(token_event) unsigned char in[sizeof(token_event) + 2 * sizeof(token_logprob)],
        out[sizeof in];
    ck_assert_uint_eq(token_event_bytes(2), sizeof in);
    token_event *e = (token_event *)in, *got = (token_event *)out;
    *e = (token_event){.choice = 0, .token = 7, .n_top = 2};
    e->top[0] = (token_logprob){7, -1};
    e->top[1] = (token_logprob){8, -2};
    for (int i = 0; i < request_ring_cap(r); i++) ck_assert(spsc_push(r->events, in));
    ck_assert(spsc_pop(r->events, out));
    ck_assert(got->token == 7 && got->n_top == 2 && got->top[1].id == 8);
    request_unref(r);
}
END_TEST

START_TEST(the_last_reference_frees) {
    request *r = request_new(1000);
    ck_assert(r->n == 1 && r->params.top_p == 1 && r->params.n_logprobs == -1);
    ck_assert_ptr_eq(request_ref(r), r);
    request_unref(r);
    ck_assert_ptr_nonnull(arena_alloc(r->mem, 10));
    request_unref(r); /* leaks and double frees are the sanitizer's to find */
    request_unref(NULL);
}
END_TEST

static void count_up(void *ctx) {
    ++*(int *)ctx;
}

START_TEST(the_end_is_told_once) {
    int n = 0;
    request *r = request_new(1000);
    r->on_free = count_up;
    r->on_free_ctx = &n;
    request_unref(request_ref(r));
    ck_assert_int_eq(n, 0);
    request_unref(r);
    ck_assert_int_eq(n, 1);
}
END_TEST

int main(void) {
    Suite *s = suite_create("scheduler/request");
    TCase *tc = tcase_create("request");
    tcase_add_test(tc, the_ring_is_bounded_and_an_end_always_fits);
    tcase_add_test(tc, armed_rings_hold_events_with_logprobs);
    tcase_add_test(tc, the_last_reference_frees);
    tcase_add_test(tc, the_end_is_told_once);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
