/* Attention, the part above the rows: cut the call into tiles (sequence, kv head, rows) and let the
 * members take them from a counter, longest first. Tiles differ in cost by their number of keys and
 * results do not depend on who computes them, so dynamic order is free.
 *
 * With few tiles and long rows (decoding a handful of long sequences) a tile is also cut into its
 * key chunks. Chunk borders are absolute positions, and an uncut tile merges the same chunks in the
 * same order, so cutting changes no bit. */
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/kv8.h"

#define TILES_PER_MEMBER 4      /* with fewer, cut along the keys */
#define SMALL_MACS       131072 /* below, the caller works alone */

typedef struct attn_call {
    const op_attention *a;
    int32_t value_dim; /* of out and of states */
    bool latent;
    const attention_row *row;
    team *team;
    int64_t *first_tile; /* [n_seqs+1]: running count of tiles over the sequences */
    char *scratch;
    size_t scratch_bytes;
    /* Cut along the keys: every tile has n_chunks states per row (unused ones are skipped). */
    bool cut;
    int32_t n_chunks;
    float *states; /* [tile][row of tile][chunk][ATTN_STATE(value_dim)] */
} attn_call;

static int32_t group_size(const op_attention *a) {
    return a->n_heads / a->n_kv_heads;
}

/* Tile number i: its sequence by bisection, then kv head and rows; the last rows come first. */
static attn_tile tile_at(const attn_call *c, int64_t i) {
    const op_attention *a = c->a;
    int32_t lo = 0, hi = a->seqs.n;
    while (hi - lo > 1) {
        int32_t mid = (lo + hi) / 2;
        if (c->first_tile[mid] <= i)
            lo = mid;
        else
            hi = mid;
    }
    const attn_seq *s = &a->seqs.host[lo];
    int64_t in_seq = i - c->first_tile[lo];
    int32_t n_f = s->n_rows * group_size(a), n_rows_tiles = CEIL_DIV(n_f, c->row->tile_rows);
    int32_t row_tile = n_rows_tiles - 1 - (int32_t)(in_seq / a->n_kv_heads);
    attn_tile t = {
        .seq = s, .kv_head = (int32_t)(in_seq % a->n_kv_heads), .value_dim = c->value_dim};
    t.latent = c->latent;
    t.f0 = row_tile * c->row->tile_rows;
    t.f1 = MIN(n_f, t.f0 + c->row->tile_rows);
    int32_t pos_first = s->pos0 + t.f0 / group_size(a);
    int32_t pos_last = s->pos0 + (t.f1 - 1) / group_size(a);
    t.chunk0 = attn_first_key(a, pos_first) / ATTN_CHUNK;
    t.chunk1 = attn_last_key(a, s, pos_last) / ATTN_CHUNK + 1;
    return t;
}

static float *states_of(const attn_call *c, int64_t tile) {
    return c->states + tile * c->row->tile_rows * (int64_t)c->n_chunks * ATTN_STATE(c->value_dim);
}

static void merge_tile(const attn_call *c, int64_t i) {
    const op_attention *a = c->a;
    attn_tile t = tile_at(c, i);
    int32_t state = ATTN_STATE(c->value_dim), r = group_size(a);
    for (int32_t f = t.f0; f < t.f1; f++) {
        const float *partial = states_of(c, i) + (int64_t)(f - t.f0) * c->n_chunks * state;
        int32_t head = t.kv_head * r + f % r;
        float *out = (float *)a->out + (int64_t)(t.seq->row0 + f / r) * a->out_stride +
                     (int64_t)head * c->value_dim;
        c->row->merge(partial, state, t.chunk1 - t.chunk0, c->value_dim,
                      a->sinks ? &a->sinks[head] : NULL, out);
    }
}

static void attn_member(void *ctx, int member) {
    attn_call *c = ctx;
    int64_t n_tiles = c->first_tile[c->a->seqs.n];
    int64_t n_items = c->cut ? n_tiles * c->n_chunks : n_tiles;
    void *scratch = c->scratch + (size_t)member * c->scratch_bytes;
    for (int64_t i; (i = team_next(c->team)) < n_items;) {
        if (!c->cut) {
            attn_tile t = tile_at(c, i);
            c->row->tile(c->a, &t, scratch);
            continue;
        }
        int64_t tile = i / c->n_chunks;
        attn_tile t = tile_at(c, tile);
        int32_t chunk = t.chunk0 + (int32_t)(i % c->n_chunks);
        if (chunk >= t.chunk1) continue;
        int32_t state = ATTN_STATE(c->value_dim);
        t.partial = states_of(c, tile) + (int64_t)(chunk - t.chunk0) * state;
        t.partial_stride = (int64_t)c->n_chunks * state;
        t.chunk0 = chunk;
        t.chunk1 = chunk + 1;
        c->row->tile(c->a, &t, scratch);
    }
    if (!c->cut) return;
    team_barrier(c->team);
    int64_t from, to;
    team_range(n_tiles, 1, member, team_size(c->team), &from, &to);
    for (int64_t i = from; i < to; i++) merge_tile(c, i);
}

