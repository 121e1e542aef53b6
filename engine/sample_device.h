/* Sampling where the logits are: rows become rows of op_sample (kernels/ops.h), and what comes back
 * to the host is tokens and logprobs, in one copy per step. For backends with the op. */
#ifndef ENGINE_SAMPLE_DEVICE_H
#define ENGINE_SAMPLE_DEVICE_H

#include "engine/batch.h"
#include "kernels/backend.h"

typedef struct sample_device sample_device;

#define SAMPLE_STEPS_MAX 2

/* n_results: most rows of a step; n_rows: most rows of logits at a time; depth: most steps begun
 * whose results are not there yet. Everything is allocated here: sample_device_bytes of the
 * backend's memory, and up to depth times that of the host's (the same memory where the backend's
 * is the host's). */
NODISCARD status sample_device_new(backend *b, int32_t vocab, int32_t n_results, int32_t n_rows,
                                   int32_t depth, sample_device **ret, error *err);
void sample_device_free(sample_device *d);  /* takes NULL */
int64_t sample_device_edits(int32_t vocab); /* most of one call of the op */
size_t sample_device_bytes(int32_t vocab, int32_t n_results, int32_t n_rows, int32_t depth);

/* Rows of logits in the backend's memory with their statistics (op_logsumexp), as op_sample takes
 * them: written to and given back. */
typedef struct logits_block {
    float *x; /* [n,V] */
    const float *lse;
    const int32_t *argmax;
} logits_block;

/* A step: begin; for each block of logits open, choose and describe in any number and order, run;
 * then fetch, which waits for nothing. Row numbers are of the block, each at most once. choose and
 * describe return the number of the result, which belongs to it until depth later steps have begun.
 */
void sample_device_begin(sample_device *d);
void sample_device_open(sample_device *d, const logits_block *block);
int32_t sample_device_choose(sample_device *d, const batch_seq *q, int32_t row);
int32_t sample_device_describe(sample_device *d, int32_t token, int32_t n_logprobs, int32_t row);
void sample_device_run(sample_device *d);
/* What the host chose (out, where st is OK) as a result like the others; between runs. */
int32_t sample_device_put(sample_device *d, status st, const sample_out *out);
void sample_device_fetch(sample_device *d);
/* All results, by their numbers, in the backend's memory: for op_chain. */
const sample_result *sample_device_results(const sample_device *d);

/* False where a choice needs the host: typical_p. */
bool sample_device_can(const sample_params *p);
/* Result i, when its step was fetched and that is done; statuses as of sampler_choose, ret
 * untouched unless OK. */
NODISCARD status sample_device_result(const sample_device *d, int32_t i, sample_out *ret);

#endif
