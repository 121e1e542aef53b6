/* A small llama in every GGUF storage type against the same numbers as F32: first in one type
 * throughout, then in types that differ within a layer, as quantisers mix them. What the types mean
 * is tested in tests/unit/kernels; here that rows, parts, the embedding and experts get their
 * bytes. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "kernels/quant.h"
#include "tests/golden/gguf_write.h"
#include "tests/golden/model_run.h"

#define HIDDEN  256
#define FFN     512
#define VOCAB   40
#define EXPERTS 3
#define LIMIT   2e-5

static int n_failed;

/* Random blocks need scales that are numbers: where they are, and the exponent of what is put there
 * so that values stay near 0.1. */
static const struct {
    uint32_t id;
    dtype dt;
    int32_t scale_at[2]; /* f16; -1: none */
    int exponent;
} types[] = {
    {2, DT_Q4_0, {0, -1}, -6},     {3, DT_Q4_1, {0, 2}, -6},      {6, DT_Q5_0, {0, -1}, -7},
    {7, DT_Q5_1, {0, 2}, -7},      {8, DT_Q8_0, {0, -1}, -10},    {10, DT_Q2_K, {80, 82}, -8},
    {11, DT_Q3_K, {108, -1}, -10}, {12, DT_Q4_K, {0, 2}, -12},    {13, DT_Q5_K, {0, 2}, -13},
    {14, DT_Q6_K, {208, -1}, -14}, {20, DT_IQ4_NL, {0, -1}, -10}, {23, DT_IQ4_XS, {0, -1}, -14},
    {34, DT_TQ1_0, {52, -1}, -4},  {35, DT_TQ2_0, {64, -1}, -4},  {39, DT_MXFP4, {-1, -1}, 0},
    {40, DT_NVFP4, {-1, -1}, 0},
};

static uint64_t draws;

static uint8_t random_byte(void) {
    return (uint8_t)(256 * rng_uniform(3, draws++, 0));
}

/* One matrix in a storage type and as what its blocks mean. */
typedef struct matrix {
    strbuf blocks, floats;
} matrix;

static matrix random_matrix(size_t type, int64_t n) {
    dtype dt = types[type].dt;
    size_t bytes = dtype_block_bytes(dt), n_blocks = (size_t)(n / dtype_block(dt));
    matrix m = {0};
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t block[512];
        uint16_t scale = f32_to_f16(0.5f + 0.5f * (float)rng_uniform(4, draws++, 0));
        scale = (uint16_t)(scale + types[type].exponent * 1024);
        for (size_t i = 0; i < bytes; i++) block[i] = random_byte();
        for (int k = 0; k < 2; k++)
            if (types[type].scale_at[k] >= 0) memcpy(block + types[type].scale_at[k], &scale, 2);
        if (dt == DT_MXFP4) block[0] = (uint8_t)(120 + block[0] % 4); /* scales of 8 bits */
        for (int i = 0; dt == DT_NVFP4 && i < 4; i++) block[i] = (uint8_t)(16 + block[i] % 16);
        strbuf_add(&m.blocks, str_n((const char *)block, bytes));
    }
    float *x = mem_alloc((size_t)n * sizeof *x);
    quant_blocks_f32(dt, m.blocks.p, n, x);
    strbuf_add(&m.floats, str_n((const char *)x, (size_t)n * sizeof *x));
    mem_free(x);
    return m;
}

typedef struct pair {
    gguf_writer quant, plain;
    size_t next; /* type of the next matrix */
    bool mixed;
    gguf_writer first; /* of two parts: quant is the second from the feed-forward on */
    bool split;
} pair;

static void put_matrix(pair *p, const char *name, int64_t stack, int64_t rows, int64_t cols) {
    size_t type = p->mixed ? p->next++ % ARRAY_LEN(types) : p->next;
    matrix m = random_matrix(type, MAX(stack, 1) * rows * cols);
    int64_t ne[3] = {cols, rows, stack};
    gguf_write_tensor(&p->quant, name, types[type].id, stack ? 3 : 2, ne, strbuf_str(&m.blocks));
    gguf_write_tensor(&p->plain, name, 0, stack ? 3 : 2, ne, strbuf_str(&m.floats));
    strbuf_done(&m.blocks);
    strbuf_done(&m.floats);
}

