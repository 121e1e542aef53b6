/* The CPU backend: the vtable over the chosen rows. Small operations run on the caller alone, since
 * waking a team costs more than a few microseconds of arithmetic; larger ones are cut into static
 * ranges. Which of the two happens never changes a bit of the result. */
#include <math.h>
#include <stdio.h>

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "kernels/cpu/codes.h"
#include "kernels/cpu/narrow.h"
#include "kernels/cpu/pack.h"
#include "kernels/cpu/place.h"
#include "kernels/kv8.h"
#include "kernels/ref/ref.h"

/* Elements of elementwise work below which a second thread does not pay (about 2 us). */
#define GRAIN_ELEMS 16384
/* What an element of these takes, in such elements. */
#define WORK_NORM 2
#define WORK_ACT  3

/* Address space for each workspace: more than models of this program's size ask for, taken when the
 * backend is opened, so that no step ever asks for memory. Only what is used becomes memory. */
#define WORKSPACE_BYTES ((size_t)256 << 20)

static void *grow(char **p, size_t *p_bytes, size_t bytes) {
    if (bytes <= *p_bytes) return *p;
    mem_unmap(*p, *p_bytes);
    *p_bytes = ALIGN_UP(bytes + bytes / 4, (size_t)65536);
    *p = mem_map(*p_bytes);
    CHECK(*p);
    return *p;
}

void *cpu_workspace(cpu_backend *c, size_t bytes) {
    return grow(&c->ws, &c->ws_bytes, bytes);
}

void *cpu_held_workspace(cpu_backend *c, size_t bytes) {
    return grow(&c->held, &c->held_bytes, bytes);
}

const gemm_row *cpu_gemm_row(const cpu_backend *c, dtype dt) {
    CHECK(dt == DT_F32 || dt == DT_F16 || dt == DT_BF16);
    return dt == DT_F32 ? c->rows.gemm_f32 : dt == DT_F16 ? c->rows.gemm_f16 : c->rows.gemm_bf16;
}

static void forget_places(cpu_backend *c) {
    mem_free(c->cpus);
    mem_free(c->nodes);
    c->cpus = c->nodes = NULL;
}

static void cpu_close(backend *b) {
    cpu_backend *c = (cpu_backend *)b;
    team_free(c->team);
    forget_places(c);
    mem_unmap(c->ws, c->ws_bytes);
    mem_unmap(c->held, c->held_bytes);
    mem_free(c);
}

static status cpu_mem_alloc(backend *b, size_t bytes, void **ret, error *err) {
    void *p = mem_map(bytes);
    if (!p) return error_set(err, ERR_NOMEM, "the system refused %zu bytes of memory", bytes);
    place_interleave(p, bytes);
    *ret = p;
    return OK;
}

static void cpu_mem_free(backend *b, void *p, size_t bytes) {
    mem_unmap(p, bytes);
}

static void cpu_copy(backend *b, void *dst, const void *src, size_t bytes) {
    memcpy(dst, src, bytes);
}

static void cpu_copy_pieces(backend *b, void *dst, size_t dst_stride, const void *src,
                            size_t src_stride, size_t bytes, int32_t n) {
    for (size_t i = 0; i < (size_t)n; i++)
        memcpy((char *)dst + i * dst_stride, (const char *)src + i * src_stride, bytes);
}

static void cpu_pass(backend *b) {}

static status cpu_sync(backend *b, error *err) {
    return OK;
}

static void cpu_mark(backend *b, int i) {
    CHECK(i >= 0 && i < BACKEND_MARKS);
}

static status cpu_wait(backend *b, int i, error *err) {
    CHECK(i >= 0 && i < BACKEND_MARKS);
    return OK;
}

static size_t cpu_wmat_bytes(backend *b, int32_t n, int32_t k, dtype dt) {
    return pack_bytes(cpu_gemm_row((cpu_backend *)b, dt)->layout, n, k, dt);
}

/* Pages near those who will read them, where members have nodes. */
static void place_matrix(const cpu_backend *c, const wmat *w) {
    if (c->nodes)
        place_panels(c->nodes, c->base.n_threads, CEIL_DIV(w->n, PANEL_COLS), w->data, w->bytes);
}

