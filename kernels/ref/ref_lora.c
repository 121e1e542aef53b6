/* Low-rank parts by their definition: row by row, sums in double, the product with A rounded to f32
 * once, after scaling. */
#include "kernels/ref/ref.h"

/* w[row,:] . x */
static double dot(const wmat *w, int32_t row, const float *x) {
    const char *p = (const char *)w->data + (size_t)row * (size_t)w->k * dtype_bytes(w->dt);
    double sum = 0;
    for (int32_t k = 0; k < w->k; k++) {
        float v = w->dt == DT_F32    ? ((const float *)p)[k]
                  : w->dt == DT_BF16 ? bf16_to_f32(((const uint16_t *)p)[k])
                                     : f16_to_f32(((const uint16_t *)p)[k]);
        sum += (double)v * x[k];
    }
    return sum;
}

static void add_parts(const lora_slot *l, const float *x, float *low, float *out) {
    for (int32_t r = 0; r < l->a.n; r++) low[r] = (float)(dot(&l->a, r, x) * l->s[r]);
    for (int32_t i = 0; i < l->n_parts; i++) {
        const lora_part *p = &l->parts[i];
        for (int32_t n = 0; n < p->b.n; n++)
            out[p->row0 + n] = (float)(dot(&p->b, n, low + p->col0) + out[p->row0 + n]);
    }
}

void ref_lora(const op_lora *a, int32_t row0, int32_t row1, float *low) {
    for (int32_t t = row0; t < row1; t++) {
        const lora_slot *l = lora_of_row(a, t);
        if (l)
            add_parts(l, (const float *)a->x + t * a->x_stride, low + (int64_t)t * a->rank,
                      a->out + t * a->out_stride);
    }
}
