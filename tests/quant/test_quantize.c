/* --quantize on every checkpoint of tests/archs: the logits are those of the same model in f32
 * whose matrices were rounded, tensor by tensor, by the rows of kernels/quantize.h. So views,
 * packs, stacks, transposes, tied heads, merged adapters and the order of blocks are right,
 * whatever the family. Quantised checkpoints are refused, and so are numbers that are none. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/convert.h"
#include "engine/engine_internal.h"
#include "engine/tensor_rows.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define ROOT  "tests/archs"
#define LIMIT 1e-5 /* of logits, relative */
#define N_IDS 12

static status open_model(const char *dir, const char *quantize, const char *lora, engine **ret,
                         error *err) {
    engine_options o = {.model_dir = dir,
                        .device = test_device(),
                        .dtype = "f32",
                        .kv_dtype = "f32",
                        .quant_math = "exact",
                        .quantize = quantize,
                        .merge_lora = lora,
                        .lora_rank_max = 64,
                        .n_threads = 2,
                        .max_seqs = 4,
                        .max_batched_tokens = 32,
                        .kv_bytes = (size_t)4 << 20};
    return engine_open(&o, ret, err);
}

/* Rows [r, r+n) of a tensor, rounded as the model q stores them. */
static void rounded_rows(engine *q, engine *e, int32_t i, int32_t r, int32_t n, float *rows) {
    const arch_tensor *t = &e->a->tensors[i];
    const weight_bind *b = &q->w.bind[i];
    error err;
    quantize_error sums = {0};
    size_t bytes = quant_row_bytes(b->to, &b->spec, t->cols);
    char *codes = mem_alloc((size_t)n * bytes);
    EXPECT(tensor_rows_stored(&e->w, &e->ckpt, i, r, n, rows, &err) == OK, "%s", err.text);
    tensor_rows_change(t->xform, n, t->cols, rows);
    quantize_rows(b->to, &b->spec, t->cols, rows, n, codes, &sums);
    for (int32_t k = 0; k < n; k++)
        quant_row_f32(b->to, &b->spec, t->cols, NULL, codes + (size_t)k * bytes, 0, t->cols,
                      rows + (size_t)k * (size_t)t->cols);
    mem_free(codes);
}

/* A table of its own for lookups where they would read the head, which is about to be rounded; the
 * caller frees it. */
static float *own_table(engine *e) {
    weight *t = weights_at(&e->w, -1, W_EMBED);
    float *rows = NULL;
    error err;
    if (!t || !t->packed) return NULL;
    for (int32_t i = 0; i < e->a->n_tensors && !rows; i++) {
        if (e->a->tensors[i].slot != W_EMBED) continue;
        rows = mem_alloc((size_t)t->rows * (size_t)t->cols * sizeof *rows);
        EXPECT(tensor_rows_stored(&e->w, &e->ckpt, i, 0, t->rows, rows, &err) == OK, "%s",
               err.text);
    }
    t->packed = NULL;
    t->table = rows;
    return rows;
}

/* Put the rounded values into the f32 model e; returns how many tensors that were. */
static int round_model(engine *q, engine *e) {
    int n_rounded = 0;
    for (int32_t i = 0; i < e->a->n_tensors; i++) {
        const arch_tensor *t = &e->a->tensors[i];
        const weight_bind *b = &e->w.bind[i];
        if (q->w.bind[i].to == DT_COUNT) continue;
        weight *to = weights_at(&e->w, t->layer, t->slot) + t->item;
        float *rows = mem_alloc((size_t)t->rows * (size_t)t->cols * sizeof *rows);
        rounded_rows(q, e, i, 0, t->rows, rows);
        e->b->v->wmat_pack(e->b, &to->m[b->part], b->part_row0, t->rows, rows, DT_F32, t->cols);
        mem_free(rows);
        n_rounded++;
    }
    return n_rounded;
}

static float *logits_of(engine *e, size_t *ret_n) {
    int32_t ids[N_IDS];
    error err;
    for (int i = 0; i < N_IDS; i++) ids[i] = (int32_t)(i * 37 + 5) % engine_info(e)->vocab;
    *ret_n = N_IDS * (size_t)engine_info(e)->vocab;
    float *x = mem_alloc(*ret_n * sizeof *x);
    EXPECT(engine_logits(e, ids, N_IDS, true, 5 * !arch_whole_prompt(e->a), x, &err) == OK, "%s",
           err.text);
    return x;
}

