/* LoRA on every matrix of every checkpoint under tests/archs, all in one adapter: beside the base
 * and merged into it, which are two ways through the packs, views and transposes of a family, must
 * give the same logits, other than the base's. Matrices that an adapter beside the base cannot
 * change are named by its refusal, and left out then. Beside a quantised base: the same logits as
 * merged into the f32 model of the same numbers. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/convert.h"
#include "engine/engine_internal.h"
#include "engine/tensor_write.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define ROOT  "tests/archs"
#define LIMIT 1e-4 /* of logits, relative: the changes are as large as the weights */
#define RANK  2
#define N_IDS 14

static int n_done;

static status open_base(const char *dir, const char *merge, engine **ret, error *err) {
    engine_options o = {.model_dir = dir,
                        .device = test_device(),
                        .dtype = "f32",
                        .quant_math = "exact",
                        .n_threads = 1,
                        .max_seqs = 8,
                        .max_batched_tokens = 64,
                        .kv_bytes = (size_t)4 << 20,
                        .adapters_max = merge ? 0 : 1,
                        .lora_rank_max = RANK,
                        .merge_lora = merge};
    return engine_open(&o, ret, err);
}

typedef struct maker {
    tensor_out *list;
    int32_t n;
} maker;

static status fill(void *ctx, int32_t i, float *ret, error *err) {
    const maker *m = ctx;
    int64_t n = tensor_out_count(&m->list[i]);
    for (int64_t k = 0; k < n; k++)
        ret[k] = (float)(rng_uniform(77 + (uint64_t)i, (uint64_t)k, 0) - 0.5) * 1.2f;
    return OK;
}

static void push(maker *m, const char *module, const char *what, int64_t rows, int64_t cols) {
    strbuf name = {0};
    strbuf_addf(&name, "base_model.model.%s.%s.weight", module, what);
    m->list = mem_realloc(m->list, (size_t)(m->n + 1) * sizeof *m->list);
    m->list[m->n++] =
        (tensor_out){.name = strbuf_take(&name), .dt = DT_F32, .n_dims = 2, .dims = {rows, cols}};
}

/* Modules of the layers' matrices, each once, without those of left_out. */
static void list_modules(const arch *a, const char *left_out, maker *m) {
    for (int32_t i = 0; i < a->n_tensors; i++) {
        const arch_tensor *t = &a->tensors[i];
        char module[300], mark[310];
        bool known = slot_infos[t->slot].kind != SLOT_MATRIX || t->layer < 0 || t->n_stack ||
                     t->transpose_view;
        snprintf(module, sizeof module, "%s", t->name);
        char *end = strstr(module, ".weight");
        if (!end || end[7]) continue;
        *end = 0;
        snprintf(mark, sizeof mark, "<%s>", module);
        known = known || strstr(left_out, mark);
        for (int32_t k = 0; k < i && !known; k++) known = strcmp(a->tensors[k].name, t->name) == 0;
        if (known) continue;
        push(m, module, "lora_A", RANK, t->cols);
        push(m, module, "lora_B", t->src_rows, RANK);
    }
}

static bool write_adapter(const char *dir, const arch *a, const char *left_out) {
    static const char config[] = "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":3}";
    maker m = {0};
    error err;
    char *json = path_join(dir, "adapter_config.json"),
         *file = path_join(dir, "adapter_model.safetensors");
    list_modules(a, left_out, &m);
    status st = file_write_atomic(json, STR(config), &err);
    if (st == OK && m.n) st = tensors_write_safetensors(file, m.list, m.n, fill, &m, &err);
    EXPECT(st == OK, "%s", err.text);
    for (int32_t i = 0; i < m.n; i++) mem_free((void *)m.list[i].name);
    mem_free(m.list);
    mem_free(json);
    mem_free(file);
    return st == OK && m.n > 0;
}

/* The module that the refusal names, marked as left out; false for any other failure. */
static bool leave_out(const error *err, strbuf *left_out) {
    const char *at = strstr(err->text, "module ");
    if (err->code != ERR_UNSUPPORTED || !at) return false;
    at += strlen("module ");
    strbuf_addf(left_out, "<%.*s>", (int)strcspn(at, " :"), at);
    return true;
}

static bool logits(engine *e, float *ret) {
    int32_t ids[N_IDS];
    error err;
    for (int32_t i = 0; i < N_IDS; i++) ids[i] = 3 + i;
    status st = engine_logits(e, ids, N_IDS, true, 0, ret, &err);
    EXPECT(st == OK, "%s", err.text);
    return st == OK;
}

