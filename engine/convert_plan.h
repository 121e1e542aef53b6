/* What convert.c and its two ends (convert_hf.c, convert_gguf.c) share. */
#ifndef ENGINE_CONVERT_PLAN_H
#define ENGINE_CONVERT_PLAN_H

#include "engine/convert.h"
#include "engine/engine_internal.h"
#include "engine/slot_read.h"
#include "engine/tensor_write.h"

typedef struct convert_plan {
    const convert_options *o;
    engine *e; /* the source, opened for planning only */
    json_t *config;
    const family *f;
    slot_reader r;
    adapter_pair merge; /* with o->adapter */
    arch *to;           /* the target */
    tensor_out *outs;   /* [n_outs] the target's tensors, each once */
    int32_t *out_of;    /* [to->n_tensors] index into outs */
    int32_t n_outs;
} convert_plan;

/* All elements of output tensor i: a tensor_fill with a convert_plan as its ctx. */
status convert_fill(void *plan, int32_t i, float *ret, error *err);

/* The target's arch, then convert_list. */
NODISCARD status convert_to_hf(convert_plan *p, error *err);
NODISCARD status convert_to_gguf(convert_plan *p, error *err);
/* What two archs compute otherwise, but for the order of rotated pairs; NULL: nothing. */
const char *convert_difference(const arch *a, const arch *b);
/* outs from p->to: drops biases that the source does not have; errors when anything else is
 * missing, or when the source has what the target has no place for. */
NODISCARD status convert_list(convert_plan *p, error *err);

#endif
