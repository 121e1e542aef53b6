/* The base's rows as numbers, tensor by tensor, from the files: what merging, binding of adapters
 * and conversion read. */
#ifndef ENGINE_TENSOR_ROWS_H
#define ENGINE_TENSOR_ROWS_H

#include "engine/weights.h"

/* Rows [row0, row0+n) of arch tensor i as stored, ret [n, max(cols,1)]: its view, stack and storage
 * type undone, its xform not applied. Maps the file. One thread at a time. */
NODISCARD status tensor_rows_stored(const weights *w, checkpoint *c, int32_t i, int32_t row0,
                                    int32_t n, float *ret, error *err);
/* Apply an xform to n rows, in place: what is stored becomes what the model uses. */
void tensor_rows_change(tensor_xform x, int32_t n, int32_t cols, float *v);

/* Row of a tensor that is row r of its view. */
static inline int64_t row_view_at(row_view v, int64_t r) {
    return v.start + r / v.run * v.stride + r % v.run;
}

#endif
