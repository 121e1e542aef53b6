/* Rows of the embedding table. Plain types: a thread has four columns. GGUF blocks: a thread has a
 * run of 16 values and decodes its scales itself, as the reading of the table's bytes bounds it
 * anyway. The same bits as the CPU. Not yet timed on a GPU. */
#include "kernels/cuda/cu_cells.h"
#include "kernels/cuda/cu_quant.h"

extern "C" {
#include "engine/base/check.h"
#include "engine/base/mem.h"
}

#define CHAIN_BLOCK 128

typedef struct __align__(8) cu_half_quad {
    uint16_t v[4];
}
cu_half_quad;

/* Four columns of the table as f32. */
template <bool quads>
static __device__ __forceinline__ cu_quad table_load(const op_embed &a, int64_t at, int32_t n) {
    if (a.table_dt == DT_F32) return cu_load<quads>((const float *)a.table + at, n);
    const uint16_t *from = (const uint16_t *)a.table + at;
    cu_half_quad h;
    cu_quad q;
    if constexpr (quads)
        h = *(const cu_half_quad *)from;
    else
#pragma unroll
        for (int i = 0; i < 4; i++) h.v[i] = i < n ? from[i] : 0;
#pragma unroll
    for (int i = 0; i < 4; i++)
        q.v[i] = a.table_dt == DT_F16 ? cu_from_f16(h.v[i]) : cu_from_bf16(h.v[i]);
    return q;
}

template <bool quads> static __global__ void embed_kernel(op_embed a) {
    cu_next_begin();
    cu_cell c = cu_cell_mine(a.n_tokens, a.width);
    if (!c.n) return;
    cu_quad x = table_load<quads>(a, (int64_t)a.ids[c.row] * a.width + c.col, c.n);
    float *out = a.out + c.row * a.width + c.col;
    cu_quad before = x;
    if (a.accumulate) before = cu_load<quads>(out, c.n);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float scaled = a.scale * x.v[i];
        x.v[i] = a.accumulate ? before.v[i] + scaled : scaled;
    }
    cu_store<quads>(out, c.n, x);
}

static __global__ void embed_blocks_kernel(op_embed a, int32_t block, int32_t block_bytes) {
    int64_t i = (int64_t)blockIdx.x * CELLS_BLOCK + threadIdx.x;
    int32_t runs = a.width / CU_RUN, per = block / CU_RUN;
    int64_t t = i / runs;
    int32_t run = (int32_t)(i % runs);
    if (t >= a.n_tokens) return;
    int64_t row_bytes = (int64_t)(a.width / block) * block_bytes;
    const uint8_t *row = (const uint8_t *)a.table + a.ids[t] * row_bytes;
    float v[CU_RUN], *out = a.out + t * a.width + run * CU_RUN;
    cu_block_run(a.table_dt, row + (int64_t)(run / per) * block_bytes, run % per, v);
#pragma unroll
    for (int j = 0; j < CU_RUN; j++) {
        float scaled = a.scale * v[j];
        out[j] = a.accumulate ? out[j] + scaled : scaled;
    }
}

static __global__ void chain_kernel(op_chain a) {
    int32_t t = (int32_t)(blockIdx.x * CHAIN_BLOCK + threadIdx.x);
    if (t >= a.n_tokens || a.src[t] < 0) return;
    int32_t token = a.from[a.src[t]].token;
    a.ids[t] = token >= 0 && token < a.vocab ? token : 0;
}

void cuda_chain(backend *b, const op_chain *a) {
    cuda_backend *c = cuda_of(b);
    if (!cuda_ready(c) || a->n_tokens <= 0) return;
    CU_LAUNCH(chain_kernel, dim3((unsigned)CEIL_DIV(a->n_tokens, CHAIN_BLOCK)), dim3(CHAIN_BLOCK),
              0, c->stream, *a);
    cuda_launched(c, "chain");
}

void cuda_embed(backend *b, const op_embed *a) {
    cuda_backend *c = cuda_of(b);
    if (!cuda_ready(c) || a->n_tokens <= 0) return;
    if (dtype_kind_of(a->table_dt) == DTYPE_GGUF) {
        int32_t block = dtype_block(a->table_dt);
        CHECK(a->width % block == 0);
        int64_t n = (int64_t)a->n_tokens * (a->width / CU_RUN);
        CU_LAUNCH(embed_blocks_kernel, dim3((unsigned)((n + CELLS_BLOCK - 1) / CELLS_BLOCK)),
                  dim3(CELLS_BLOCK), 0, c->stream, *a, block,
                  (int32_t)dtype_block_bytes(a->table_dt));
    } else {
        CHECK(dtype_is_float(a->table_dt));
        bool quads = a->width % 4 == 0 && cells_aligned(a->table, 0) && cells_aligned(a->out, 0);
        CELLS_LAUNCH(c, embed_kernel, quads, a->n_tokens, a->width, *a);
    }
    cuda_launched(c, "embed");
}
