/* The table of the reference level: every slot is filled. */
#include "kernels/ref/ref.h"

const cpu_rows rows_ref = {
#define CODE_ROW(slot, type, op, dtypes)
#define ROW(slot, type, op, dtypes) .slot = &ref_##slot,
#include "kernels/ref/rows.def"
#undef ROW
};
