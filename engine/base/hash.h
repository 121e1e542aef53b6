/* Hashes: hash64 for tables (fast, not keyed against attackers unless the seed is secret),
 * hash128 keyed (SipHash-2-4-128, Aumasson & Bernstein 2012) for prefix-cache page keys. */
#ifndef ENGINE_BASE_HASH_H
#define ENGINE_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

uint64_t hash64(const void *p, size_t n, uint64_t seed);

typedef struct hash_key {
    uint64_t k[2];
} hash_key;
typedef struct hash128 {
    uint64_t h[2];
} hash128;

hash_key hash_key_random(void); /* from the operating system */
hash128 hash128_of(hash_key key, const void *p, size_t n);

/* CRC-32C (Castagnoli, RFC 3720) of what follows bytes whose CRC is crc; 0 for the first. */
uint32_t crc32c(const void *p, size_t n, uint32_t crc);
/* Those of four neighbouring runs of n bytes, side by side: about three times as fast. */
void crc32c_four(const void *p, size_t n, uint32_t ret[4]);

/* SHA-256 (FIPS 180-4): API keys are kept only as this. */
void sha256(const void *p, size_t n, uint8_t out[32]);
/* 1 when equal; time depends on n only. */
int bytes_equal_ct(const void *a, const void *b, size_t n);

#endif
