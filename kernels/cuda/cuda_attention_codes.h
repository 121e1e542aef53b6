/* Keys and values in eight bits (kv8.h) on their way to the bf16 attention kernels: codes are
 * copied as they are to shared memory while the block before is computed, then brought to bf16 in
 * the tile that the kernel reads. From there all is as with bf16 pages.
 *
 * A thread converts the pieces that it has copied itself, and holds their scales in registers. A
 * code becomes a bf16 exactly, in pairs and by integer operations that every chip has; the product
 * with its scale is rounded once: the tile is what bf16 pages of the stored values would be.
 *
 * Bytes from memory: half of bf16's. A page's part of a kv head is [S][width] codes, then [S]
 * scales (two of a latent row). */
#ifndef KERNELS_CUDA_CUDA_ATTENTION_CODES_H
#define KERNELS_CUDA_CUDA_ATTENTION_CODES_H

#include "kernels/cuda/cu_half.h"
#include "kernels/cuda/cuda_attention_mma.h"

/* Pairs of codes 0,1 and 2,3 of a word as bf16. E4M3 moved into a bf16 is 2^-120 times its value;
 * the seven low bits of an integer are 128 + them in the mantissa of 128.0, the sign is 128 less.
 */
static __device__ __forceinline__ void attn_codes_bf16(bool f8, uint32_t word, uint32_t pair[2]) {
    if (f8) {
        uint32_t h[2] = {__byte_perm(word, 0, 0x1404), __byte_perm(word, 0, 0x3424)};
#pragma unroll
        for (int i = 0; i < 2; i++)
            pair[i] = cu_bf16::times((h[i] & 0x80008000u) | (h[i] >> 4 & 0x07f007f0u), 0x7b807b80u);
    } else {
        uint32_t h[2] = {__byte_perm(word, 0, 0x4140), __byte_perm(word, 0, 0x4342)};
#pragma unroll
        for (int i = 0; i < 2; i++)
            pair[i] = cu_bf16::minus((h[i] & 0x007f007fu) | cu_bf16::BASE_BITS,
                                     (h[i] & 0x00800080u) | cu_bf16::BASE_BITS);
    }
}

/* The scales of columns col and col+1 as a pair: `both` is the scale of all columns twice, or of a
 * latent row the latent part's in the lower half, the rope part's in the upper. */
template <bool latent>
static __device__ __forceinline__ uint32_t attn_scale_pair(uint32_t both, int col, int split) {
    if (!latent) return both;
    return (col < split ? both & 0xffffu : both >> 16) |
           (col + 1 < split ? both << 16 : both & 0xffff0000u);
}

/* What a thread has under way: rows threadIdx / EACH, + threads / EACH, ... of a block of keys, of
 * each every EACH-th piece of 16 codes; of keys and, but with latent rows, of values. */
template <int block_keys, int threads, bool latent> struct attn_codes {
    enum {
        EACH = threads / block_keys > 4 ? threads / block_keys : 4,
        STEP = threads / EACH,
        ROWS = block_keys / STEP,
        SIDES = latent ? 1 : 2
    };
    uint32_t scale[ROWS][SIDES];
};

/* Bytes of shared memory that codes of a block of keys need. */
static inline size_t attn_codes_smem(int block_keys, bool latent, int width) {
    return (size_t)(block_keys * (latent ? 1 : 2) * attn_steps(width)) * 16;
}

/* Sixteen codes from `from`, those past n as zeros. */
static __device__ __forceinline__ uint4 attn_gather_codes(const uint8_t *from, int n) {
    uint32_t w[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 16; i++)
        if (i < n) w[i / 4] |= (uint32_t)from[i] << (i % 4 * 8);
    return make_uint4(w[0], w[1], w[2], w[3]);
}

/* Start to copy the codes of keys [key, key+block_keys) (and values) to raw, their scales to
 * registers; keys that no row sees become zeros and are not read. The caller commits and waits. */
template <int block_keys, int threads, bool latent>
static __device__ __forceinline__ void
attn_fetch_codes(const attn_args &a, const attn_place &p, int key, unsigned char *raw, int steps,
                 attn_codes<block_keys, threads, latent> &c) {
    typedef attn_codes<block_keys, threads, latent> codes;
    int part = (int)threadIdx.x % codes::EACH, row = (int)threadIdx.x / codes::EACH;
#pragma unroll
    for (int i = 0; i < codes::ROWS; i++, row += codes::STEP) {
        bool seen = key + row >= p.key0 && key + row <= p.key1;
        int at = 0;
        int64_t head = seen ? attn_head_at(a, p.s, p.kv_head, key + row, &at) * a.head_bytes : 0;
#pragma unroll
        for (int side = 0; side < codes::SIDES; side++) {
            const uint8_t *block = static_cast<const uint8_t *>(side ? a.v : a.k) + head;
            const uint8_t *from = block + (int64_t)at * a.width;
            const uint8_t *scales = block + (int64_t)a.page_tokens * a.width;
            uint32_t s = 0;
            if (seen && latent)
                s = reinterpret_cast<const uint32_t *>(scales)[at];
            else if (seen)
                s = reinterpret_cast<const uint16_t *>(scales)[at] * 0x10001u;
            c.scale[i][side] = s;
            for (int piece = part; piece < steps; piece += codes::EACH) {
                unsigned char *to = raw + ((side * block_keys + row) * steps + piece) * 16;
                bool valid = seen && piece * 16 < a.width;
                if (a.aligned)
                    cu_copy16_async(to, valid ? from + piece * 16 : block, valid);
                else
                    *reinterpret_cast<uint4 *>(to) =
                        attn_gather_codes(from + piece * 16, valid ? a.width - piece * 16 : 0);
            }
        }
    }
}

/* What was fetched to the tile of keys, and the values to the tile behind it. */
template <int block_keys, int threads, bool latent>
static __device__ __forceinline__ void
attn_convert_codes(const attn_args &a, const unsigned char *raw, uint16_t *tile, int steps,
                   const attn_codes<block_keys, threads, latent> &c) {
    typedef attn_codes<block_keys, threads, latent> codes;
    int part = (int)threadIdx.x % codes::EACH, row = (int)threadIdx.x / codes::EACH;
    int ld = steps * 16 + 8;
#pragma unroll
    for (int i = 0; i < codes::ROWS; i++, row += codes::STEP)
#pragma unroll
        for (int side = 0; side < codes::SIDES; side++)
            for (int piece = part; piece < steps; piece += codes::EACH) {
                int line = side * block_keys + row, col = piece * 16;
                uint4 w = *reinterpret_cast<const uint4 *>(raw + (line * steps + piece) * 16);
                uint32_t words[4] = {w.x, w.y, w.z, w.w}, x[8];
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    attn_codes_bf16(a.f8, words[j], x + 2 * j);
#pragma unroll
                    for (int e = 0; e < 2; e++)
                        x[2 * j + e] = cu_bf16::times(
                            x[2 * j + e], attn_scale_pair<latent>(c.scale[i][side],
                                                                  col + j * 4 + e * 2, a.split));
                }
                uint4 *to = reinterpret_cast<uint4 *>(tile + line * ld + col);
                to[0] = make_uint4(x[0], x[1], x[2], x[3]);
                to[1] = make_uint4(x[4], x[5], x[6], x[7]);
            }
}

#endif
