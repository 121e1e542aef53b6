/* Products here are plain loops: they run once when an adapter is loaded (DoRA's norms) or merged,
 * over the rank only, and the compiler makes vectors of them. */
#include "engine/adapter_delta.h"

#include <math.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"

static const char *file_of(const adapter_source *s, const st_tensor *t) {
    return s->files.files[t->file];
}

static status misshapen(const adapter_source *s, const st_tensor *t, const char *want, error *err) {
    char shape[128];
    st_tensor_describe(t, shape, sizeof shape);
    return error_set(err, ERR_FORMAT, "%s: tensor \"%s\": expected %s, found %s", file_of(s, t),
                     t->name, want, shape);
}

/* t as [r,c] with the bounds of an int32; a vector counts as [n,1]. */
static status shape2(const adapter_source *s, const st_tensor *t, int32_t *ret_r, int32_t *ret_c,
                     error *err) {
    bool ok = t->n_dims == 1 || t->n_dims == 2;
    for (int32_t i = 0; i < t->n_dims && ok; i++) ok = t->dims[i] >= 1 && t->dims[i] <= 1 << 26;
    if (!ok) return misshapen(s, t, "a matrix or a vector", err);
    *ret_r = (int32_t)t->dims[0];
    *ret_c = t->n_dims == 2 ? (int32_t)t->dims[1] : 1;
    return OK;
}

static status read_fresh(const adapter_source *s, const st_tensor *t, float **ret, error *err) {
    int64_t n = st_tensor_elements(t);
    if (n < 1 || (uint64_t)n > t->bytes) return misshapen(s, t, "whole elements", err);
    float *p = mem_alloc((size_t)n * sizeof *p);
    status st = adapter_source_read(s, t, p, err);
    if (st == OK)
        *ret = p;
    else
        mem_free(p);
    return st;
}

/* A vector of n elements, [n] or [n,1] or [1,n]. */
static status read_vector(const adapter_source *s, const st_tensor *t, int32_t n, float **ret,
                          error *err) {
    int32_t r = 0, c = 0;
    char want[48];
    snprintf(want, sizeof want, "%d elements", n);
    TRY(shape2(s, t, &r, &c, err));
    if ((r != n || c != 1) && (r != 1 || c != n)) return misshapen(s, t, want, err);
    return read_fresh(s, t, ret, err);
}

/* [rows,cols] turned over, freeing it. */
static float *turned(float *p, int32_t rows, int32_t cols) {
    float *q = mem_alloc((size_t)rows * (size_t)cols * sizeof *q);
    for (int32_t r = 0; r < rows; r++)
        for (int32_t c = 0; c < cols; c++)
            q[(size_t)c * (size_t)rows + (size_t)r] = p[(size_t)r * (size_t)cols + (size_t)c];
    mem_free(p);
    return q;
}

static status read_low_rank(const adapter_source *s, const adapter_module *m, adapter_delta *d,
                            error *err) {
    d->is_embedding = m->t[ROLE_EMBED_A] || m->t[ROLE_EMBED_B];
    const st_tensor *a = m->t[d->is_embedding ? ROLE_EMBED_A : ROLE_A];
    const st_tensor *b = m->t[d->is_embedding ? ROLE_EMBED_B : ROLE_B];
    int32_t rank, b_cols = 0;
    if (!a && !b) return OK;
    if (!a || !b || (d->is_embedding && (m->t[ROLE_A] || m->t[ROLE_B])))
        return error_set(err, ERR_FORMAT, "%s: module %s has lora_%c without lora_%c",
                         file_of(s, a ? a : b), m->name, a ? 'A' : 'B', a ? 'B' : 'A');
    if (a->n_dims == 2 && a->dims[0] == 0) return OK; /* AdaLoRA took every rank away */
    TRY(shape2(s, a, &d->rank, &d->cols, err));
    TRY(shape2(s, b, &d->rows, &b_cols, err));
    rank = d->rank;
    if (b_cols != rank || b->n_dims != 2 || a->n_dims != 2) {
        char want[64];
        snprintf(want, sizeof want, "[%d, %d]", d->rows, rank);
        return misshapen(s, b, want, err);
    }
    TRY(adapter_config_scale(&s->config, m->name, rank, &d->scale, err));
    TRY(read_fresh(s, a, &d->a, err));
    TRY(read_fresh(s, b, &d->b, err));
    if (d->is_embedding) {
        float *table = turned(d->a, rank, d->cols);
        d->a = turned(d->b, d->rows, rank);
        d->b = table;
        int32_t rows = d->rows;
        d->rows = d->cols;
        d->cols = rows;
    }
    d->s = mem_alloc((size_t)rank * sizeof *d->s);
    for (int32_t i = 0; i < rank; i++) d->s[i] = (float)d->scale;
    return OK;
}

