/* Memory of the emulated device is what the plan said: scratch_bytes is what reserve takes, and
 * after a model is opened steps of the largest kind take no more of it. Device memory is counted
 * exactly by the emulation. */
#include <stdio.h>

#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "kernels/device.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define N_SEQS 80 /* of model_open */
#define PROMPT 9

static size_t free_bytes(backend *b) {
    size_t left = 0, total;
    error err;
    status st = b->v->mem_info(b, &left, &total, &err);
    EXPECT(st == OK, "%s", err.text);
    return left;
}

/* A crowd whose first steps have as many tokens as fit, whose later ones as many sequences; every
 * way of sampling that has scratch of its own. */
static void run_crowd(engine *e, const char *dir) {
    static const sample_params kinds[] = {
        {.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .n_logprobs = 3},
        {.temperature = 1, .top_k = 5, .top_p = 0.9f, .typical_p = 1, .repetition_penalty = 1.2f},
        {.temperature = 1, .top_p = 0.5f, .typical_p = 1, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 1, .min_p = 0.1f, .typical_p = 1, .frequency_penalty = 0.5f},
        {.temperature = 1, .top_p = 1, .typical_p = 0.8f, .repetition_penalty = 1}};
    run_seq seqs[N_SEQS];
    int32_t prompt[PROMPT], ids[N_SEQS][2];
    sample_out told[PROMPT];
    error err;
    for (int32_t i = 0; i < PROMPT; i++) prompt[i] = 3 + i;
    for (int32_t i = 0; i < N_SEQS; i++)
        seqs[i] = (run_seq){.prompt = prompt,
                            .n_prompt = PROMPT,
                            .n_new = 2,
                            .params = &kinds[(size_t)i % ARRAY_LEN(kinds)],
                            .prompt_out = i == 0 ? told : NULL,
                            .ret_ids = ids[i]};
    status st = run_batch(e, seqs, N_SEQS, (run_options){0}, &err);
    EXPECT(st == OK, "%s: %s", dir, err.text);
}

static void check_model(const char *dir, const char *want) {
    engine *e = NULL;
    error err;
    status st = model_open(dir, want, NULL, &e, &err);
    EXPECT(st == OK, "%s: %s", dir, err.text);
    if (st != OK) return;
    size_t before = free_bytes(e->b);
    run_crowd(e, dir);
    size_t after = free_bytes(e->b);
    EXPECT(before == after, "%s %s: steps took %zd bytes of the device", dir, want,
           (ssize_t)(before - after));
    engine_free(e);
}

