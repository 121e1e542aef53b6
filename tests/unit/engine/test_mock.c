/* The mock stepper: text, digest, page errors and copies. */
#include "engine/mock.h"

#include <check.h>
#include <stdlib.h>
#include "tests/unit/suite.h"

static mock_options plain(void) {
    return (mock_options){.vocab = 100,
                          .page_tokens = 4,
                          .n_pages = 8,
                          .max_tokens = 64,
                          .max_seqs = 4,
                          .max_model_len = 32,
                          .eos_id = -1,
                          .verify = true};
}

static status run_one(mock *m, batch_seq s, sample_out *out, error *err) {
    stepper st = mock_stepper(m);
    status seq = OK;
    batch_plan plan = {.n_seqs = 1, .n_tokens = s.n_tokens, .seqs = &s};
    step_result r = {.out = out, .seq_status = &seq};
    return stepper_run(&st, &plan, &r, err);
}

START_TEST(chunks_and_pages_do_not_matter) {
    int32_t ids[10] = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
    int32_t a_pages[3] = {0, 1, 2}, b_pages[3] = {7, 3, 5};
    sample_params q = {.n_logprobs = 2};
    mock_options o = plain();
    mock *m = mock_new(&o);
    error err;
    sample_out a, b;
    ck_assert_int_eq(run_one(m,
                             (batch_seq){.ids = ids,
                                         .n_known = 10,
                                         .n_prompt = 10,
                                         .n_tokens = 10,
                                         .pages = a_pages,
                                         .sample = true,
                                         .params = &q},
                             &a, &err),
                     OK);
    for (int32_t p = 0; p < 10; p += 3)
        ck_assert_int_eq(run_one(m,
                                 (batch_seq){.ids = ids,
                                             .n_known = 10,
                                             .n_prompt = 10,
                                             .pos = p,
                                             .n_tokens = p + 3 > 10 ? 10 - p : 3,
                                             .pages = b_pages,
                                             .sample = true,
                                             .params = &q},
                                 &b, &err),
                         OK);
    ck_assert_int_eq(a.token, b.token);
    ck_assert_int_eq(a.n_top, 2);
    mock_free(m);
}
END_TEST

START_TEST(wrong_page_is_found) {
    int32_t ids[6] = {5, 6, 7, 8, 9, 10}, pages[2] = {0, 1}, wrong[2] = {4, 1};
    mock_options o = plain();
    mock *m = mock_new(&o);
    error err;
    sample_out out;
    ck_assert_int_eq(
        run_one(m,
                (batch_seq){.ids = ids, .n_known = 6, .n_prompt = 6, .n_tokens = 5, .pages = pages},
                &out, &err),
        OK);
    ck_assert_int_eq(
        run_one(
            m,
            (batch_seq){
                .ids = ids, .n_known = 6, .n_prompt = 6, .pos = 5, .n_tokens = 1, .pages = wrong},
            &out, &err),
        ERR_INTERNAL);
    ck_assert_ptr_nonnull(strstr(err.text, "page 4"));
    mock_free(m);
}
END_TEST

START_TEST(text_then_eos_but_not_before_min_tokens) {
    int32_t text[2] = {41, 42}, stop[1] = {2}, ids[8] = {1, 41, 42, 41}, pages[2] = {0, 1};
    mock_options o = plain();
    o.text = text;
    o.n_text = 2;
    o.eos_id = 2;
    mock *m = mock_new(&o);
    sample_params q = {.n_logprobs = -1, .stop_ids = stop, .n_stop_ids = 1, .min_tokens = 3};
    int32_t want[4] = {41, 42, 41, 2};
    for (int32_t k = 0; k < 4; k++) {
        sample_out out;
        error err;
        batch_seq s = {.ids = ids,
                       .n_known = 1 + k,
                       .n_prompt = 1,
                       .pos = k,
                       .n_tokens = 1,
                       .pages = pages,
                       .sample = true,
                       .params = &q};
        ck_assert_int_eq(run_one(m, s, &out, &err), OK);
        ck_assert_int_eq(out.token, want[k]);
    }
    mock_free(m);
}
END_TEST

/* What counts is what would have been chosen step by step; wrong drafts leave no trace. */
START_TEST(drafts_change_nothing) {
    int32_t ids[12] = {5, 6, 7}, pages[3] = {4, 1, 2}, alone[6], n_right = -1;
    sample_params q = {.n_logprobs = -1};
    mock_options o = plain();
    mock *m = mock_new(&o);
    stepper st = mock_stepper(m);
    batch_seq s = {.ids = ids,
                   .n_known = 3,
                   .n_prompt = 3,
                   .n_tokens = 3,
                   .pages = pages,
                   .sample = true,
                   .max_len = 12,
                   .params = &q};
    sample_out out, more[3];
    error err;
    for (int32_t k = 0; k < 6; k++) {
        ck_assert_int_eq(run_one(m, s, &out, &err), OK);
        alone[k] = ids[3 + k] = out.token;
        s.pos = 3 + k;
        s.n_known = 4 + k;
        s.n_tokens = 1;
    }
    status each = ERR_INTERNAL;
    ids[6] = (alone[3] + 1) % 100; /* 4, 5 and the last are right */
    s.pos = 3, s.n_known = 4, s.n_tokens = 4, s.n_draft = 3;
    batch_plan plan = {.n_seqs = 1, .n_tokens = 4, .n_drafts = 3, .seqs = &s};
    step_result r = {.out = &out, .seq_status = &each, .n_right = &n_right, .more = more};
    ck_assert_int_eq(stepper_run(&st, &plan, &r, &err), OK);
    ck_assert_int_eq(each, OK);
    ck_assert_int_eq(n_right, 2);
    ck_assert_int_eq(out.token, alone[1]);
    ck_assert_int_eq(more[0].token, alone[2]);
    ck_assert_int_eq(more[1].token, alone[3]);
    ids[6] = alone[3];
    s = (batch_seq){.ids = ids,
                    .n_known = 7,
                    .n_prompt = 3,
                    .pos = 6,
                    .n_tokens = 1,
                    .pages = pages,
                    .sample = true,
                    .max_len = 12,
                    .params = &q};
    ck_assert_int_eq(run_one(m, s, &out, &err), OK);
    ck_assert_int_eq(out.token, alone[4]);
    mock_free(m);
}
END_TEST

int main(void) {
    Suite *s = suite_create("mock");
    TCase *t = tcase_create("all");
    tcase_add_test(t, drafts_change_nothing);
    tcase_add_test(t, chunks_and_pages_do_not_matter);
    tcase_add_test(t, wrong_page_is_found);
    tcase_add_test(t, text_then_eos_but_not_before_min_tokens);
    suite_add_tcase(s, t);
    return suite_run(s);
}
