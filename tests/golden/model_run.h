/* What the tests with real forward passes share: driving the engine's stepper as a scheduler
 * would, and comparing rows. */
#ifndef TESTS_GOLDEN_MODEL_RUN_H
#define TESTS_GOLDEN_MODEL_RUN_H

#include "engine/base/json.h"
#include "engine/engine.h"

/* What PAGODA_TEST_DEVICE names, else "cpu". */
const char *test_device(void);
/* Open a model for a test (small cache, 2 threads). want (dtype) and isa as in engine_options; f32
 * means pages of f32 too, for weights that stay quantised. */
NODISCARD status model_open(const char *dir, const char *want, const char *isa, engine **ret,
                            error *err);

/* The same with pages of kv_dtype. */
NODISCARD status model_open_kv(const char *dir, const char *want, const char *kv_dtype,
                               const char *isa, engine **ret, error *err);

/* One sequence in a run. */
typedef struct run_seq {
    const int32_t *prompt;
    int32_t n_prompt, n_new; /* generate n_new tokens */
    const sample_params *params;
    sample_out *prompt_out; /* [n_prompt] or NULL */
    int32_t choice;
    int32_t adapter;      /* its virtual tokens are part of the prompt */
    int32_t start_step;   /* joins the batch at this step */
    const int32_t *guess; /* [n_new] or NULL: what drafts are taken from */
    int32_t *ret_ids;     /* [n_new] */
    sample_out *ret_out;  /* [n_new] or NULL */
} run_seq;

typedef struct run_options {
    int32_t chunk;      /* prompt tokens a step, 0: whole */
    uint64_t page_seed; /* 0: pages in order; else a random permutation */
    int32_t depth;      /* most steps in flight; 0: what the engine takes */
    int32_t drafts;     /* most drafts of a sequence in a step, one in five of them not the guess */
    int32_t *ret_right; /* how many of them were right; or NULL */
} run_options;

/* Run all sequences to their end in one batch, each with its own pages. CHECKs what must hold. */
NODISCARD status run_batch(engine *e, run_seq *seqs, int32_t n, run_options o, error *err);

/* ||a - b|| / ||b|| */
double relative_error(const float *a, const float *b, size_t n);

/* JSON lists into fresh arrays (mem_free). */
int32_t *read_ids(const json_t *list, int32_t *ret_n);
float *read_floats(const json_t *list, int32_t *ret_n);

#endif