static void cpu_wmat_init(backend *b, wmat *w, int32_t n, int32_t k, dtype dt, void *data) {
    wmat_layout layout = cpu_gemm_row((cpu_backend *)b, dt)->layout;
    *w = (wmat){n, k, dt, layout, data, pack_bytes(layout, n, k, dt), {0}};
    place_matrix((cpu_backend *)b, w);
}

static void cpu_wmat_pack(backend *b, wmat *w, int32_t row0, int32_t n_rows, const void *src,
                          dtype src_dt, int64_t src_stride) {
    const gemm_row *row = cpu_gemm_row((cpu_backend *)b, w->dt);
    (row->pack ? row->pack : pack_rows_into)(w, row0, n_rows, src, src_dt, src_stride);
}

static size_t cpu_quant_bytes(backend *b, int32_t n, int32_t k, dtype dt, const quant_spec *spec) {
    const code_row *row = cpu_code_row((cpu_backend *)b, dt, spec, k);
    narrow_panel p;
    if (row) return row->bytes(dt, spec, n, k);
    if (cpu_has_values((cpu_backend *)b, dt, spec, k)) {
        narrow_panel_of(dt, spec, k, NARROW_VALUES, &p);
        return narrow_bytes(&p, n);
    }
    return quant_side_bytes(dt, spec, k) + (size_t)n * quant_row_bytes(dt, spec, k);
}

static void cpu_quant_init(backend *b, wmat *w, int32_t n, int32_t k, dtype dt,
                           const quant_spec *spec, void *data) {
    CHECK(dtype_is_quant(dt) && k % (dtype_kind_of(dt) == DTYPE_GGUF ? dtype_block(dt) : 1) == 0);
    const cpu_backend *c = (const cpu_backend *)b;
    wmat_layout layout = cpu_code_row(c, dt, spec, k)     ? WMAT_CODES
                         : cpu_has_values(c, dt, spec, k) ? WMAT_VALUES
                                                          : WMAT_QUANT;
    *w = (wmat){n, k, dt, (int32_t)layout, data, cpu_quant_bytes(b, n, k, dt, spec), {0}};
    if (spec) w->q = *spec;
    place_matrix((cpu_backend *)b, w);
}

static void cpu_quant_pack(backend *b, wmat *w, int32_t row0, int32_t n_rows, const void *rows) {
    CHECK(row0 >= 0 && n_rows >= 0 && row0 + n_rows <= w->n);
    if (w->layout == WMAT_CODES) {
        cpu_code_row((cpu_backend *)b, w->dt, &w->q, w->k)->pack(w, row0, n_rows, rows);
        return;
    }
    narrow_panel p;
    if (w->layout == WMAT_VALUES) {
        narrow_panel_of(w->dt, &w->q, w->k, NARROW_VALUES, &p);
        narrow_pack(&p, w, row0, n_rows, rows);
        return;
    }
    size_t row_bytes = quant_row_bytes(w->dt, &w->q, w->k);
    memcpy((char *)w->data + quant_side_bytes(w->dt, &w->q, w->k) + (size_t)row0 * row_bytes, rows,
           (size_t)n_rows * row_bytes);
}

static void cpu_quant_side(backend *b, wmat *w, const int32_t *order, const float *table) {
    if (w->layout == WMAT_CODES || w->layout == WMAT_VALUES)
        narrow_side(w, order, table);
    else
        quant_pack_side(w->dt, &w->q, w->k, order, table, w->data);
}

/* Run fn over rows [0, n_rows) in units of `grain`, alone if the work is small. */
typedef struct range_job {
    const void *op;
    void (*run)(const void *op, int32_t row0, int32_t row1);
    int32_t n_rows, grain, n_members;
} range_job;

static void range_member(void *ctx, int member) {
    const range_job *j = ctx;
    int64_t from, to;
    team_range(j->n_rows, j->grain, member, j->n_members, &from, &to);
    if (from < to) j->run(j->op, (int32_t)from, (int32_t)to);
}

