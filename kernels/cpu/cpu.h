/* The CPU backend's inside, shared by its drivers. */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/backend.h"
#include "kernels/ref/rows.h"
#include "kernels/cpu/team.h"

typedef struct cpu_backend {
    backend base;
    backend_vtbl vtbl; /* base.v */
    cpu_isa isa;
    cpu_rows rows;
    team *team;
    int *cpus;  /* [n_threads] of the members; NULL: not pinned */
    int *nodes; /* [n_threads] that their memory should come from; NULL: one, or not pinned */
    char *ws;   /* workspace of the op that runs now */
    size_t ws_bytes;
    char *held; /* workspace of an op that is made of others */
    size_t held_bytes;
} cpu_backend;

/* At least `bytes` of 64-byte aligned workspace, content undefined, valid until the next call.
 * Grows when an op needs more than was reserved; ends the process if memory is refused. */
void *cpu_workspace(cpu_backend *c, size_t bytes);
/* The same for an op that calls others: they leave it alone. */
void *cpu_held_workspace(cpu_backend *c, size_t bytes);

/* run(ctx, row0, row1) over [0, n_rows), cut for the team unless the work is small. */
void cpu_run_rows(cpu_backend *c, const void *ctx, int32_t n_rows, int64_t row_elems,
                  void (*run)(const void *ctx, int32_t row0, int32_t row1));

/* The row that serves a weight type; programmer error if there is none. */
const gemm_row *cpu_gemm_row(const cpu_backend *c, dtype dt);

void cpu_gemm(backend *b, const op_gemm *a);
/* The level's value row serves such storage. */
bool cpu_has_values(const cpu_backend *c, dtype dt, const quant_spec *q, int32_t k);
void cpu_attention(backend *b, const op_attention *a);
void cpu_latent_attention(backend *b, const op_latent_attention *a);
void cpu_act(backend *b, const op_act *a);
void cpu_experts(backend *b, const op_experts *a);
void cpu_lora(backend *b, const op_lora *a); /* of packed matrices: not at level ref */

/* Ops whose rows are not f32 (feed.c); those above pass them on. */
void cpu_feed_norm(backend *b, const op_norm *a);
void cpu_feed_act(backend *b, const op_act *a);
void cpu_feed_attention(backend *b, const op_attention *a);
void cpu_feed_latent_attention(backend *b, const op_latent_attention *a);
void cpu_feed_gemm(backend *b, const op_gemm *a);
void cpu_feed_experts(backend *b, const op_experts *a);
void cpu_feed_lora(backend *b, const op_lora *a);

/* How the members of a team share an [m,n] product: a grid of tile ranges x panel ranges. */
typedef struct gemm_grid {
    int32_t m_parts, n_parts; /* m_parts * n_parts <= n_threads */
} gemm_grid;
gemm_grid gemm_grid_choose(int32_t n_tiles, int32_t n_panels, int32_t n_threads);
/* What a member has: tiles [t0, t1) x panels [p0, p1); none where the grid has no place for it.
 * Where the grid has one for everybody, members that share panels are neighbours, and have those
 * that each of them would have a part of with rows uncut: so panels stay near their nodes. */
typedef struct gemm_part {
    int32_t t0, t1, p0, p1;
} gemm_part;
gemm_part gemm_share(const gemm_grid *g, int member, int32_t n_tiles, int32_t n_panels);

#endif
