/* Stateless random numbers: Philox4x32-10 (Salmon et al., SC 2011) keyed by (seed, position), so
 * that a draw depends on the request and the position alone, never on the batch. */
#ifndef ENGINE_BASE_RNG_H
#define ENGINE_BASE_RNG_H

#include <stdint.h>

typedef struct rng_block {
    uint32_t x[4];
} rng_block;

rng_block rng_philox(uint64_t key, uint64_t counter_hi, uint64_t counter_lo);
/* 64 random bits; `stream` separates uses of one (seed, position). */
uint64_t rng_bits(uint64_t seed, uint64_t position, uint32_t stream);
/* Uniform in [0, 1): their 53 high bits. */
double rng_uniform(uint64_t seed, uint64_t position, uint32_t stream);

#endif
