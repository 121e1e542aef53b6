/* Philox4x32-10; checked against the vectors of the authors' Random123 library. */
#include "engine/base/rng.h"

rng_block rng_philox(uint64_t key, uint64_t hi, uint64_t lo) {
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    rng_block c = {{(uint32_t)lo, (uint32_t)(lo >> 32), (uint32_t)hi, (uint32_t)(hi >> 32)}};
    for (int i = 0; i < 10; i++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c.x[0], p1 = (uint64_t)0xCD9E8D57u * c.x[2];
        c = (rng_block){{(uint32_t)(p1 >> 32) ^ c.x[1] ^ k0, (uint32_t)p1,
                         (uint32_t)(p0 >> 32) ^ c.x[3] ^ k1, (uint32_t)p0}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

uint64_t rng_bits(uint64_t seed, uint64_t position, uint32_t stream) {
    rng_block b = rng_philox(seed, stream, position);
    return (uint64_t)b.x[0] << 32 | b.x[1];
}

double rng_uniform(uint64_t seed, uint64_t position, uint32_t stream) {
    return (double)(rng_bits(seed, position, stream) >> 11) * 0x1p-53;
}
