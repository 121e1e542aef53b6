/* What this machine can do right now: the limits that a kernel's speed is a fraction of. Shared
 * machines change from second to second, so a bench probes before each line. */
#ifndef KERNELS_CPU_PROBE_H
#define KERNELS_CPU_PROBE_H

#include "kernels/cpu/team.h"
#include "kernels/select.h"

typedef struct probe_limits {
    double read_gbs;    /* reading a buffer far larger than the caches of one core, GB/s */
    double f32_gflops;  /* multiply-adds in registers, 2 flops each */
    double bf16_gflops; /* what the level multiplies 16-bit types by: dot products of bf16,
                         * multiply-adds of f16; equals f32 where it has neither */
    double code_gops;   /* products of int8 codes, 2 operations each; 0 where there are none */
} probe_limits;

/* Straight-line loops of one level. Results are returned so that nothing is optimised away. */
typedef struct probe_level {
    float (*read)(const float *p, int64_t n);
    float (*f32)(int64_t rounds);
    int32_t f32_flops;             /* per round */
    float (*bf16)(int64_t rounds); /* NULL: as f32 */
    int32_t bf16_flops;
} probe_level;
/* The loop of products of codes. */
typedef struct probe_codes {
    float (*loop)(int64_t rounds);
    int32_t ops; /* per round */
} probe_codes;
extern const probe_level probe_ref;
#if defined(__x86_64__)
extern const probe_level probe_avx2, probe_avx512, probe_avx512bf16, probe_avx512fp16;
extern const probe_codes probe_codes_avx2, probe_codes_avxvnni, probe_codes_avx512vnni;
#elif defined(__aarch64__)
extern const probe_level probe_neon, probe_neonbf16;
extern const probe_codes probe_codes_neondot, probe_codes_neoni8mm;
#endif

/* Probe all members of the team together, about 3 x `ms` milliseconds. `buffer`: [bytes], touched
 * before; each member reads its part once or more. */
probe_limits probe_run(team *t, cpu_isa isa, const void *buffer, size_t bytes, int ms);

#endif
