/* Every tiny checkpoint of this folder through `convert`: to f32 in shards, to GGUF where the
 * family has a counterpart, and from there back. The logits must stay. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/convert.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

#define ROOT  "tests/archs"
#define N_IDS 7
#define LIMIT 2e-6 /* relative */

static int n_gguf, n_back, n_refused;

static const int32_t ids[N_IDS] = {1, 2, 3, 40, 50, 60, 7};

static void remove_all(const char *path) {
    DIR *d = opendir(path);
    for (struct dirent *f; d && (f = readdir(d));) {
        char *name = path_join(path, f->d_name);
        if (f->d_name[0] != '.') unlink(name);
        mem_free(name);
    }
    if (d) closedir(d);
    if (rmdir(path) != 0) unlink(path);
}

/* Logits of the last id, NULL for a model without a head. */
static float *logits_of(const char *model, size_t *ret_n) {
    engine *e = NULL;
    error err = {0};
    float *row = NULL;
    status st = model_open(model, "f32", NULL, &e, &err);
    if (st == OK && engine_info(e)->has_head) {
        *ret_n = (size_t)engine_info(e)->vocab;
        row = mem_alloc(*ret_n * sizeof *row);
        st = engine_logits(e, ids, N_IDS, false, 0, row, &err);
    }
    EXPECT(st == OK, "%s: %s", model, err.text);
    engine_free(e);
    return row;
}

static void compare(const char *name, const char *what, const float *want, const char *model) {
    size_t n = 0;
    float *got = logits_of(model, &n);
    double off = got && want ? relative_error(got, want, n) : 0;
    EXPECT(off < LIMIT, "%s: %s: logits differ by %g", name, what, off);
    mem_free(got);
}

static void check_gguf(const char *name, const char *dir, const float *want, const char *tmp) {
    char *file = path_join(tmp, "model.gguf"), *back = path_join(tmp, "back");
    convert_options o = {.model = dir, .out = file, .dt = DT_F32};
    error err;
    status st = convert_run(&o, &err);
    if (st == OK) {
        n_gguf++;
        compare(name, "as GGUF", want, file);
        o = (convert_options){.model = file, .out = back, .dt = DT_F32};
        st = convert_run(&o, &err);
        EXPECT(st == OK || st == ERR_UNSUPPORTED, "%s: back: %s", name, err.text);
        n_back += st == OK;
        if (st == OK) compare(name, "from GGUF", want, back);
        remove_all(back);
    } else {
        EXPECT(st == ERR_UNSUPPORTED, "%s: %s", name, err.text);
        n_refused++;
    }
    mem_free(file);
    mem_free(back);
}

static void check_model(const char *name) {
    char tmp[] = "/tmp/pagoda-convert-XXXXXX", *dir = path_join(ROOT, name);
    EXPECT(mkdtemp(tmp) != NULL, "%s", tmp);
    char *out = path_join(tmp, "out");
    error err;
    size_t n = 0;
    float *want = logits_of(dir, &n);
    convert_options o = {.model = dir, .out = out, .dt = DT_F32, .shard_bytes = 40000};
    status st = convert_run(&o, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    if (st == OK) compare(name, "in shards", want, out);
    remove_all(out);
    check_gguf(name, dir, want, tmp);
    remove_all(tmp);
    mem_free(want);
    mem_free(out);
    mem_free(dir);
}

static int has_config(const struct dirent *d) {
    strbuf path = {0};
    strbuf_addf(&path, ROOT "/%s/config.json", d->d_name);
    bool there = d->d_name[0] != '.' && file_exists(path.p);
    strbuf_done(&path);
    return there;
}

int main(void) {
    struct dirent **list = NULL;
    int n = scandir(ROOT, &list, has_config, alphasort);
    EXPECT(n > 20, "%s: %d checkpoints", ROOT, n);
    for (int i = 0; i < n; i++) {
        check_model(list[i]->d_name);
        free(list[i]);
    }
    free(list);
    EXPECT(n_gguf > 40 && n_back > 30, "%d went through GGUF, %d back", n_gguf, n_back);
    printf("%d checkpoints converted, %d to GGUF, %d of them back, %d refused by name\n", n, n_gguf,
           n_back, n_refused);
    return n_failed != 0;
}