void cpu_run_rows(cpu_backend *c, const void *op, int32_t n_rows, int64_t row_elems,
                  void (*run)(const void *op, int32_t row0, int32_t row1)) {
    team *t = c->team;
    if (n_rows <= 0) return;
    if (team_size(t) == 1 || n_rows == 1 || n_rows * row_elems < 2 * GRAIN_ELEMS) {
        run(op, 0, n_rows);
        return;
    }
    range_job j = {op, run, n_rows, 1, team_size(t)};
    team_run(t, range_member, &j);
}

static void run_rows(backend *b, const void *op, int32_t n_rows, int64_t row_elems,
                     void (*run)(const void *op, int32_t row0, int32_t row1)) {
    cpu_run_rows((cpu_backend *)b, op, n_rows, row_elems, run);
}

typedef struct cpu_call {
    const cpu_rows *rows;
    const void *op;
} cpu_call;

#define CALL_ROWS(op_type, slot)                                                                   \
    static void slot##_rows(const void *p, int32_t row0, int32_t row1) {                           \
        const cpu_call *call = p;                                                                  \
        call->rows->slot->run((const op_type *)call->op, row0, row1);                              \
    }
CALL_ROWS(op_embed, embed)
CALL_ROWS(op_norm, norm)
CALL_ROWS(op_rope_kv, rope_kv)
CALL_ROWS(op_latent_kv, latent_kv)
CALL_ROWS(op_route, route)
CALL_ROWS(op_copy_pages, copy_pages)

/* Rows of a table of GGUF blocks, or of a packed matrix. */
static void embed_strips(const void *p, int32_t row0, int32_t row1) {
    const op_embed *a = p;
    float strip[QUANT_STRIP];
    size_t row_bytes = a->packed ? 0 : dtype_row_bytes(a->table_dt, a->width);
    for (int32_t t = row0; t < row1; t++) {
        const char *row = (const char *)a->table + (size_t)a->ids[t] * row_bytes;
        float *out = a->out + (int64_t)t * a->width;
        for (int32_t c = 0; c < a->width; c += QUANT_STRIP) {
            int32_t n = MIN(QUANT_STRIP, a->width - c);
            if (a->packed)
                pack_row_f32(a->packed, a->ids[t], c, n, strip);
            else
                quant_row_f32(a->table_dt, NULL, a->width, NULL, row, c, n, strip);
            for (int32_t i = 0; i < n; i++) {
                float x = a->scale * strip[i];
                out[c + i] = a->accumulate ? out[c + i] + x : x;
            }
        }
    }
}

static void cpu_embed(backend *b, const op_embed *a) {
    cpu_call call = {&((cpu_backend *)b)->rows, a};
    if (a->packed || dtype_kind_of(a->table_dt) == DTYPE_GGUF) {
        run_rows(b, a, a->n_tokens, a->width, embed_strips);
        return;
    }
    run_rows(b, &call, a->n_tokens, a->width, embed_rows);
}

static void cpu_norm(backend *b, const op_norm *a) {
    CHECK(!a->add || a->n_groups == 1);
    if (a->out_dt != DT_F32) {
        cpu_feed_norm(b, a);
        return;
    }
    cpu_call call = {&((cpu_backend *)b)->rows, a};
    run_rows(b, &call, a->n_rows, WORK_NORM * (int64_t)a->n_groups * a->width, norm_rows);
}

static void cpu_rope_kv(backend *b, const op_rope_kv *a) {
    CHECK(kv_dtype_ok(a->kv_dt));
    CHECK(a->page_tokens > 0 && a->page_tokens % ATTN_PAGE_UNIT == 0);
    CHECK(a->head_dim % 2 == 0 && a->head_dim <= ATTN_MAX_WIDTH);
    CHECK(a->rope_dim % (a->style == ROPE_HALVES ? 4 : 2) == 0 && a->rope_dim <= a->head_dim);
    cpu_call call = {&((cpu_backend *)b)->rows, a};
    run_rows(b, &call, a->n_tokens, (int64_t)(a->n_heads + 2 * a->n_kv_heads) * a->head_dim,
             rope_kv_rows);
}

