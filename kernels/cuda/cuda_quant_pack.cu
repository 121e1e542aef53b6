/* Quantised matrices into the device's memory: which layout (cuda_quant_layout.h) each has, and
 * stored rows brought into it. wmat.layout is the matrix' gemm_kind.
 *
 * An order of columns is kept on the host until the backend closes, since rows are packed by it. */
#include <pthread.h>
#include <string.h>

#include "kernels/cuda/cuda_gemm.h"

extern "C" {
#include "engine/base/check.h"
}

#define CHUNK_ROWS 64 /* made at once */

struct cuda_columns {
    struct cuda_columns *next;
    const void *of; /* wmat.data */
    int32_t *columns;
};
static pthread_mutex_t columns_lock = PTHREAD_MUTEX_INITIALIZER;

void cuda_columns_free(cuda_backend *c) {
    while (c->columns) {
        struct cuda_columns *first = c->columns;
        c->columns = first->next;
        mem_free(first->columns);
        mem_free(first);
    }
}

/* Takes columns. */
static void keep_columns(cuda_backend *c, const wmat *w, int32_t *columns) {
    pthread_mutex_lock(&columns_lock);
    struct cuda_columns *at = c->columns;
    while (at && at->of != w->data) at = at->next;
    if (!at) {
        at = (struct cuda_columns *)mem_calloc(1, sizeof *at);
        at->of = w->data;
        at->next = c->columns;
        c->columns = at;
    }
    mem_free(at->columns);
    at->columns = columns;
    pthread_mutex_unlock(&columns_lock);
}

static const int32_t *kept_columns(cuda_backend *c, const wmat *w) {
    pthread_mutex_lock(&columns_lock);
    const struct cuda_columns *at = c->columns;
    while (at && at->of != w->data) at = at->next;
    pthread_mutex_unlock(&columns_lock);
    return at ? at->columns : NULL;
}

gemm_kind cuda_quant_kind(const cuda_backend *c, int32_t k, dtype dt, const quant_spec *q) {
    return gemm_kind_of(dt, k, q, c->cc);
}

size_t cuda_quant_bytes(backend *b, int32_t n, int32_t k, dtype dt, const quant_spec *spec) {
    return quant_layout_of(cuda_quant_kind(cuda_of(b), k, dt, spec), dt, spec, n, k).bytes;
}

void cuda_quant_init(backend *b, wmat *w, int32_t n, int32_t k, dtype dt, const quant_spec *spec,
                     void *data) {
    CHECK(dtype_is_quant(dt) && k % (dtype_kind_of(dt) == DTYPE_GGUF ? dtype_block(dt) : 1) == 0);
    memset(w, 0, sizeof *w);
    w->n = n;
    w->k = k;
    w->dt = dt;
    w->data = data;
    w->bytes = cuda_quant_bytes(b, n, k, dt, spec);
    w->layout = cuda_quant_kind(cuda_of(b), k, dt, spec);
    if (spec) w->q = *spec;
}

typedef void (*plane_fn)(const quant_layout *l, const wmat *w, const int32_t *columns,
                         const uint8_t *stored, uint8_t *to);

static void codes_plane(const quant_layout *l, const wmat *w, const int32_t *columns,
                        const uint8_t *stored, uint8_t *to) {
    quant_layout_codes(l, w->dt, columns, stored, to);
}
static void scales_plane(const quant_layout *l, const wmat *w, const int32_t *columns,
                         const uint8_t *stored, uint8_t *to) {
    quant_layout_scales(l, w->dt, &w->q, stored, to);
}
static void zeros_plane(const quant_layout *l, const wmat *w, const int32_t *columns,
                        const uint8_t *stored, uint8_t *to) {
    quant_layout_zeros(l, w->dt, &w->q, stored, to);
}

static void pack_plane(cuda_backend *c, const wmat *w, const quant_layout *l, quant_plane p,
                       plane_fn make, int32_t row0, int32_t n_rows, const uint8_t *rows) {
    const int32_t *columns = w->q.has_order ? kept_columns(c, w) : NULL;
    size_t stored = quant_row_bytes(w->dt, &w->q, w->k);
    if (!p.row_bytes) return;
    uint8_t *made = (uint8_t *)mem_alloc(CHUNK_ROWS * p.row_bytes);
    for (int32_t r = 0, n; r < n_rows; r += n) {
        n = MIN(CHUNK_ROWS, n_rows - r);
        for (int32_t i = 0; i < n; i++)
            make(l, w, columns, rows + (size_t)(r + i) * stored, made + (size_t)i * p.row_bytes);
        cuda_put_bytes(c, (char *)w->data + p.at + (size_t)(row0 + r) * p.row_bytes, made,
                       (size_t)n * p.row_bytes);
    }
    mem_free(made);
}

void cuda_quant_pack(backend *b, wmat *w, int32_t row0, int32_t n_rows, const void *rows) {
    CHECK(row0 >= 0 && n_rows >= 0 && row0 + n_rows <= w->n);
    cuda_backend *c = cuda_of(b);
    quant_layout l = quant_layout_of((gemm_kind)w->layout, w->dt, &w->q, w->n, w->k);
    if (!quant_has_planes(l.kind)) {
        cuda_put_bytes(c, (char *)w->data + l.codes.at + (size_t)row0 * l.codes.row_bytes, rows,
                       (size_t)n_rows * l.codes.row_bytes);
        return;
    }
    const uint8_t *from = (const uint8_t *)rows;
    pack_plane(c, w, &l, l.codes, codes_plane, row0, n_rows, from);
    pack_plane(c, w, &l, l.scales, scales_plane, row0, n_rows, from);
    pack_plane(c, w, &l, l.zeros, zeros_plane, row0, n_rows, from);
}

/* int4 codes with an order: sorted by group; where groups are not whole, as other kinds. */
static bool put_order(cuda_backend *c, wmat *w, const int32_t *order) {
    size_t bytes = (size_t)w->k * sizeof(int32_t);
    int32_t *columns = (int32_t *)mem_alloc(bytes);
    if (!quant_sort_columns(&w->q, w->k, order, columns)) {
        mem_free(columns);
        w->layout = w->q.math == DT_F16 ? GEMM_VALUES_F16 : GEMM_VALUES_BF16;
        return false;
    }
    cuda_put_bytes(c, w->data, columns, bytes);
    keep_columns(c, w, columns);
    return true;
}

void cuda_quant_side(backend *b, wmat *w, const int32_t *order, const float *table) {
    size_t n = quant_side_bytes(w->dt, &w->q, w->k);
    if (!n) return;
    if (quant_has_planes((gemm_kind)w->layout) && put_order(cuda_of(b), w, order)) return;
    void *side = mem_calloc(1, n);
    quant_pack_side(w->dt, &w->q, w->k, order, table, side);
    cuda_put_bytes(cuda_of(b), w->data, side, n);
    mem_free(side);
}
