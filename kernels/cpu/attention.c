/* Attention, the part above the rows: cut the call into tiles (sequence, kv head, rows) and divide
 * them between the members, in one of two ways that change no bit of any row.
 *
 * Prompts: many tiles that cost arithmetic. Members take them from a counter, longest first.
 *
 * Decoding, where a tile is all rows of a sequence, and few tiles over long sequences: the tiles in
 * their order are a line of key chunks, and every member takes an equal stretch of it by cost. So
 * its reading has no gap between tiles (attn_tile.next), and only tiles that a border cuts need
 * states of their chunks, which are merged behind a barrier. Chunk borders are absolute positions,
 * and an uncut tile merges the same chunks in the same order. */
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/kv8.h"

#define TILES_PER_MEMBER 4      /* with fewer, cut along the keys */
#define SMALL_MACS       131072 /* below, the caller works alone */
#define KEY_COST         8      /* reading a key, in rows that meet it */
#define TILE_KEYS        16     /* beginning and ending a tile, in keys */

typedef struct cut_tile {
    int64_t tile, state0; /* its first state in attn_call.states */
} cut_tile;

typedef struct attn_call {
    const op_attention *a;
    int32_t value_dim; /* of out and of states */
    bool latent;
    const attention_row *row;
    team *team;
    int64_t n_tiles, *first_tile; /* [n_seqs+1]: running count of tiles over the sequences */
    char *scratch;
    size_t scratch_bytes;
    int64_t *cost; /* [n_tiles+1]: running cost of tiles; NULL: tiles are taken from a counter */
    int32_t n_cut; /* at most one for each inner border */
    cut_tile cut[TEAM_MAX];
    float *states; /* [ATTN_STATE(value_dim)] each: of a cut tile [row][chunk] */
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

/* What a key of the tile costs: reading it, and its rows' arithmetic. */
static int64_t key_cost(const attn_tile *t) {
    return KEY_COST + (t->f1 - t->f0);
}

static int32_t first_key(const attn_call *c, const attn_tile *t) {
    return attn_first_key(c->a, t->seq->pos0 + t->f0 / group_size(c->a));
}

/* Cost of the tile's keys in front of a chunk of it. */
static int64_t cost_before(const attn_call *c, const attn_tile *t, int32_t chunk) {
    return chunk == t->chunk0 ? 0 : (chunk * ATTN_CHUNK - first_key(c, t)) * key_cost(t);
}

static int64_t tile_cost(const attn_call *c, const attn_tile *t) {
    int32_t last = t->seq->pos0 + (t->f1 - 1) / group_size(c->a);
    int32_t n_keys = attn_last_key(c->a, t->seq, last) + 1 - first_key(c, t);
    return (TILE_KEYS + n_keys) * key_cost(t);
}

/* The member's stretch of the line. */
static int64_t border(const attn_call *c, int member) {
    return c->cost[c->n_tiles] * member / team_size(c->team);
}

/* The tile that holds a place of the line. */
static int64_t tile_of(const attn_call *c, int64_t at) {
    int64_t lo = 0, hi = c->n_tiles;
    while (hi - lo > 1) {
        int64_t mid = (lo + hi) / 2;
        if (c->cost[mid] <= at)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

/* The first chunk of tile i that begins at or behind a place of the line. */
static int32_t chunk_from(const attn_call *c, const attn_tile *t, int64_t i, int64_t at) {
    int32_t chunk = t->chunk0;
    while (chunk < t->chunk1 && c->cost[i] + cost_before(c, t, chunk) < at) chunk++;
    return chunk;
}

/* Tiles that a border cuts, and room for their states. */
static void list_cuts(attn_call *c) {
    c->n_cut = 0;
    int64_t n_states = 0;
    for (int m = 1; m < team_size(c->team); m++) {
        int64_t at = border(c, m), i = tile_of(c, at);
        attn_tile t = tile_at(c, i);
        int32_t chunk = chunk_from(c, &t, i, at);
        if (chunk == t.chunk0 || chunk == t.chunk1) continue;
        if (c->n_cut > 0 && c->cut[c->n_cut - 1].tile == i) continue;
        c->cut[c->n_cut++] = (cut_tile){i, n_states};
        n_states += (int64_t)(t.f1 - t.f0) * (t.chunk1 - t.chunk0);
    }
}

static const cut_tile *cut_of(const attn_call *c, int64_t tile) {
    for (int32_t i = 0; i < c->n_cut; i++)
        if (c->cut[i].tile == tile) return &c->cut[i];
    return NULL;
}

static float *states_of(const attn_call *c, const cut_tile *cut) {
    return c->states + cut->state0 * ATTN_STATE(c->value_dim);
}

static void merge_row(const attn_call *c, const cut_tile *cut, const attn_tile *t, int32_t f) {
    const op_attention *a = c->a;
    int32_t state = ATTN_STATE(c->value_dim), r = group_size(a), head = t->kv_head * r + f % r;
    int32_t n_chunks = t->chunk1 - t->chunk0;
    c->row->merge(states_of(c, cut) + (int64_t)(f - t->f0) * n_chunks * state, state, n_chunks,
                  c->value_dim, a->sinks ? &a->sinks[head] : NULL,
                  (float *)a->out + (int64_t)(t->seq->row0 + f / r) * a->out_stride +
                      (int64_t)head * c->value_dim);
}

/* Rows of the cut tiles in turn. */
static void merge_cuts(const attn_call *c, int member) {
    int32_t n = 0;
    for (int32_t i = 0; i < c->n_cut; i++) {
        attn_tile t = tile_at(c, c->cut[i].tile);
        for (int32_t f = t.f0; f < t.f1; f++)
            if (n++ % team_size(c->team) == member) merge_row(c, &c->cut[i], &t, f);
    }
}

/* The part of tile i that lies in a stretch; false: nothing. */
static bool part_of(const attn_call *c, int64_t i, int64_t from, int64_t to, attn_tile *ret) {
    attn_tile t = tile_at(c, i);
    int32_t first = t.chunk0, n_chunks = t.chunk1 - t.chunk0;
    const cut_tile *cut = cut_of(c, i);
    t.chunk0 = chunk_from(c, &t, i, from);
    *ret = t;
    ret->chunk1 = chunk_from(c, &t, i, to);
    if (ret->chunk0 >= ret->chunk1) return false;
    if (!cut) return true;
    ret->partial = states_of(c, cut) + (int64_t)(t.chunk0 - first) * ATTN_STATE(c->value_dim);
    ret->partial_stride = (int64_t)n_chunks * ATTN_STATE(c->value_dim);
    return true;
}

static void line_member(void *ctx, int member) {
    attn_call *c = ctx;
    int64_t from = border(c, member), to = border(c, member + 1), i = tile_of(c, from);
    void *scratch = c->scratch + (size_t)member * c->scratch_bytes;
    attn_tile t, next;
    bool has = false, more = true;
    for (; more; i++) {
        more = i < c->n_tiles && c->cost[i] < to;
        bool found = more && part_of(c, i, from, to, &next);
        if (more && !found) continue;
        if (has) {
            t.next = found ? &next : NULL;
            c->row->tile(c->a, &t, scratch);
        }
        has = found;
        t = next;
    }
    if (c->n_cut == 0) return;
    team_barrier(c->team);
    merge_cuts(c, member);
}

static void counter_member(void *ctx, int member) {
    attn_call *c = ctx;
    void *scratch = c->scratch + (size_t)member * c->scratch_bytes;
    for (int64_t i; (i = team_next(c->team)) < c->n_tiles;) {
        attn_tile t = tile_at(c, i);
        c->row->tile(c->a, &t, scratch);
    }
}

static void check_args(const op_attention *a) {
    CHECK(kv_dtype_ok(a->kv_dt));
    CHECK(a->page_tokens > 0 && a->page_tokens % ATTN_PAGE_UNIT == 0);
    CHECK(a->n_kv_heads > 0 && a->n_heads % a->n_kv_heads == 0);
}

typedef struct call_size {
    int64_t n_tiles, macs;
    int32_t len_max, tiles_max; /* of a sequence; row tiles of one */
    int32_t rows_max;           /* of a tile */
} call_size;

static int32_t row_tiles(const attn_call *c, const attn_seq *s) {
    return CEIL_DIV(s->n_rows * group_size(c->a), c->row->tile_rows);
}

static call_size size_of(const attn_call *c) {
    const op_attention *a = c->a;
    call_size z = {.len_max = 1};
    for (int32_t i = 0; i < a->seqs.n; i++) {
        const attn_seq *s = &a->seqs.host[i];
        int32_t n = row_tiles(c, s), len = attn_last_key(a, s, s->pos0 + s->n_rows - 1) + 1;
        z.n_tiles += (int64_t)n * a->n_kv_heads;
        z.len_max = MAX(z.len_max, len);
        z.tiles_max = MAX(z.tiles_max, n);
        z.rows_max = MAX(z.rows_max, MIN(c->row->tile_rows, s->n_rows * group_size(a)));
        z.macs += (int64_t)s->n_rows * a->n_heads * len * (a->head_dim + c->value_dim);
    }
    return z;
}

static void list_tiles(attn_call *c) {
    c->n_tiles = 0;
    for (int32_t i = 0; i < c->a->seqs.n; i++) {
        c->first_tile[i] = c->n_tiles;
        c->n_tiles += (int64_t)row_tiles(c, &c->a->seqs.host[i]) * c->a->n_kv_heads;
    }
    c->first_tile[c->a->seqs.n] = c->n_tiles;
}

/* Heads of the same rows cost the same. */
static void list_costs(attn_call *c) {
    c->cost[0] = 0;
    for (int64_t i = 0; i < c->n_tiles; i += c->a->n_kv_heads) {
        attn_tile t = tile_at(c, i);
        int64_t cost = tile_cost(c, &t);
        for (int32_t h = 0; h < c->a->n_kv_heads; h++) c->cost[i + h + 1] = c->cost[i + h] + cost;
    }
}

static void run_alone(attn_call *c) {
    attn_tile t = tile_at(c, 0), next;
    for (int64_t i = 1; i <= c->n_tiles; i++, t = next) {
        if (i < c->n_tiles) next = tile_at(c, i);
        t.next = i < c->n_tiles ? &next : NULL;
        c->row->tile(c->a, &t, c->scratch);
    }
}

/* Where the lists, the members' scratch and the states lie in the workspace. */
static void lay_out(attn_call *c, cpu_backend *cpu, const call_size *z, bool line, int n_members) {
    size_t tiles = ALIGN_UP(((size_t)c->a->seqs.n + 1) * sizeof(int64_t), 64);
    size_t costs = line ? ALIGN_UP(((size_t)z->n_tiles + 1) * sizeof(int64_t), 64) : 0;
    size_t n_cut = line ? (size_t)MIN(z->n_tiles, n_members - 1) : 0;
    size_t states = n_cut * (size_t)z->rows_max * (size_t)CEIL_DIV(z->len_max, ATTN_CHUNK);
    c->scratch_bytes = ALIGN_UP(c->row->scratch_bytes(c->a), 64);
    size_t scratch = (size_t)n_members * c->scratch_bytes;
    char *ws = cpu_workspace(cpu, tiles + costs + scratch +
                                      states * sizeof(float) * ATTN_STATE((size_t)c->value_dim));
    c->first_tile = (int64_t *)ws;
    c->cost = (int64_t *)(ws + tiles);
    c->scratch = ws + tiles + costs;
    c->states = (float *)(c->scratch + scratch);
}

static void run(cpu_backend *cpu, const attention_row *row, const op_attention *a,
                int32_t value_dim, bool latent) {
    check_args(a);
    if (a->seqs.n <= 0) return;
    attn_call c = {.a = a, .value_dim = value_dim, .latent = latent, .row = row, .team = cpu->team};
    call_size z = size_of(&c);
    int n_members = z.macs < SMALL_MACS ? 1 : team_size(cpu->team);
    bool few = z.n_tiles < (int64_t)TILES_PER_MEMBER * n_members && z.len_max > ATTN_CHUNK;
    bool line = n_members > 1 && row->merge && (few || z.tiles_max == 1);
    lay_out(&c, cpu, &z, line, n_members);
    list_tiles(&c);
    if (n_members == 1) {
        run_alone(&c);
    } else if (line) {
        list_costs(&c);
        list_cuts(&c);
        team_run(cpu->team, line_member, &c);
    } else
        team_run(cpu->team, counter_member, &c);
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
