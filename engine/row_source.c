/* Transposed tensors: Conv1D weights [in, out], and halves of a packed projection that multiply
 * from the other side. Output rows are columns of the file; a strip of them is gathered at a time,
 * so that each cache line of the file is used for several rows. */
#include "engine/row_source.h"

#include <string.h>

#include "engine/base/mem.h"

typedef struct transposed {
    row_source s;
    const char *data; /* element (0, 0) of the stack's matrix */
    dtype dt;
    int64_t stride; /* elements between rows of the file */
    row_view view;  /* of what the file's rows (view_rows) or columns stand for */
    bool view_rows; /* the view picks rows of the file: they are our columns */
} transposed;

float row_float(const void *p, dtype dt, size_t i) {
    if (dt == DT_F32) {
        float x;
        memcpy(&x, (const char *)p + 4 * i, 4);
        return x;
    }
    uint16_t h;
    memcpy(&h, (const char *)p + 2 * i, 2);
    return dt == DT_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
}

static int64_t picked(row_view v, int64_t r) {
    return v.start + r / v.run * v.stride + r % v.run;
}

static void read_transposed(const row_source *s, int32_t row0, int32_t n, void *out) {
    const transposed *t = (const transposed *)s;
    float *to = out;
    for (int32_t k = 0; k < s->cols; k++) {
        int64_t line = t->view_rows ? picked(t->view, k) : k;
        for (int32_t r = 0; r < n; r++) {
            int64_t col = t->view_rows ? row0 + r : picked(t->view, row0 + r);
            to[(size_t)r * (size_t)s->cols + (size_t)k] =
                row_float(t->data, t->dt, (size_t)(line * t->stride + col));
        }
    }
}

static void done_transposed(row_source *s) {
    mem_free(s);
}

status row_source_transposed(checkpoint *c, const st_tensor *st, const arch_tensor *t,
                             row_source **ret, error *err) {
    const char *file;
    TRY(checkpoint_map(c, st->file, &file, err));
    int64_t lines = t->transpose ? t->cols : t->src_rows;
    int64_t width = t->transpose ? t->src_rows : t->rows;
    transposed *p = mem_alloc(sizeof *p);
    *p = (transposed){.s = {.rows = t->rows,
                            .cols = t->cols,
                            .dt = DT_F32,
                            .read = read_transposed,
                            .done = done_transposed},
                      .data =
                          file + st->off + (size_t)(t->stack * lines * width) * dtype_bytes(st->dt),
                      .dt = st->dt,
                      .stride = width,
                      .view = t->view,
                      .view_rows = t->transpose_view};
    *ret = &p->s;
    return OK;
}

size_t row_source_bytes(const row_source *s) {
    return quant_row_bytes(s->dt, &s->spec, s->cols);
}

void row_source_free(row_source *s) {
    if (s) s->done(s);
}