/* e beside the adapter against the model of `dir` with it merged. */
static void compare(const char *name, const char *dir, const char *lora, engine *e,
                    const adapter_info *info, int32_t n_left_out) {
    size_t n = N_IDS * (size_t)engine_info(e)->vocab;
    float *x[3];
    engine *merged = NULL;
    error err;
    for (int k = 0; k < 3; k++) x[k] = mem_calloc(n, sizeof **x);
    bool ok = logits(e, x[0]);
    engine_use_adapter(e, info);
    ok = ok && logits(e, x[1]);
    status st = open_base(dir, lora, &merged, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    if (ok && st == OK && logits(merged, x[2])) {
        double apart = relative_error(x[1], x[2], n), change = relative_error(x[0], x[2], n);
        EXPECT(apart <= LIMIT, "%s: beside and merged differ by %g", name, apart);
        EXPECT(change > 1e-2, "%s: the adapter changes nothing (%g)", name, change);
        printf("%-24s %.1e (change %.1e), %d left out\n", name, apart, change, n_left_out);
        n_done++;
    }
    engine_free(merged);
    for (int k = 0; k < 3; k++) mem_free(x[k]);
}

static void check_family(const char *name, const char *lora) {
    char dir[300];
    engine *e = NULL;
    error err;
    strbuf left_out = {0};
    int32_t n_left_out = 0;
    snprintf(dir, sizeof dir, ROOT "/%s", name);
    if (open_base(dir, NULL, &e, &err) != OK) return; /* no model, or one of another test */
    adapter_host host = engine_adapters(e);
    adapter_info info = {0};
    strbuf_addz(&left_out, "");
    bool float_base = dtype_is_float(e->w.dt) && e->a->has_head && !e->ckpt.config;
    while (float_base && write_adapter(lora, e->a, left_out.p)) {
        if (host.load(host.self, lora, &info, &err) == OK) {
            compare(name, dir, lora, e, &info, n_left_out);
            break;
        }
        bool named = leave_out(&err, &left_out);
        EXPECT(named, "%s: %s", name, err.text);
        n_left_out++;
        if (!named) break;
    }
    strbuf_done(&left_out);
    engine_free(e);
}

static void remove_files(const char *dir) {
    static const char *const files[] = {"adapter_config.json", "adapter_model.safetensors",
                                        "config.json", "model.safetensors"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char *path = path_join(dir, files[i]);
        unlink(path);
        mem_free(path);
    }
    rmdir(dir);
}

static bool has_codes(const weights *w) {
    for (int32_t i = 0; i < w->n_mats; i++)
        if (!dtype_is_float(w->mats[i].dt)) return true;
    return false;
}

static void check_quantised(const char *dir, const char *lora) {
    char plain[] = "/tmp/pagoda-test-XXXXXX";
    engine *e = NULL;
    adapter_info info = {0};
    error err;
    EXPECT(mkdtemp(plain), "no directory");
    convert_options o = {.model = dir, .out = plain, .dt = DT_F32};
    status st = convert_run(&o, &err);
    if (st == OK) st = open_base(dir, NULL, &e, &err);
    if (st == OK && write_adapter(lora, e->a, "")) {
        adapter_host host = engine_adapters(e);
        st = host.load(host.self, lora, &info, &err);
        EXPECT(has_codes(&e->w), "%s: not quantised", dir);
        if (st == OK) compare(dir, plain, lora, e, &info, 0);
    }
    EXPECT(st == OK, "%s: %s", dir, err.text);
    engine_free(e);
    remove_files(plain);
}

/* --quantised: those alone. */
int main(int argc, char **argv) {
    static const char *const quantised[] = {"gptq-b4-g32", "awq-g32", "bnb-nf4", "ct-fp8-channel",
                                            "gptq-phi3"};
    char lora[] = "/tmp/pagoda-test-XXXXXX";
    bool all = argc < 2 || strcmp(argv[1], "--quantised") != 0;
    DIR *d = all ? opendir(ROOT) : NULL;
    EXPECT(mkdtemp(lora), "no directory");
    for (struct dirent *f; d && (f = readdir(d));) {
        char *config = NULL;
        if (f->d_name[0] == '.') continue;
        strbuf path = {0};
        strbuf_addf(&path, ROOT "/%s/config.json", f->d_name);
        config = strbuf_take(&path);
        if (file_exists(config)) check_family(f->d_name, lora);
        mem_free(config);
    }
    if (d) closedir(d);
    for (size_t i = 0; i < ARRAY_LEN(quantised); i++) {
        char *dir = path_join("tests/quant", quantised[i]);
        check_quantised(dir, lora);
        mem_free(dir);
    }
    remove_files(lora);
    EXPECT(!all || n_done > 80, "only %d checkpoints were compared", n_done);
    return n_failed ? 1 : 0;
}
