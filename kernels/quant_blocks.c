/* Whole GGUF blocks to f32: the runs of quant_values.inc, type by type, so that each type is a loop
 * of its own with its scales read once. */
#include "engine/base/check.h"
#include "kernels/quant.h"

#define QUANT_FN       static inline
#define QUANT_TABLE    static const
#define QUANT_RESTRICT restrict
#define QUANT_F16      f16_to_f32
#define QUANT_E8M0     f8_e8m0_to_f32
#define QUANT_E4M3     f8_e4m3_values
#include "kernels/quant_values.inc"

/* n values of one type, whole blocks. */
#define BLOCKS_OF(dt, runs, run_of)                                                                \
    static void blocks_##run_of(const uint8_t *restrict b, int64_t n, float *restrict v) {         \
        for (int64_t i = 0; i < n; b += dtype_block_bytes(dt))                                     \
            _Pragma("GCC unroll 16") for (int r = 0; r < runs; r++, i += QUANT_RUN)                \
                run_of(b, r, v + i);                                                               \
    }
QUANT_BLOCK_TYPES(BLOCKS_OF)

typedef void (*blocks_fn)(const uint8_t *restrict src, int64_t n, float *restrict values);

#define BLOCKS_ENTRY(dt, runs, run_of) [dt] = blocks_##run_of,
static const blocks_fn blocks[DT_COUNT] = {QUANT_BLOCK_TYPES(BLOCKS_ENTRY)};

void quant_blocks_f32(dtype dt, const void *src, int64_t n, float *ret) {
    CHECK(blocks[dt] && n % dtype_block(dt) == 0);
    blocks[dt](src, n, ret);
}
