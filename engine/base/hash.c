/* hash64: multiply-fold over 16-byte blocks (128-bit products), good avalanche, ~10 GB/s.
 * SipHash and SHA-256 follow their papers; both are checked against published vectors. */
#include "engine/base/hash.h"

#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#include "engine/base/check.h"

static uint64_t load64(const void *p) {
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static uint64_t fold(uint64_t a, uint64_t b) {
    __uint128_t m = (__uint128_t)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

uint64_t hash64(const void *data, size_t n, uint64_t seed) {
    static const uint64_t c0 = 0x9E3779B97F4A7C15u, c1 = 0xC2B2AE3D27D4EB4Fu,
                          c2 = 0x165667B19E3779F9u;
    const unsigned char *p = data;
    uint64_t h = seed ^ c0, left = n;
    for (; left > 16; left -= 16, p += 16) h = fold(load64(p) ^ c1 ^ h, load64(p + 8) ^ c2);
    uint64_t tail[2] = {0, 0};
    if (left) memcpy(tail, p, left);
    h = fold(tail[0] ^ c1 ^ h, tail[1] ^ c2 ^ n);
    return fold(h ^ c2, n ^ c1);
}

/* CRC-32C: by the instruction where there is one, else eight bytes a step by tables. */

static uint32_t crc_table[8][256];
static pthread_once_t crc_once = PTHREAD_ONCE_INIT;

static void make_crc_table(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) c = c >> 1 ^ (c & 1 ? 0x82F63B78u : 0);
        crc_table[0][i] = c;
    }
    for (int t = 1; t < 8; t++)
        for (int i = 0; i < 256; i++)
            crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 255];
}

static uint32_t crc_plain(const unsigned char *p, size_t n, uint32_t c) {
    pthread_once(&crc_once, make_crc_table);
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t low = c ^ ((uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 |
                            (uint32_t)p[3] << 24);
        c = crc_table[7][low & 255] ^ crc_table[6][low >> 8 & 255] ^ crc_table[5][low >> 16 & 255] ^
            crc_table[4][low >> 24] ^ crc_table[3][p[4]] ^ crc_table[2][p[5]] ^ crc_table[1][p[6]] ^
            crc_table[0][p[7]];
    }
    while (n--) c = c >> 8 ^ crc_table[0][(c ^ *p++) & 255];
    return c;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_fast(const unsigned char *p, size_t n,
                                                           uint32_t c) {
    uint64_t wide = c;
    for (; n >= 8; n -= 8, p += 8) wide = __builtin_ia32_crc32di(wide, load64(p));
    c = (uint32_t)wide;
    while (n--) c = __builtin_ia32_crc32qi(c, *p++);
    return c;
}

/* The instruction takes three cycles and a new one can begin in each. */
__attribute__((target("sse4.2"))) static void crc_fast_four(const unsigned char *p, size_t n,
                                                            uint32_t ret[4]) {
    uint64_t c[4] = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    size_t whole = n / 8 * 8;
    for (size_t i = 0; i < whole; i += 8)
        for (size_t k = 0; k < 4; k++) c[k] = __builtin_ia32_crc32di(c[k], load64(p + k * n + i));
    for (size_t k = 0; k < 4; k++) ret[k] = ~crc_fast(p + k * n + whole, n - whole, (uint32_t)c[k]);
}
#endif

uint32_t crc32c(const void *p, size_t n, uint32_t crc) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) return ~crc_fast(p, n, ~crc);
#endif
    return ~crc_plain(p, n, ~crc);
}

void crc32c_four(const void *p, size_t n, uint32_t ret[4]) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) {
        crc_fast_four(p, n, ret);
        return;
    }
#endif
    for (size_t k = 0; k < 4; k++) ret[k] = ~crc_plain((const unsigned char *)p + k * n, n, ~0u);
}

hash_key hash_key_random(void) {
    hash_key k;
    CHECK(getrandom(&k, sizeof k, 0) == (ssize_t)sizeof k);
    return k;
}

#define ROTL(x, b) ((x) << (b) | (x) >> (64 - (b)))

static void sip_round(uint64_t v[4]) {
    v[0] += v[1], v[1] = ROTL(v[1], 13) ^ v[0], v[0] = ROTL(v[0], 32);
    v[2] += v[3], v[3] = ROTL(v[3], 16) ^ v[2];
    v[0] += v[3], v[3] = ROTL(v[3], 21) ^ v[0];
    v[2] += v[1], v[1] = ROTL(v[1], 17) ^ v[2], v[2] = ROTL(v[2], 32);
}

hash128 hash128_of(hash_key key, const void *data, size_t n) {
    uint64_t v[4] = {key.k[0] ^ 0x736f6d6570736575u, key.k[1] ^ 0x646f72616e646f6du ^ 0xee,
                     key.k[0] ^ 0x6c7967656e657261u, key.k[1] ^ 0x7465646279746573u};
    const unsigned char *p = data;
    size_t left = n;
    for (; left >= 8; left -= 8, p += 8) {
        uint64_t m = load64(p);
        v[3] ^= m;
        sip_round(v), sip_round(v);
        v[0] ^= m;
    }
    uint64_t m = (uint64_t)n << 56;
    for (size_t i = 0; i < left; i++) m |= (uint64_t)p[i] << (8 * i);
    v[3] ^= m;
    sip_round(v), sip_round(v);
    v[0] ^= m;
    v[2] ^= 0xee;
    for (int i = 0; i < 4; i++) sip_round(v);
    hash128 r;
    r.h[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    for (int i = 0; i < 4; i++) sip_round(v);
    r.h[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
    return r;
}

#define ROTR32(x, b) ((x) >> (b) | (x) << (32 - (b)))

static void sha256_block(uint32_t h[8], const uint8_t *p) {
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
        0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
        0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
        0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
        0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
        0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
        0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
        0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
        0xc67178f2};
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
               (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (ROTR32(a, 7) ^ ROTR32(a, 18) ^ a >> 3) +
               (ROTR32(b, 17) ^ ROTR32(b, 19) ^ b >> 10);
    }
    memcpy(s, h, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = s[7] + (ROTR32(s[4], 6) ^ ROTR32(s[4], 11) ^ ROTR32(s[4], 25)) +
                      ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
        uint32_t t2 = (ROTR32(s[0], 2) ^ ROTR32(s[0], 13) ^ ROTR32(s[0], 22)) +
                      ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof s[0]);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += s[i];
}

void sha256(const void *data, size_t n, uint8_t out[32]) {
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const uint8_t *p = data;
    size_t left = n;
    for (; left >= 64; left -= 64, p += 64) sha256_block(h, p);
    uint8_t tail[128] = {0};
    if (left) memcpy(tail, p, left);
    tail[left] = 0x80;
    size_t end = left < 56 ? 64 : 128;
    for (int i = 0; i < 8; i++) tail[end - 1 - (size_t)i] = (uint8_t)((uint64_t)n * 8 >> (8 * i));
    sha256_block(h, tail);
    if (end == 128) sha256_block(h, tail + 64);
    for (int i = 0; i < 32; i++) out[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

int bytes_equal_ct(const void *a, const void *b, size_t n) {
    const volatile uint8_t *x = a, *y = b;
    uint8_t diff = 0;
    for (size_t i = 0; i < n; i++) diff |= x[i] ^ y[i];
    return diff == 0;
}
