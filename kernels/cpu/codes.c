/* Which matrices are multiplied code by code, and the geometry that packing and rows share. */
#include "kernels/cpu/codes.h"

#include "engine/base/check.h"

#define CHUNK_PER_ROW 128 /* of rows with one scale: a scale for so many activations */

const code_row *cpu_code_row(const cpu_backend *c, dtype dt, const quant_spec *q, int32_t k) {
    const code_row *const rows[] = {c->rows.codes_int8, c->rows.codes_narrow};
    if (!q) return NULL;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int32_t chunk = rows[i] ? rows[i]->chunk(dt, q, k) : 0;
        if (chunk && codes_act_ok(q, chunk)) return rows[i];
    }
    return NULL;
}

act_rounding cpu_native_act(backend *b, dtype dt, const quant_spec *q, int32_t k) {
    const cpu_backend *c = (const cpu_backend *)b;
    const code_row *const rows[] = {c->rows.codes_int8, c->rows.codes_narrow};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int32_t chunk = rows[i] ? rows[i]->chunk(dt, q, k) : 0;
        if (chunk) return (act_rounding){ACT_ROUND_INT8_GROUP, chunk};
    }
    return (act_rounding){ACT_ROUND_NONE, 0};
}

int32_t codes_chunk(int32_t group, int32_t k) {
    if (group >= k) return CHUNK_PER_ROW;
    if (group % CODES_UNIT) return 0;
    for (int32_t parts = 1;; parts++) {
        int32_t chunk = group / parts;
        if (group % parts == 0 && chunk <= CODES_CHUNK && chunk % CODES_UNIT == 0) return chunk;
    }
}

/* A static shift of the activations' codes would need sums of the weights. */
bool codes_act_ok(const quant_spec *q, int32_t chunk) {
    if (q->act == ACT_ROUND_INT8_STATIC) return q->act_zero == 0 && q->act_scale > 0;
    return q->act == ACT_ROUND_INT8_TOKEN ||
           (q->act == ACT_ROUND_INT8_GROUP && q->act_group == chunk);
}

bool codes_panel_ok(const quant_spec *q) {
    return !q->has_order && q->zero >= -CODES_ZERO_MAX && q->zero <= CODES_ZERO_MAX;
}

codes_panel codes_panel_of(int bits, const quant_spec *q, int32_t k) {
    codes_panel p = {.k = k, .bits = bits, .chunk = codes_chunk(q->group, k), .zero = q->zero};
    p.n_chunks = codes_chunks(k, p.chunk);
    p.per_row = q->group >= k;
    p.has_zeros = q->has_zeros;
    p.half_scales = q->scale_dt == DT_F16 && q->scale_mul == 1;
    p.chunk_bytes = codes_panel_codes(&p, p.chunk);
    p.side_bytes = codes_panel_scale_bytes(&p);
    if (p.has_zeros) p.side_bytes += CODES_COLS * sizeof(int16_t);
    if (!p.per_row) p.chunk_bytes += p.side_bytes;
    size_t last = codes_panel_codes(&p, codes_chunk_cols(k, p.chunk, p.n_chunks - 1));
    p.bytes = (size_t)(p.n_chunks - 1) * p.chunk_bytes + last + p.side_bytes;
    return p;
}

void codes_panel_put(const codes_panel *p, void *panel, int32_t i, int32_t col, float scale,
                     int32_t zero) {
    int32_t last = p->n_chunks - 1;
    char *at = (char *)panel + (size_t)i * p->chunk_bytes +
               codes_panel_codes(p, codes_chunk_cols(p->k, p->chunk, i));
    if (p->per_row && i != last) return;
    uint16_t half = f32_to_f16(scale);
    if (p->half_scales)
        memcpy(at + (size_t)col * sizeof half, &half, sizeof half);
    else
        memcpy(at + (size_t)col * sizeof scale, &scale, sizeof scale);
    int16_t z = (int16_t)zero;
    at += codes_panel_scale_bytes(p);
    if (p->has_zeros) memcpy(at + (size_t)col * sizeof z, &z, sizeof z);
}