static void put_ones(pair *p, const char *name) {
    float x[HIDDEN];
    for (int i = 0; i < HIDDEN; i++) x[i] = 1;
    str raw = str_n((const char *)x, sizeof x);
    gguf_write_tensor(&p->quant, name, 0, 1, (int64_t[]){HIDDEN}, raw);
    gguf_write_tensor(&p->plain, name, 0, 1, (int64_t[]){HIDDEN}, raw);
}

static void put_router(pair *p) {
    float x[EXPERTS * HIDDEN];
    for (size_t i = 0; i < ARRAY_LEN(x); i++) x[i] = (float)rng_uniform(5, draws++, 0) - 0.5f;
    str raw = str_n((const char *)x, sizeof x);
    int64_t ne[2] = {HIDDEN, EXPERTS};
    gguf_write_tensor(&p->quant, "blk.0.ffn_gate_inp.weight", 0, 2, ne, raw);
    gguf_write_tensor(&p->plain, "blk.0.ffn_gate_inp.weight", 0, 2, ne, raw);
}

typedef enum net { DENSE, STACKED, APART, FUSED } net; /* how a file keeps its experts */

static void put_net(pair *p, net kind) {
    int64_t x = kind == DENSE ? 0 : EXPERTS;
    bool stacked = kind == STACKED;
    char name[64];
    for (int e = 0; kind == APART && e < EXPERTS; e++)
        for (int k = 0; k < 3; k++) {
            static const char *const parts[] = {"gate", "up", "down"};
            snprintf(name, sizeof name, "blk.0.ffn_%s.%d.weight", parts[k], e);
            put_matrix(p, name, 0, k < 2 ? FFN : HIDDEN, k < 2 ? HIDDEN : FFN);
        }
    if (kind == APART) return;
    if (kind == FUSED)
        put_matrix(p, "blk.0.ffn_gate_up_exps.weight", x, 2 * FFN, HIDDEN);
    else {
        put_matrix(p, stacked ? "blk.0.ffn_gate_exps.weight" : "blk.0.ffn_gate.weight", x, FFN,
                   HIDDEN);
        put_matrix(p, stacked ? "blk.0.ffn_up_exps.weight" : "blk.0.ffn_up.weight", x, FFN, HIDDEN);
    }
    put_matrix(p, x ? "blk.0.ffn_down_exps.weight" : "blk.0.ffn_down.weight", x, HIDDEN, FFN);
}

static void put_keys(gguf_writer *w, bool experts) {
    static const struct {
        const char *key;
        uint64_t x;
    } dims[] = {{"llama.embedding_length", HIDDEN}, {"llama.feed_forward_length", FFN},
                {"llama.block_count", 1},           {"llama.context_length", 32},
                {"llama.attention.head_count", 4},  {"llama.attention.head_count_kv", 2},
                {"llama.expert_count", EXPERTS},    {"llama.expert_used_count", 2}};
    gguf_write_str(w, "general.architecture", "llama");
    gguf_write_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    for (size_t i = 0; i < ARRAY_LEN(dims) - (experts ? 0 : 2); i++)
        gguf_write_int(w, dims[i].key, GGUF_U32, dims[i].x);
}

static void put_part(gguf_writer *w, uint64_t no) {
    gguf_write_int(w, "split.no", GGUF_U16, no);
    gguf_write_int(w, "split.count", GGUF_U16, 2);
    gguf_write_int(w, "split.tensors.count", GGUF_I32, 12);
}