/* Bounds of a model of 8B parameters with a head of 128k. */
static op_bounds bounds_8b(wmat *mats) {
    static const int32_t shapes[][2] = {{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++)
        mats[i] = (wmat){.n = shapes[i][0], .k = shapes[i][1], .dt = DT_BF16};
    return (op_bounds){.n_tokens = 2048,
                       .n_seqs = 256,
                       .max_len = 4096,
                       .n_rows = 256,
                       .vocab = 128256,
                       .n_edits = 128256,
                       .n_heads = 32,
                       .n_kv_heads = 8,
                       .value_width = 128,
                       .mats = mats,
                       .n_mats = ARRAY_LEN(shapes)};
}

static void check_bounds(backend *b) {
    wmat mats[4];
    op_bounds o = bounds_8b(mats), none = {0}, more = o;
    error err;
    size_t bytes = b->v->scratch_bytes(b, &o);
    EXPECT(b->v->scratch_bytes(b, &none) == 0, "no calls need no scratch");
    /* the widest activations in 16 bits, and candidates of 256 rows in chunks of 4096 ids */
    EXPECT(bytes >= 2048ull * 14336 * 2 && bytes < (size_t)256 << 20, "%zu bytes", bytes);
    more.n_rows = 512;
    EXPECT(b->v->scratch_bytes(b, &more) >= bytes, "more rows need no less");
    more = o, more.max_len = 131072;
    EXPECT(b->v->scratch_bytes(b, &more) >= bytes, "longer sequences need no less");
    more = o, more.n_expert_layers = 32, more.n_experts = 8, more.top_k = 2;
    more.width = 4096, more.ffn = 14336, more.gated = true;
    EXPECT(b->v->scratch_bytes(b, &more) > bytes, "experts need more");
    const op_bounds *const all[] = {&none, &o, &o, &more};
    size_t taken = 0;
    for (size_t i = 0; i < ARRAY_LEN(all); i++) {
        size_t before = free_bytes(b);
        status st = b->v->reserve(b, all[i], &err);
        EXPECT(st == OK, "%s", err.text);
        taken += before - free_bytes(b);
        EXPECT(taken == b->v->scratch_bytes(b, all[i]), "%zu bytes taken for bounds %zu, not %zu",
               taken, i, b->v->scratch_bytes(b, all[i]));
    }
}

/* Experts whose input is far wider than their networks, fed with 16-bit rows. */
static void check_experts(backend *b) {
    enum { T = 256, E = 2, WIDTH = 512, FFN = 64 };
    wmat mats[2 * E], up[E], down[E];
    char *block = NULL, *rows = NULL;
    error err;
    size_t each = b->v->wmat_bytes(b, FFN, WIDTH, DT_BF16);
    size_t back = b->v->wmat_bytes(b, WIDTH, FFN, DT_BF16), all = E * (each + back);
    size_t x = (size_t)T * WIDTH * 2, out = 2 * x, ids = T * sizeof(int32_t);
    EXPECT(b->v->mem_alloc(b, all, (void **)&block, &err) == OK, "%s", err.text);
    EXPECT(b->v->mem_alloc(b, x + out + 2 * ids, (void **)&rows, &err) == OK, "%s", err.text);
    for (size_t i = 0; i < E; i++) {
        b->v->wmat_init(b, &up[i], FFN, WIDTH, DT_BF16, block + i * each);
        b->v->wmat_init(b, &down[i], WIDTH, FFN, DT_BF16, block + E * each + i * back);
        mats[2 * i] = up[i], mats[2 * i + 1] = down[i];
    }
    op_bounds o = {.n_tokens = T,
                   .mats = mats,
                   .n_mats = 2 * E,
                   .n_expert_layers = 1,
                   .n_experts = E,
                   .top_k = 1,
                   .width = WIDTH,
                   .ffn = FFN};
    EXPECT(b->v->reserve(b, &o, &err) == OK, "%s", err.text);
    size_t before = free_bytes(b);
    op_experts a = {.n_tokens = T,
                    .n_experts = E,
                    .top_k = 1,
                    .width = WIDTH,
                    .ffn = FFN,
                    .x = rows,
                    .x_stride = WIDTH,
                    .x_dt = DT_BF16,
                    .out = (float *)(rows + x),
                    .out_stride = WIDTH,
                    .ids = (const int32_t *)(rows + x + out),
                    .weights = (const float *)(rows + x + out + ids),
                    .act = ACT_RELU,
                    .up = up,
                    .down = down};
    b->v->experts(b, &a);
    EXPECT(b->v->sync(b, &err) == OK, "%s", err.text);
    EXPECT(free_bytes(b) == before, "experts took %zd bytes beside what was reserved",
           (ssize_t)(before - free_bytes(b)));
    b->v->mem_free(b, rows, x + out + 2 * ids);
    b->v->mem_free(b, block, all);
}

/* Rows of logits at a time. */
static void check_rows(void) {
    EXPECT(forward_rows_at_once(true, 128256, 1000) == 64, "a cache's worth on the host");
    EXPECT(forward_rows_at_once(true, 128256, 8) == 8, "no more than sequences");
    EXPECT(forward_rows_at_once(false, 128256, 256) == 256, "a batch of 256 at once");
    EXPECT(forward_rows_at_once(false, 128256, 4096) == 523, "256 MiB hold 523 rows");
    EXPECT(forward_rows_at_once(false, 1 << 22, 4096) == 64, "64 at least");
    EXPECT(forward_rows_at_once(false, 512, 4096) == FORWARD_ROWS_MAX, "never more");
}

int main(void) {
    check_rows();
    backend *b;
    error err;
    device_options o = {.device = test_device()};
    status st = device_open(&o, &b, &err);
    EXPECT(st == OK, "%s", err.text);
    if (st == OK) {
        check_bounds(b);
        backend_close(b);
    }
    if (st == OK) {
        st = device_open(&o, &b, &err);
        EXPECT(st == OK, "%s", err.text);
    }
    if (st == OK) {
        check_experts(b);
        backend_close(b);
    }
    check_model("conf/demo-model", "auto");
    check_model("tests/archs/mixtral", "auto");
    check_model("tests/archs/deepseek-v2-lite", "auto");
    check_model("tests/archs/gguf-blocks-32", "auto");
    check_model("tests/quant/awq-mixtral", "auto");
    check_model("tests/quant/ct-w8a8", "auto");
    check_model("tests/quant/gptq-b4-g32", "auto");
    return n_failed != 0;
}