static status need_low_rank(const adapter_source *s, const adapter_module *m,
                            const adapter_delta *d, const st_tensor *t, error *err) {
    if (d->rank && !d->is_embedding) return OK;
    return error_set(err, ERR_FORMAT, "%s: tensor \"%s\": module %s has no lora_A and lora_B",
                     file_of(s, t), t->name, m->name);
}

static status read_extras(const adapter_source *s, const adapter_module *m, adapter_delta *d,
                          error *err) {
    const st_tensor *e = m->t[ROLE_E], *mag = m->t[ROLE_MAGNITUDE], *bb = m->t[ROLE_B_BIAS];
    if (e && st_tensor_elements(e) == 0) return OK;
    if (e) {
        float *v = NULL;
        TRY(need_low_rank(s, m, d, e, err));
        TRY(read_vector(s, e, d->rank, &v, err));
        for (int32_t i = 0; i < d->rank; i++) d->s[i] = (float)(d->scale * (double)v[i]);
        mem_free(v);
    } else if (d->rank && s->config.kind == ADAPTER_ADALORA) {
        return error_set(err, ERR_FORMAT, "%s: module %s has no lora_E", s->files.files[0],
                         m->name);
    }
    if (mag) {
        TRY(need_low_rank(s, m, d, mag, err));
        TRY(read_vector(s, mag, d->rows, &d->magnitude, err));
        d->c = mem_calloc((size_t)d->rows, sizeof *d->c);
    } else if (d->rank && s->config.dora) {
        return error_set(err, ERR_FORMAT, "%s: module %s has no lora_magnitude_vector",
                         s->files.files[0], m->name);
    }
    if (bb) {
        TRY(need_low_rank(s, m, d, bb, err));
        if (mag)
            return error_set(err, ERR_UNSUPPORTED,
                             "%s: tensor \"%s\": a bias of lora_B with DoRA "
                             "is not supported",
                             file_of(s, bb), bb->name);
        TRY(read_vector(s, bb, d->rows, &d->b_bias, err));
    }
    return OK;
}

static status read_ia3(const adapter_source *s, const st_tensor *t, adapter_delta *d, error *err) {
    int32_t r = 0, c = 0;
    TRY(shape2(s, t, &r, &c, err));
    if (t->n_dims != 2 || (r != 1 && c != 1)) return misshapen(s, t, "[out, 1] or [1, in]", err);
    d->c_scales_bias = c == 1;
    if (c == 1)
        d->rows = r;
    else
        d->cols = c;
    return read_fresh(s, t, c == 1 ? &d->c : &d->d, err);
}

static status read_replaced(const adapter_source *s, const adapter_module *m, adapter_delta *d,
                            error *err) {
    const st_tensor *w = m->t[ROLE_WEIGHT], *b = m->t[ROLE_BIAS];
    int32_t r = 0, c = 0;
    if (w) {
        TRY(shape2(s, w, &r, &c, err));
        if ((d->rows && r != d->rows) || (d->cols && c != d->cols)) {
            char want[64];
            snprintf(want, sizeof want, "[%d, %d]", d->rows, d->cols);
            return misshapen(s, w, want, err);
        }
        d->rows = r;
        d->cols = w->n_dims == 2 ? c : 0;
        TRY(read_fresh(s, w, &d->weight, err));
    }
    if (b) {
        TRY(shape2(s, b, &r, &c, err));
        if (!d->rows) d->rows = r;
        TRY(read_vector(s, b, d->rows, &d->bias, err));
    }
    return OK;
}

