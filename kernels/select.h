/* Which row of code serves which op on this CPU. Every instruction-set level brings a table of
 * rows; the choice takes, slot by slot, the best level that has one and that the CPU can run. */
#ifndef KERNELS_SELECT_H
#define KERNELS_SELECT_H

#include <stdbool.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

/* Levels, worst to best. Each is built on one before it, whose rows it may inherit: avxvnni on
 * avx2, avx512 on avx2, neon on ref, the others on the one before. NEON.. are of aarch64, the
 * others but ref of x86-64. */
typedef enum cpu_isa {
    ISA_REF,
    ISA_AVX2,
    ISA_AVXVNNI, /* integer dot products in 256 bits */
    ISA_AVX512,
    ISA_AVX512VNNI,
    ISA_AVX512BF16, /* products of bf16 weights: activations are rounded to bf16 */
    ISA_AVX512FP16, /* products of 16-bit weights: short sums in f16 */
    ISA_AMX,        /* and tiles; never chosen unless asked for: it met no hardware yet */
    ISA_NEON,
    ISA_NEONDOT,  /* integer dot products: Armv8.2 with dotprod */
    ISA_NEONI8MM, /* and of matrices of them: i8mm, of Armv8.6 */
    ISA_NEONBF16, /* and dot products of bf16: of Armv8.6 too */
    ISA_COUNT
} cpu_isa;

const char *isa_name(cpu_isa isa); /* "ref", "avx2", "avxvnni", "avx512", "avx512vnni", .. */
bool isa_built(cpu_isa isa);       /* into this program: of its architecture */
/* Built into this program and present on this CPU. ISA_REF always is. */
bool isa_usable(cpu_isa isa);
cpu_isa isa_best(void); /* the fastest usable one; a later level may be slower on some CPUs */
/* NULL and "auto" give the best, "exact" the best without the roundings of avx512bf16 and
 * avx512fp16: for results that are compared across machines. ERR_INVALID names the usable ones. */
NODISCARD status isa_parse(const char *name, cpu_isa *ret_isa, error *err);

struct cpu_rows;
/* The merged table for a level. Pure: depends on the level and the build alone. */
void select_rows(cpu_isa isa, struct cpu_rows *ret_rows);
/* A line per slot: op, storage types, row. */
void select_print(const struct cpu_rows *rows, strbuf *out);

#endif