static void cpu_latent_kv(backend *b, const op_latent_kv *a) {
    CHECK(kv_dtype_ok(a->kv_dt));
    CHECK(a->page_tokens > 0 && a->page_tokens % ATTN_PAGE_UNIT == 0);
    CHECK(a->latent > 0 && a->rope_dim >= 0 && a->latent + a->rope_dim <= LATENT_MAX_WIDTH);
    CHECK(a->rope_dim % 2 == 0 && a->style != ROPE_HALVES);
    cpu_call call = {&((cpu_backend *)b)->rows, a};
    run_rows(b, &call, a->n_tokens, (int64_t)(a->n_heads + 1) * a->rope_dim + a->latent,
             latent_kv_rows);
}

static void cpu_route(backend *b, const op_route *a) {
    CHECK(a->n_experts > 0 && a->n_experts <= ROUTE_MAX_EXPERTS && a->top_k > 0);
    if (a->group != GROUP_NONE) {
        CHECK(a->n_groups > 0 && a->n_experts % a->n_groups == 0);
        CHECK(a->top_groups > 0 && a->top_groups <= a->n_groups);
        CHECK(a->top_k <= a->n_experts / a->n_groups * a->top_groups);
    }
    CHECK(a->top_k <= a->n_experts);
    cpu_call call = {&((cpu_backend *)b)->rows, a};
    run_rows(b, &call, a->n_tokens, (int64_t)a->n_experts * (16 + a->top_k), route_rows);
}