static void put_model(pair *p, net kind) {
    bool experts = kind != DENSE;
    put_keys(&p->quant, experts);
    put_keys(&p->plain, experts);
    put_matrix(p, "token_embd.weight", 0, VOCAB, HIDDEN);
    put_ones(p, "blk.0.attn_norm.weight");
    put_ones(p, "blk.0.ffn_norm.weight");
    put_ones(p, "output_norm.weight");
    put_matrix(p, "blk.0.attn_q.weight", 0, HIDDEN, HIDDEN);
    put_matrix(p, "blk.0.attn_k.weight", 0, HIDDEN / 2, HIDDEN);
    put_matrix(p, "blk.0.attn_v.weight", 0, HIDDEN / 2, HIDDEN);
    put_matrix(p, "blk.0.attn_output.weight", 0, HIDDEN, HIDDEN);
    if (experts) put_router(p);
    if (p->split) {
        put_part(&p->quant, 0);
        p->first = p->quant;
        p->quant = (gguf_writer){0};
        put_part(&p->quant, 1);
    }
    put_net(p, kind);
    put_matrix(p, "output.weight", 0, VOCAB, HIDDEN);
}

static void write_file(const char *dir, const char *name, gguf_writer *w) {
    char *path = path_join(dir, name);
    strbuf file = {0};
    error err;
    gguf_write_end(w, &file);
    CHECK(file_write_atomic(path, strbuf_str(&file), &err) == OK);
    strbuf_done(&file);
    mem_free(path);
}

static void remove_file(const char *dir, const char *name) {
    char *path = path_join(dir, name);
    unlink(path);
    mem_free(path);
}

static float *logits_of(const char *dir, const char *name) {
    static const int32_t ids[5] = {1, 39, 0, 17, 8};
    char *path = path_join(dir, name);
    engine *e = NULL;
    error err = {0};
    float *x = mem_calloc(5 * VOCAB, sizeof *x);
    engine_options o = {.model_dir = path,
                        .device = test_device(),
                        .kv_dtype = "f32",
                        .quant_math = "exact",
                        .n_threads = 2,
                        .kv_bytes = 1 << 20};
    status st = engine_open(&o, &e, &err);
    if (st == OK) st = engine_logits(e, ids, 5, true, 0, x, &err);
    if (st != OK) {
        n_failed++;
        fprintf(stderr, "%s: %s\n", name, err.text);
    }
    engine_free(e);
    mem_free(path);
    return x;
}

static void compare(const char *dir, pair *p, const char *what, const char *kind) {
    static const char one[] = "quant-00001-of-00002.gguf", two[] = "quant-00002-of-00002.gguf";
    const char *quant = p->split ? two : "quant.gguf";
    write_file(dir, quant, &p->quant);
    if (p->split) write_file(dir, one, &p->first);
    write_file(dir, "f32.gguf", &p->plain);
    float *got = logits_of(dir, quant), *want = logits_of(dir, "f32.gguf");
    double r = relative_error(got, want, 5 * VOCAB), size = 0;
    for (int i = 0; i < 5 * VOCAB; i++) size += (double)want[i] * want[i];
    bool ok = r <= LIMIT && size > 0;
    printf("%-8s %-7s %s: logits %.1e\n", what, kind, ok ? "ok" : "FAILED", r);
    n_failed += !ok;
    remove_file(dir, quant);
    remove_file(dir, one);
    remove_file(dir, "f32.gguf");
    mem_free(got);
    mem_free(want);
}

static void check(const char *dir, size_t first, bool mixed, net kind) {
    static const char *const kinds[] = {"dense", "stacked", "apart", "fused"};
    pair p = {.next = first, .mixed = mixed};
    put_model(&p, kind);
    compare(dir, &p, mixed ? "mixed" : dtype_name(types[first].dt), kinds[kind]);
}

int main(void) {
    char dir[] = "/tmp/pagoda-test-XXXXXX";
    CHECK(mkdtemp(dir));
    for (size_t i = 0; i < ARRAY_LEN(types); i++) check(dir, i, false, DENSE);
    for (size_t i = 0; i < ARRAY_LEN(types); i += 4) check(dir, i, true, (net)(i / 4));
    pair p = {.mixed = true, .split = true};
    put_model(&p, DENSE);
    compare(dir, &p, "mixed", "split");
    rmdir(dir);
    return n_failed ? 1 : 0;
}
