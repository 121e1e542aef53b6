#include "engine/tensor_rows.h"

#include <math.h>

#include "engine/base/mem.h"

static void floats_of(const weight_bind *b, const void *side, const char *row, int32_t cols,
                      float *ret) {
    if (dtype_is_float(b->dt)) {
        for (int32_t c = 0; c < cols; c++) ret[c] = row_float(row, b->dt, (size_t)c);
        return;
    }
    const quant_spec *spec = b->src ? &b->src->spec : NULL;
    quant_row_f32(b->dt, spec, cols, side, row, 0, cols, ret);
}

static void read_source(const weight_bind *b, int32_t row0, int32_t n, int32_t cols, float *ret) {
    const row_source *s = b->src;
    char *rows = mem_alloc((size_t)n * b->row_bytes + QUANT_STRIP);
    size_t side_bytes = dtype_is_float(b->dt) ? 0 : quant_side_bytes(b->dt, &s->spec, cols);
    char *side = side_bytes ? mem_calloc(side_bytes, 1) : NULL;
    if (side) quant_pack_side(b->dt, &s->spec, cols, s->order, s->table, side);
    s->read(s, row0, n, rows);
    for (int32_t r = 0; r < n; r++)
        floats_of(b, side, rows + (size_t)r * b->row_bytes, cols, ret + (size_t)r * (size_t)cols);
    mem_free(side);
    mem_free(rows);
}

status tensor_rows_stored(const weights *w, checkpoint *c, int32_t i, int32_t row0, int32_t n,
                          float *ret, error *err) {
    const arch_tensor *t = &w->a->tensors[i];
    const weight_bind *b = &w->bind[i];
    int32_t cols = MAX(t->cols, 1);
    const char *file;
    if (b->src) {
        read_source(b, row0, n, cols, ret);
        return OK;
    }
    TRY(checkpoint_map(c, b->st->file, &file, err));
    for (int32_t r = 0; r < n; r++) {
        int64_t row = (int64_t)t->stack * t->src_rows + row_view_at(t->view, row0 + r);
        floats_of(b, NULL, file + b->st->off + (size_t)row * b->row_bytes, cols,
                  ret + (size_t)r * (size_t)cols);
    }
    return OK;
}

void tensor_rows_change(tensor_xform x, int32_t n, int32_t cols, float *v) {
    for (int32_t i = 0; x == XFORM_PLUS_ONE && i < n * cols; i++) v[i] += 1;
    for (int32_t r = 0; x == XFORM_L2_ROWS && r < n; r++, v += cols) {
        double sum = 0;
        for (int32_t c = 0; c < cols; c++) sum += (double)v[c] * (double)v[c];
        float norm = (float)MAX(sqrt(sum), 1e-12);
        for (int32_t c = 0; c < cols; c++) v[c] /= norm;
    }
}