static double check_kind(const char *dir, const char *kind) {
    engine *q = NULL, *e = NULL;
    error err;
    size_t n;
    double worst = -1;
    status st = open_model(dir, kind, NULL, &q, &err);
    if (st == ERR_INVALID && strstr(err.text, "quantised already")) return worst;
    if (st == OK) st = open_model(dir, NULL, NULL, &e, &err);
    EXPECT(st == OK, "%s", err.text);
    if (st != OK) {
        engine_free(q);
        return worst;
    }
    if (!e->a->has_head) { /* an encoder: it loads, and has no logits */
        worst = 0;
    } else {
        float *plain = logits_of(e, &n), *table = own_table(e);
        EXPECT(round_model(q, e) >= e->a->n_layers, "%s: too few quantised tensors", dir);
        float *have = logits_of(q, &n), *want = logits_of(e, &n);
        worst = relative_error(have, want, n);
        EXPECT(worst < LIMIT, "%s %s: %g from the rounded model", dir, kind, worst);
        EXPECT(relative_error(have, plain, n) > 1e-5, "%s %s: nothing was rounded", dir, kind);
        mem_free(plain);
        mem_free(table);
        mem_free(have);
        mem_free(want);
    }
    engine_free(q);
    engine_free(e);
    return worst;
}

/* An adapter merged while quantising gives the bits of one merged before, by convert. */
static void check_merged(const char *base, const char *lora, const char *kind) {
    char dir[] = "/tmp/pagoda-quantize-XXXXXX", cmd[64];
    engine *a = NULL, *b = NULL;
    error err;
    size_t n;
    EXPECT(mkdtemp(dir) != NULL, "no temporary directory");
    convert_options o = {.model = base, .out = dir, .dt = DT_F32, .adapter = lora};
    status st = convert_run(&o, &err);
    if (st == OK) st = open_model(base, kind, lora, &a, &err);
    if (st == OK) st = open_model(dir, kind, NULL, &b, &err);
    EXPECT(st == OK, "%s", err.text);
    if (st == OK) {
        float *x = logits_of(a, &n), *y = logits_of(b, &n);
        double worst = relative_error(x, y, n);
        EXPECT(worst < 1e-6, "%s with %s, %s: %g from the converted", base, lora, kind, worst);
        mem_free(x);
        mem_free(y);
    }
    engine_free(a);
    engine_free(b);
    snprintf(cmd, sizeof cmd, "rm -r %s", dir);
    EXPECT(system(cmd) == 0, "%s is left", dir);
}

static void check_refusals(void) {
    static const char *const dirs[] = {"tests/quant/gptq-b4-g32", "tests/archs/gguf-blocks-32",
                                       "tests/archs/gpt-oss-mxfp4"};
    engine *e = NULL;
    error err;
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) {
        EXPECT(open_model(dirs[i], "int8", NULL, &e, &err) == ERR_INVALID, "%s opens", dirs[i]);
        EXPECT(strstr(err.text, "quantised already") && strstr(err.text, "tensor \""), "%s",
               err.text);
    }
    EXPECT(open_model(ROOT "/llama-gqa", "int5", NULL, &e, &err) == ERR_INVALID, "int5 opens");
    EXPECT(strstr(err.text, "\"int5\" is not one of none, int8, int4") != NULL, "%s", err.text);
}

/* test_quantize [TEXT]: all checkpoints, or those whose name contains the text. */
int main(int argc, char **argv) {
    struct dirent **list = NULL;
    int n = scandir(ROOT, &list, NULL, alphasort), n_run = 0;
    double worst = 0;
    for (int i = 0; i < n; i++) {
        char dir[300], config[320];
        snprintf(dir, sizeof dir, ROOT "/%s", list[i]->d_name);
        snprintf(config, sizeof config, "%s/config.json", dir);
        bool wanted = list[i]->d_name[0] != '.' && (argc < 2 || strstr(dir, argv[1])) &&
                      (file_exists(config) || strncmp(list[i]->d_name, "gguf-", 5) == 0);
        for (int kind = 0; wanted && kind < 2; kind++) {
            double x = check_kind(dir, kind ? "int4" : "int8");
            n_run += x >= 0;
            worst = fmax(worst, x);
        }
        free(list[i]);
    }
    free(list);
    if (argc < 2) {
        check_merged("tests/adapters/llama", "tests/adapters/llama/lora-qv", "int4");
        check_merged("tests/adapters/llama", "tests/adapters/llama/dora", "int8");
        check_refusals();
        EXPECT(n_run > 150, "only %d models", n_run);
    }
    EXPECT(n_run > 0, "no such model");
    printf("%d models, worst relative error of logits %.2g\n", n_run, worst);
    return n_failed ? 1 : 0;
}
