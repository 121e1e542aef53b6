/* The CPU backend's inside, shared by its drivers. */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/backend.h"
#include "kernels/ref/rows.h"
#include "kernels/cpu/team.h"

typedef struct cpu_backend {
    backend base;
    cpu_isa isa;
    cpu_rows rows;
    team *team;
    char *ws; /* workspace of the op that runs now */
    size_t ws_bytes;
} cpu_backend;

/* At least `bytes` of 64-byte aligned workspace, content undefined, valid until the next call.
 * Grows when an op needs more than any before; ends the process if memory is refused. */
void *cpu_workspace(cpu_backend *c, size_t bytes);

/* The row that serves a weight type; programmer error if there is none. */
const gemm_row *cpu_gemm_row(const cpu_backend *c, dtype dt);

void cpu_gemm(backend *b, const op_gemm *a);
void cpu_attention(backend *b, const op_attention *a);

/* How the members of a team share an [m,n] product: a grid of tile ranges x panel ranges. */
typedef struct gemm_grid {
    int32_t m_parts, n_parts; /* m_parts * n_parts <= n_threads */
} gemm_grid;
gemm_grid gemm_grid_choose(int32_t n_tiles, int32_t n_panels, int32_t n_threads);

#endif
