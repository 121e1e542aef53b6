/* Tensors whose rows must be turned into floats first: Conv1D weights [in, out], halves of a packed
 * projection that multiply from the other side, blocks that something is still done to. A line is
 * a row of the file; of a transposed tensor it is one column of ours. */
#include "engine/row_source.h"

#include <string.h>

#include "engine/base/mem.h"

typedef struct float_rows {
    row_source s;
    const char *data; /* line 0 of the stack's matrix */
    dtype dt;
    int64_t width; /* values of a line */
    row_view view; /* of lines, or of columns if it is transposed without view_lines */
    bool transposed;
    bool view_lines; /* transposed, and the view picks lines: they are our columns */
} float_rows;

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

/* A line as floats. */
static void line_f32(const float_rows *t, int64_t line, float *buf) {
    const char *p = t->data + (size_t)line * dtype_row_bytes(t->dt, t->width);
    if (dtype_is_quant(t->dt))
        quant_blocks_f32(t->dt, p, t->width, buf);
    else
        for (int64_t i = 0; i < t->width; i++) buf[i] = row_float(p, t->dt, (size_t)i);
}

static void read_floats(const row_source *s, int32_t row0, int32_t n, void *out) {
    const float_rows *t = (const float_rows *)s;
    float *to = out, *buf = mem_alloc((size_t)t->width * sizeof *buf);
    size_t cols = (size_t)s->cols;
    for (int32_t r = 0; r < n && !t->transposed; r++)
        line_f32(t, picked(t->view, row0 + r), to + (size_t)r * cols);
    for (int32_t k = 0; k < s->cols && t->transposed; k++) {
        line_f32(t, t->view_lines ? picked(t->view, k) : k, buf);
        for (int32_t r = 0; r < n; r++)
            to[(size_t)r * cols + (size_t)k] =
                buf[t->view_lines ? row0 + r : picked(t->view, row0 + r)];
    }
    mem_free(buf);
}

static void done_floats(row_source *s) {
    mem_free(s);
}

status row_source_floats(checkpoint *c, const st_tensor *st, const arch_tensor *t, row_source **ret,
                         error *err) {
    const char *file;
    TRY(checkpoint_map(c, st->file, &file, err));
    int64_t lines = t->transpose ? t->cols : t->src_rows;
    int64_t width = t->transpose ? t->src_rows : t->transpose_view ? t->rows : t->cols;
    float_rows *p = mem_alloc(sizeof *p);
    *p = (float_rows){.s = {.rows = t->rows, .cols = t->cols, .dt = DT_F32},
                      .data = file + st->off +
                              (size_t)(t->stack * lines) * dtype_row_bytes(st->dt, width),
                      .dt = st->dt,
                      .width = width,
                      .view = t->view,
                      .transposed = t->transpose || t->transpose_view,
                      .view_lines = t->transpose_view};
    p->s.read = read_floats;
    p->s.done = done_floats;
    *ret = &p->s;
    return OK;
}

void row_source_free(row_source *s) {
    if (s) s->done(s);
}

size_t row_source_bytes(const row_source *s) {
    return quant_row_bytes(s->dt, &s->spec, s->cols);
}
