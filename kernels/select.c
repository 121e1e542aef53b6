/* CPUID decides; the merge walks from a level to those it is built on, so that a level only lists
 * what it does better. Rows of different levels may be mixed because all vector levels share the
 * packed layouts of weights and KV pages; the reference level has its own and is never mixed with
 * them in those slots (every vector level inherits them from avx2). */
#include "kernels/select.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "engine/base/mem.h"
#include "kernels/cpu/maker.h"
#include "kernels/ref/rows.h"

static const char *const names[ISA_COUNT] = {"ref",        "avx2",       "avxvnni",    "avx512",
                                             "avx512vnni", "avx512bf16", "avx512fp16", "amx",
                                             "neon",       "neondot",    "neoni8mm",   "neonbf16"};

const char *isa_name(cpu_isa isa) {
    return names[isa];
}

#if defined(__x86_64__)
/* Features by CPUID itself: clang 14 does not know their names. They are asked after AVX2 and
 * AVX-512, so the operating system is known to keep the registers. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 29);
}

static bool has_7_1(int bit) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << bit);
}

static bool has_avx512fp16(void) {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & 1u << 23);
}
#endif

#if defined(AMX_EMULATED)
#define AMX_BELOW ISA_AVX512BF16 /* more CPUs can run it */
#else
#define AMX_BELOW ISA_AVX512FP16
#endif

#if defined(__x86_64__)
/* The CPU has tiles of 8 bits and of bf16, and the kernel lets this process use them, from now on:
 * so this is asked only where somebody wants them. */