status adapter_delta_read(const adapter_source *s, const adapter_module *m, adapter_delta *ret,
                          error *err) {
    adapter_delta d = {.name = m->name};
    status st = read_low_rank(s, m, &d, err);
    if (st == OK) st = read_extras(s, m, &d, err);
    if (st == OK && m->t[ROLE_IA3]) st = read_ia3(s, m->t[ROLE_IA3], &d, err);
    if (st == OK) st = read_replaced(s, m, &d, err);
    if (st == OK)
        *ret = d;
    else
        adapter_delta_done(&d);
    return st;
}

void adapter_delta_done(adapter_delta *d) {
    mem_free(d->a);
    mem_free(d->b);
    mem_free(d->s);
    mem_free(d->b_bias);
    mem_free(d->magnitude);
    mem_free(d->c);
    mem_free(d->d);
    mem_free(d->weight);
    mem_free(d->bias);
    *d = (adapter_delta){0};
}

/* w += (B s A)[row], without c. */
static void add_low_rank(const adapter_delta *d, int64_t row, float *w) {
    const float *b = d->b + (size_t)row * (size_t)d->rank;
    for (int32_t k = 0; k < d->rank; k++) {
        const float *a = d->a + (size_t)k * (size_t)d->cols;
        float by = b[k] * d->s[k];
        for (int32_t c = 0; c < d->cols; c++) w[c] += by * a[c];
    }
}

void adapter_delta_merge(const adapter_delta *d, int64_t row0, int64_t n, int64_t cols, float *w) {
    size_t width = (size_t)cols;
    CHECK(!d->cols || d->cols == cols);
    for (int64_t row = row0; row < row0 + n; row++, w += cols) {
        if (d->weight) memcpy(w, d->weight + (size_t)row * width, width * sizeof *w);
        for (size_t c = 0; d->d && c < width; c++) w[c] *= d->d[c];
        if (d->rank) add_low_rank(d, row, w);
        for (size_t c = 0; d->c && c < width; c++) w[c] *= d->c[row];
    }
}

bool adapter_delta_merge_bias(const adapter_delta *d, int64_t row0, int64_t n, float *b) {
    for (int64_t i = 0; i < n; i++) {
        int64_t row = row0 + i;
        if (d->bias) b[i] = d->bias[row];
        if (d->c && d->c_scales_bias) b[i] *= d->c[row];
        if (d->b_bias) b[i] += (float)(d->scale * (double)d->b_bias[row]);
    }
    return d->bias || d->b_bias;
}

void adapter_delta_norm(adapter_delta *d, int64_t row0, int64_t n, int64_t cols, const float *w) {
    if (!d->magnitude) return;
    CHECK(d->cols == cols);
    size_t width = (size_t)cols;
    float *row = mem_alloc(width * sizeof *row);
    for (int64_t r = row0; r < row0 + n; r++, w += cols) {
        memcpy(row, d->weight ? d->weight + (size_t)r * width : w, width * sizeof *row);
        add_low_rank(d, r, row);
        double sum = 0;
        for (size_t c = 0; c < width; c++) sum += (double)row[c] * (double)row[c];
        d->c[r] = sum > 0 ? (float)((double)d->magnitude[r] / sqrt(sum)) : 0;
    }
    mem_free(row);
}

void adapter_delta_turn(adapter_delta *d) {
    int32_t rows = d->rows;
    if (!d->weight || d->rank || !d->cols) return;
    d->weight = turned(d->weight, d->rows, d->cols);
    d->rows = d->cols;
    d->cols = rows;
}