static void check_args(const op_attention *a) {
    CHECK(kv_dtype_ok(a->kv_dt));
    CHECK(a->page_tokens > 0 && a->page_tokens % ATTN_PAGE_UNIT == 0);
    CHECK(a->n_kv_heads > 0 && a->n_heads % a->n_kv_heads == 0);
}

/* Tiles, longest row and multiply-adds of the call. */
static int64_t count_tiles(attn_call *c, int32_t *ret_len_max, int64_t *ret_macs) {
    const op_attention *a = c->a;
    int64_t n = 0, macs = 0;
    int32_t len_max = 1;
    for (int32_t i = 0; i < a->seqs.n; i++) {
        const attn_seq *s = &a->seqs.host[i];
        c->first_tile[i] = n;
        n += (int64_t)CEIL_DIV(s->n_rows * group_size(a), c->row->tile_rows) * a->n_kv_heads;
        int32_t len = attn_last_key(a, s, s->pos0 + s->n_rows - 1) + 1;
        len_max = MAX(len_max, len);
        macs += (int64_t)s->n_rows * a->n_heads * len * (a->head_dim + c->value_dim);
    }
    c->first_tile[a->seqs.n] = n;
    *ret_len_max = len_max;
    *ret_macs = macs;
    return n;
}

static void run(cpu_backend *cpu, const attention_row *row, const op_attention *a,
                int32_t value_dim, bool latent) {
    check_args(a);
    if (a->seqs.n <= 0) return;
    attn_call c = {.a = a, .value_dim = value_dim, .latent = latent, .row = row, .team = cpu->team};
    size_t first_bytes = ALIGN_UP(((size_t)a->seqs.n + 1) * sizeof(int64_t), 64);
    c.first_tile = cpu_workspace(cpu, first_bytes);
    int32_t len_max;
    int64_t macs, n_tiles = count_tiles(&c, &len_max, &macs);
    int n_threads = macs < SMALL_MACS ? 1 : team_size(cpu->team);
    c.n_chunks = CEIL_DIV(len_max, ATTN_CHUNK);
    c.cut = c.row->merge && n_threads > 1 && c.n_chunks > 1 &&
            n_tiles < (int64_t)TILES_PER_MEMBER * n_threads;
    c.scratch_bytes = ALIGN_UP(c.row->scratch_bytes(a), 64);
    size_t state_bytes = !c.cut ? 0
                                : (size_t)n_tiles * (size_t)c.row->tile_rows * (size_t)c.n_chunks *
                                      ATTN_STATE((size_t)value_dim) * sizeof(float);
    char *ws = cpu_workspace(cpu, first_bytes + (size_t)n_threads * c.scratch_bytes + state_bytes);
    c.first_tile = (int64_t *)ws;
    count_tiles(&c, &len_max, &macs); /* again: the workspace may have moved */
    c.scratch = ws + first_bytes;
    c.states = (float *)(c.scratch + (size_t)n_threads * c.scratch_bytes);
    if (n_threads == 1) {
        void *scratch = c.scratch;
        for (int64_t i = 0; i < n_tiles; i++) {
            attn_tile t = tile_at(&c, i);
            c.row->tile(a, &t, scratch);
        }
    } else
        team_run(cpu->team, attn_member, &c);
}

void cpu_attention(backend *b, const op_attention *a) {
    cpu_backend *cpu = (cpu_backend *)b;
    CHECK(a->head_dim > 0 && a->head_dim % 2 == 0 && a->head_dim <= ATTN_MAX_WIDTH);
    if (a->out_dt != DT_F32) {
        cpu_feed_attention(b, a);
        return;
    }
    const cpu_rows *r = &cpu->rows;
    const attention_row *row = a->kv_dt == DT_F32    ? r->attention_f32
                               : a->kv_dt == DT_BF16 ? r->attention_bf16
                               : a->kv_dt == DT_INT8 ? r->attention_int8
                                                     : r->attention_f8;
    run(cpu, row, a, a->head_dim, false);
}

/* One kv head whose values are the beginning of its keys. */
void cpu_latent_attention(backend *b, const op_latent_attention *l) {
    cpu_backend *cpu = (cpu_backend *)b;
    CHECK(l->latent > 0 && l->rope_dim >= 0 && l->rope_dim % 2 == 0);
    CHECK(l->latent + l->rope_dim <= LATENT_MAX_WIDTH);
    if (l->out_dt != DT_F32) {
        cpu_feed_latent_attention(b, l);
        return;
    }
    op_attention a = {.seqs = l->seqs,
                      .n_heads = l->n_heads,
                      .n_kv_heads = 1,
                      .head_dim = l->latent + l->rope_dim,
                      .q = l->q,
                      .q_stride = l->q_stride,
                      .out = l->out,
                      .out_stride = l->out_stride,
                      .scale = l->scale,
                      .k_pages = l->pages,
                      .v_pages = l->pages,
                      .kv_dt = l->kv_dt,
                      .page_tokens = l->page_tokens};
    const cpu_rows *r = &cpu->rows;
    const attention_row *row = a.kv_dt == DT_F32    ? r->latent_f32
                               : a.kv_dt == DT_BF16 ? r->latent_bf16
                               : a.kv_dt == DT_INT8 ? r->latent_int8
                                                    : r->latent_f8;
    run(cpu, row, &a, l->latent, true);
}
