/* Rows of a weight that are not simply rows of a file: transposed ones, and modules of several
 * tensors. A source reads mapped files and yields rows as a backend can pack them. */
#ifndef ENGINE_ROW_SOURCE_H
#define ENGINE_ROW_SOURCE_H

#include "engine/arch.h"
#include "engine/checkpoint.h"
#include "kernels/quant.h"

typedef struct row_source {
    int32_t rows, cols;
    dtype dt;             /* of the rows it yields: a float or a quantised type */
    quant_spec spec;      /* of codes */
    const int32_t *order; /* [cols] of codes with an order, owned */
    const float *table;   /* [16] of codes with a table, owned */
    /* Rows [row0, row0+n) of [rows, cols] to out as stored rows (quant.h, or plain floats), one
     * after another. Any thread. */
    void (*read)(const struct row_source *s, int32_t row0, int32_t n, void *out);
    void (*done)(struct row_source *s); /* frees s */
} row_source;

/* Bytes of one row that it yields. */
size_t row_source_bytes(const row_source *s);

/* f32 rows of a tensor of floats or GGUF blocks, stored transposed or not. Maps the file. */
NODISCARD status row_source_floats(checkpoint *c, const st_tensor *st, const arch_tensor *t,
                                   row_source **ret, error *err);
void row_source_free(row_source *s); /* takes NULL */

/* Element i of a row of f32, f16 or bf16. */
float row_float(const void *p, dtype dt, size_t i);

#endif