static bool has_amx(void) {
#if defined(AMX_EMULATED)
    return true;
#else
    enum { XCOMP_PERM = 0x1023 /* ARCH_REQ_XCOMP_PERM */, TILE_DATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    bool has_tiles = d & 1u << 24, has_int8 = d & 1u << 25, has_bf16 = d & 1u << 22;
    return has_tiles && has_int8 && has_bf16 && syscall(SYS_arch_prctl, XCOMP_PERM, TILE_DATA) == 0;
#endif
}
#endif

bool isa_built(cpu_isa isa) {
#if defined(__x86_64__)
    return isa < ISA_NEON;
#elif defined(__aarch64__)
    return isa == ISA_REF || isa >= ISA_NEON;
#else
    return isa == ISA_REF;
#endif
}

bool isa_usable(cpu_isa isa) {
#if defined(__x86_64__)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
    bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    switch (isa) {
    case ISA_REF: return true;
    case ISA_AVX2: return avx2;
    case ISA_AVXVNNI: return avx2 && has_7_1(4);
    case ISA_AVX512: return avx512;
    case ISA_AVX512VNNI: return avx512 && __builtin_cpu_supports("avx512vnni");
    case ISA_AVX512BF16: return avx512 && __builtin_cpu_supports("avx512vnni") && has_7_1(5);
    case ISA_AVX512FP16: return isa_usable(ISA_AVX512BF16) && has_avx512fp16();
    case ISA_AMX: return isa_usable(AMX_BELOW) && has_amx();
    default: return false;
    }
#elif defined(__aarch64__)
    unsigned long has = getauxval(AT_HWCAP), has2 = getauxval(AT_HWCAP2);
    if (isa >= ISA_NEONDOT && !(has & HWCAP_ASIMDDP)) return false;
    if (isa >= ISA_NEONI8MM && !(has2 & HWCAP2_I8MM)) return false;
    if (isa >= ISA_NEONBF16 && !(has2 & HWCAP2_BF16)) return false;
    return isa_built(isa) && isa < ISA_COUNT; /* NEON itself is part of Armv8.0 */
#else
    return isa_built(isa);
#endif
}

/* Intel's cores run vdpbf16ps at a quarter of the rate of f32 multiply-adds (measured on Sapphire
 * Rapids: 91 against 180 GFLOP/s on one core; Zen 5: 483 against 243), so there the bf16 level
 * would only lose. */
cpu_isa isa_best(void) {
    cpu_isa best = ISA_COUNT - 1;
    while (best == ISA_AMX || (best == ISA_AVX512BF16 && cpu_is_intel()) || !isa_usable(best))
        best--;
    return best;
}

/* Products of 16-bit weights are those of f32 operands, summed in f32. */
static bool is_exact(cpu_isa isa) {
    return isa != ISA_AVX512BF16 && isa != ISA_AVX512FP16 && isa != ISA_AMX && isa != ISA_NEONBF16;
}

status isa_parse(const char *name, cpu_isa *ret_isa, error *err) {
    if (name && str_eqz(str_z("exact"), name)) {
        for (*ret_isa = ISA_COUNT - 1; !is_exact(*ret_isa) || !isa_usable(*ret_isa);) (*ret_isa)--;
        return OK;
    }
    if (!name || str_eqz(str_z("auto"), name)) {
        *ret_isa = isa_best();
        return OK;
    }
    strbuf usable = {0};
    for (cpu_isa i = 0; i < ISA_COUNT; i++) {
        if (!isa_usable(i)) continue;
        if (str_eqz(str_z(names[i]), name)) {
            *ret_isa = i;
            strbuf_done(&usable);
            return OK;
        }
        strbuf_addf(&usable, "%s%s", usable.n ? ", " : "", names[i]);
    }
    error_set(err, ERR_INVALID,
              "isa \"%s\" is not usable here: this CPU and build have auto, exact, %s", name,
              usable.p ? usable.p : "");
    strbuf_done(&usable);
    return ERR_INVALID;
}

/* The level that one is built on; of ISA_REF, itself. */
static cpu_isa below(cpu_isa isa) {
    static const cpu_isa levels[ISA_COUNT] = {[ISA_AVX2] = ISA_REF,
                                              [ISA_AVXVNNI] = ISA_AVX2,
                                              [ISA_AVX512] = ISA_AVX2,
                                              [ISA_AVX512VNNI] = ISA_AVX512,
                                              [ISA_AVX512BF16] = ISA_AVX512VNNI,
                                              [ISA_AVX512FP16] = ISA_AVX512BF16,
                                              [ISA_AMX] = AMX_BELOW,
                                              [ISA_NEON] = ISA_REF,
                                              [ISA_NEONDOT] = ISA_NEON,
                                              [ISA_NEONI8MM] = ISA_NEONDOT,
                                              [ISA_NEONBF16] = ISA_NEONI8MM};
    return levels[isa];
}

void select_rows(cpu_isa isa, cpu_rows *ret_rows) {
#if defined(__x86_64__)
    static const cpu_rows *const levels[ISA_COUNT] = {
        &rows_ref,        &rows_avx2,       &rows_avxvnni,    &rows_avx512,
        &rows_avx512vnni, &rows_avx512bf16, &rows_avx512fp16, &rows_amx};
#elif defined(__aarch64__)
    static const cpu_rows *const levels[ISA_COUNT] = {
        &rows_ref, [ISA_NEON] = &rows_neon, [ISA_NEONDOT] = &rows_neondot,
        [ISA_NEONI8MM] = &rows_neoni8mm, [ISA_NEONBF16] = &rows_neonbf16};
#else
    static const cpu_rows *const levels[ISA_COUNT] = {&rows_ref};
#endif
    *ret_rows = (cpu_rows){0};
    for (cpu_isa i = isa, last = ISA_COUNT; i != last; last = i, i = below(i)) {
        if (!levels[i]) continue;
#define ROW(slot, type, op, dtypes)                                                                \
    if (!ret_rows->slot) ret_rows->slot = levels[i]->slot;
#include "kernels/ref/rows.def"
#undef ROW
    }
}

void select_print(const cpu_rows *rows, strbuf *out) {
#define ROW(slot, type, op, dtypes)                                                                \
    strbuf_addf(out, "%-17s %-13s %s\n", op, dtypes,                                               \
                rows->slot ? rows->slot->name : "expanded to f32");
#include "kernels/ref/rows.def"
#undef ROW
}
