/* Each probe runs its loop on every member for the given time, in rounds of a millisecond or two,
 * and takes the best round: interference can only make a limit look too low, and a short round has
 * a chance to pass without any. Reads move through the buffer, so that they stay cold. */
#include "kernels/cpu/probe.h"

#include "engine/base/clock.h"
#include "engine/base/mem.h"

#define LANES       8
#define READ_FLOATS (4 << 20) /* read by one member in one round: 16 MB */

static float ref_read(const float *p, int64_t n) {
    float s[LANES] = {0};
    for (int64_t i = 0; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) s[l] += p[i + l];
    return s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

static float ref_f32(int64_t rounds) {
    float x[32];
    for (int i = 0; i < 32; i++) x[i] = (float)i;
    for (int64_t r = 0; r < rounds; r++)
        for (int i = 0; i < 32; i++) x[i] = x[i] * 0.999f + 0.5f;
    float s = 0;
    for (int i = 0; i < 32; i++) s += x[i];
    return s;
}

const probe_level probe_ref = {ref_read, ref_f32, 64, NULL, 0};

static const probe_level *level_of(cpu_isa isa) {
#if defined(__x86_64__)
    static const probe_level *const levels[ISA_COUNT] = {
        &probe_ref,    &probe_avx2,       &probe_avx2,       &probe_avx512,
        &probe_avx512, &probe_avx512bf16, &probe_avx512fp16, &probe_avx512};
    return levels[isa];
#elif defined(__aarch64__)
    return isa == ISA_REF ? &probe_ref : isa == ISA_NEONBF16 ? &probe_neonbf16 : &probe_neon;
#else
    return &probe_ref;
#endif
}

static const probe_codes *codes_of(cpu_isa isa) {
#if defined(__x86_64__)
    static const probe_codes *const levels[ISA_COUNT] = {
        [ISA_AVX2] = &probe_codes_avx2,
        [ISA_AVXVNNI] = &probe_codes_avxvnni,
        [ISA_AVX512] = &probe_codes_avx2, /* the row that it inherits */
        [ISA_AVX512VNNI] = &probe_codes_avx512vnni,
        [ISA_AVX512BF16] = &probe_codes_avx512vnni,
        [ISA_AVX512FP16] = &probe_codes_avx512vnni,
        [ISA_AMX] = &probe_codes_avx512vnni, /* not of tiles */
    };
    return levels[isa];
#elif defined(__aarch64__)
    return isa >= ISA_NEONI8MM  ? &probe_codes_neoni8mm
           : isa == ISA_NEONDOT ? &probe_codes_neondot
                                : NULL;
#else
    return NULL;
#endif
}

typedef struct probe_job {
    team *t;
    const float *buffer;
    int64_t n; /* floats */
    float (*loop)(int64_t rounds);
    int64_t rounds; /* of the loop */
    int64_t round;  /* of the probe */
    const probe_level *level;
    float sink[TEAM_MAX][16]; /* a line each */
} probe_job;

static void read_member(void *ctx, int member) {
    probe_job *j = ctx;
    int64_t from, to, window = READ_FLOATS * team_size(j->t), n_windows = MAX(1, j->n / window);
    int64_t start = j->round % n_windows * window;
    team_range(MIN(window, j->n - start), 1024, member, team_size(j->t), &from, &to);
    from += start;
    to += start;
    j->sink[member][0] = j->level->read(j->buffer + from, to - from);
}

static void loop_member(void *ctx, int member) {
    probe_job *j = ctx;
    j->sink[member][0] = j->loop(j->rounds);
}

/* Best of the rounds that fit in ms (at least two): units of work per nanosecond. */
static double best_rate(probe_job *j, team_fn fn, double work, int ms) {
    uint64_t end = clock_ns() + (uint64_t)ms * 1000000, now = 0;
    double best = 0;
    for (int i = 0; i < 2 || now < end; i++) {
        uint64_t start = clock_ns();
        j->round = i;
        team_run(j->t, fn, j);
        now = clock_ns();
        best = MAX(best, work / (double)(now - start));
    }
    return best;
}

static double best_flops(probe_job *j, float (*loop)(int64_t), int32_t flops, int ms) {
    j->loop = loop;
    j->rounds = 20000;
    return best_rate(j, loop_member, (double)j->rounds * flops * team_size(j->t), ms);
}

probe_limits probe_run(team *t, cpu_isa isa, const void *buffer, size_t bytes, int ms) {
    const probe_level *l = level_of(isa);
    probe_job *j = mem_calloc(1, sizeof *j);
    j->t = t;
    j->buffer = buffer;
    j->n = (int64_t)(bytes / sizeof(float));
    j->level = l;
    probe_limits p;
    p.f32_gflops = best_flops(j, l->f32, l->f32_flops, ms / 2);
    p.bf16_gflops = l->bf16 ? best_flops(j, l->bf16, l->bf16_flops, ms / 2) : p.f32_gflops;
    const probe_codes *codes = codes_of(isa);
    p.code_gops = codes ? best_flops(j, codes->loop, codes->ops, ms / 2) : 0;
    double window = (double)MIN(READ_FLOATS * (int64_t)team_size(t), j->n) * sizeof(float);
    p.read_gbs = best_rate(j, read_member, window, ms);
    mem_free(j);
    return p;
}