/* Elementwise ops: a wide single row is cut into columns, many rows into rows. */
#define COL_GRAIN 1024
#define CALL_CELLS(op_type, slot, work)                                                            \
    static void slot##_rows(const void *p, int32_t row0, int32_t row1) {                           \
        const cpu_call *call = p;                                                                  \
        const op_type *a = call->op;                                                               \
        call->rows->slot->run(a, row0, row1, 0, a->width);                                         \
    }                                                                                              \
    static void slot##_cols(const void *p, int32_t col0, int32_t col1) {                           \
        const cpu_call *call = p;                                                                  \
        const op_type *a = call->op;                                                               \
        call->rows->slot->run(a, 0, a->n_rows, col0, col1);                                        \
    }                                                                                              \
    static void slot##_cells(backend *b, const op_type *a) {                                       \
        team *t = ((cpu_backend *)b)->team;                                                        \
        cpu_call call = {&((cpu_backend *)b)->rows, a};                                            \
        if (a->n_rows >= 2 * team_size(t) || a->width < 4 * COL_GRAIN || team_size(t) == 1) {      \
            run_rows(b, &call, a->n_rows, (work) * (int64_t)a->width, slot##_rows);                \
        } else if ((work) * (int64_t)a->n_rows * a->width < 2 * GRAIN_ELEMS) {                     \
            slot##_cols(&call, 0, a->width);                                                       \
        } else {                                                                                   \
            range_job j = {&call, slot##_cols, a->width, COL_GRAIN, team_size(t)};                 \
            team_run(t, range_member, &j);                                                         \
        }                                                                                          \
    }
CALL_CELLS(op_act, act, WORK_ACT)
CALL_CELLS(op_add, add, 1)
CALL_CELLS(op_scale, scale, 1)
CALL_CELLS(op_limit, limit, 1)

void cpu_act(backend *b, const op_act *a) {
    CHECK(a->kind < ACT_COUNT && (a->gated || a->kind != ACT_SWIGLU_OAI));
    if (a->out_dt != DT_F32)
        cpu_feed_act(b, a);
    else
        act_cells(b, a);
}

static void cpu_add(backend *b, const op_add *a) {
    add_cells(b, a);
}

static void cpu_scale(backend *b, const op_scale *a) {
    scale_cells(b, a);
}

static void cpu_limit(backend *b, const op_limit *a) {
    CHECK(a->limit > 0);
    limit_cells(b, a);
}

/* Copies are ordered: a page may be source and destination of one list. So each buffer belongs to
 * one member. */
static void cpu_copy_pages(backend *b, const op_copy_pages *a) {
    cpu_call call = {&((cpu_backend *)b)->rows, a};
    run_rows(b, &call, a->n_buffers, (int64_t)(a->page_bytes / 4) * a->n_copies, copy_pages_rows);
}

/* Rows x blocks of LSE_BLOCK in any order, then a merge in block order. */
typedef struct lse_block {
    double sum;
    float max;
    int32_t argmax;
} lse_block;
typedef struct lse_job {
    const cpu_rows *rows;
    const op_logsumexp *a;
    int32_t n_blocks; /* per row */
    lse_block *blocks;
} lse_job;

static void lse_run(const void *p, int32_t i0, int32_t i1) {
    const lse_job *j = p;
    for (int32_t i = i0; i < i1; i++) {
        int32_t col = i % j->n_blocks * LSE_BLOCK;
        const float *x = j->a->x + i / j->n_blocks * j->a->x_stride + col;
        lse_block *s = &j->blocks[i];
        j->rows->logsumexp->run(x, MIN(LSE_BLOCK, j->a->width - col), &s->max, &s->sum, &s->argmax);
        s->argmax += col;
    }
}

static void lse_merge(const lse_job *j, int32_t row) {
    const lse_block *s = j->blocks + (int64_t)row * j->n_blocks;
    float max = s->max;
    int32_t arg = s->argmax;
    for (int32_t i = 1; i < j->n_blocks; i++)
        if (s[i].max > max || (s[i].max != s[i].max && max == max)) {
            max = s[i].max;
            arg = s[i].argmax;
        }
    double sum = 0;
    for (int32_t i = 0; i < j->n_blocks; i++)
        sum += s[i].max == max ? s[i].sum : s[i].sum * exp((double)s[i].max - max);
    j->a->ret_max[row] = max;
    j->a->ret_lse[row] = (float)(max + log(sum));
    j->a->ret_argmax[row] = arg;
}

static void cpu_logsumexp(backend *b, const op_logsumexp *a) {
    cpu_backend *c = (cpu_backend *)b;
    CHECK(a->width > 0);
    lse_job j = {&c->rows, a, CEIL_DIV(a->width, LSE_BLOCK), NULL};
    int32_t n = a->n_rows * j.n_blocks;
    j.blocks = cpu_workspace(c, (size_t)n * sizeof(lse_block));
    run_rows(b, &j, n, MIN(a->width, LSE_BLOCK) * (int64_t)4, lse_run);
    for (int32_t r = 0; r < a->n_rows; r++) lse_merge(&j, r);
}

static void cpu_chain(backend *b, const op_chain *a) {
    ref_chain(a);
}

typedef struct lora_call {
    const op_lora *a;
    float *low;
} lora_call;

static void lora_rows(const void *p, int32_t row0, int32_t row1) {
    const lora_call *c = p;
    ref_lora(c->a, row0, row1, c->low);
}

static void cpu_lora_ref(backend *b, const op_lora *a) {
    if (a->x_dt != DT_F32) {
        cpu_feed_lora(b, a);
        return;
    }
    size_t n = (size_t)MAX(a->n_rows, 0) * (size_t)a->rank;
    lora_call c = {a, cpu_workspace((cpu_backend *)b, n * sizeof(float))};
    run_rows(b, &c, a->n_rows, (int64_t)a->rank * (a->k + a->n), lora_rows);
}

static void cpu_sample(backend *b, const op_sample *a) {
    ref_sample(a);
}

static void cpu_enter(backend *b) {
    const cpu_backend *c = (const cpu_backend *)b;
    if (c->cpus) team_pin_caller(c->cpus);
}

/* Items cost as they like: members take them from a counter. */
typedef struct spread_job {
    team *t;
    int32_t n, most;
    void (*fn)(void *ctx, int32_t i, int member);
    void *ctx;
} spread_job;

static void spread_member(void *ctx, int member) {
    const spread_job *j = ctx;
    if (member >= j->most) return;
    for (int64_t i; (i = team_next(j->t)) < j->n;) j->fn(j->ctx, (int32_t)i, member);
}

static void cpu_spread(backend *b, int32_t n, int32_t most,
                       void (*fn)(void *ctx, int32_t i, int member), void *ctx) {
    spread_job j = {((cpu_backend *)b)->team, n, most, fn, ctx};
    if (n > 1 && most > 1) {
        team_run(j.t, spread_member, &j);
        return;
    }
    for (int32_t i = 0; i < n; i++) fn(ctx, i, 0);
}

static const backend_vtbl vtbl = {
    .enter = cpu_enter,
    .close = cpu_close,
    .mem_alloc = cpu_mem_alloc,
    .mem_free = cpu_mem_free,
    .host_alloc = cpu_mem_alloc,
    .host_free = cpu_mem_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .fetch = cpu_copy,
    .mark = cpu_mark,
    .wait = cpu_wait,
    .copy_pieces = cpu_copy_pieces,
    .aside = cpu_pass,
    .rejoin = cpu_pass,
    .sync = cpu_sync,
    .wmat_bytes = cpu_wmat_bytes,
    .wmat_init = cpu_wmat_init,
    .wmat_pack = cpu_wmat_pack,
    .pack_rows = PANEL_COLS,
    .embed_packed = true,
    .quant_bytes = cpu_quant_bytes,
    .quant_init = cpu_quant_init,
    .quant_pack = cpu_quant_pack,
    .quant_side = cpu_quant_side,
    .spread = cpu_spread,
    .native_act = cpu_native_act,
#define OP(name, tol32, tol16, what) .name = cpu_##name,
#include "kernels/ops.def"
#undef OP
};

static status pin_team(cpu_backend *c, cpu_pinning pin, error *err) {
    int n = c->base.n_threads;
    bool one_node = place_nodes() < 2;
    if (pin == PIN_OFF || (pin == PIN_AUTO && (one_node || n != cpu_count()))) return OK;
    c->cpus = mem_calloc((size_t)n, sizeof *c->cpus);
    c->nodes = mem_calloc((size_t)n, sizeof *c->nodes);
    if (place_cpus(PLACE_SYSFS, NULL, n, c->cpus, c->nodes)) {
        team_pin(c->team, c->cpus);
        if (one_node) mem_free(c->nodes), c->nodes = NULL;
        return OK;
    }
    forget_places(c);
    if (pin == PIN_AUTO) return OK;
    return error_set(err, ERR_INVALID, "%d threads cannot be pinned: this process may use %d CPUs",
                     n, cpu_count());
}

status backend_cpu_open(const cpu_options *o, backend **ret, error *err) {
    cpu_isa isa;
    TRY(isa_parse(o->isa, &isa, err));
    if (o->n_threads < 0 || o->n_threads > TEAM_MAX)
        return error_set(err, ERR_INVALID, "threads is %d, expected 0 (automatic) to %d",
                         o->n_threads, TEAM_MAX);
    cpu_backend *c = mem_calloc(1, sizeof *c);
    c->isa = isa;
    select_rows(isa, &c->rows);
    c->vtbl = vtbl;
    if (isa == ISA_REF) {
        c->vtbl.sample = cpu_sample; /* ref_sample.c */
        c->vtbl.lora = cpu_lora_ref;
    }
    c->base.v = &c->vtbl;
    c->base.name = "cpu";
    c->base.host_memory = true;
    c->base.n_threads = o->n_threads ? o->n_threads : MIN(cpu_count(), TEAM_MAX);
    snprintf(c->base.device, sizeof c->base.device, "%d thread%s, %s", c->base.n_threads,
             c->base.n_threads == 1 ? "" : "s", isa_name(isa));
    if ((c->ws = mem_reserve(WORKSPACE_BYTES))) c->ws_bytes = WORKSPACE_BYTES;
    if ((c->held = mem_reserve(WORKSPACE_BYTES))) c->held_bytes = WORKSPACE_BYTES;
    snprintf(c->base.layout, sizeof c->base.layout, "cpu %s", isa_name(isa));
    c->team = team_new(c->base.n_threads);
    status st = pin_team(c, o->pin, err);
    if (st == OK)
        *ret = &c->base;
    else
        cpu_close(&c->base);
    return st;
}

void backend_close(backend *b) {
    if (b) b->v->close(b);
}

void backend_print_kernels(const backend *b, strbuf *out) {
    if (b->v->kernels)
        strbuf_addz(out, b->v->kernels);
    else
        select_print(&((const cpu_backend *)b)->rows, out);
}
