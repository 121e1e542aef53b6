/* make-tiny for every built-in family: the directory is written, opens, and computes finite logits
 * that the seed alone decides; a second model in one place is refused. */
#include <dirent.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/family.h"
#include "engine/tiny.h"
#include "tests/golden/expect.h"
#include "tests/golden/model_run.h"

static void remove_dir(const char *dir) {
    static const char *const names[] = {"config.json", "model.safetensors"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char *path = path_join(dir, names[i]);
        unlink(path);
        mem_free(path);
    }
    rmdir(dir);
}

/* Logits of three ids of a fresh model, NULL for an encoder; *ret_n of them. */
static float *logits_of(const char *name, uint64_t seed, size_t *ret_n) {
    char dir[] = "/tmp/pagoda-tiny-XXXXXX";
    static const int32_t ids[] = {5, 77, 130};
    engine *e = NULL;
    float *row = NULL;
    error err;
    EXPECT(mkdtemp(dir) != NULL, "%s", dir);
    tiny_options o = {.family = name, .dir = dir, .dt = DT_F32, .seed = seed};
    status st = tiny_model_make(&o, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    if (st == OK) EXPECT(tiny_model_make(&o, &err) == ERR_INVALID, "%s: written twice", name);
    if (st == OK) st = model_open(dir, "f32", NULL, &e, &err);
    EXPECT(st == OK, "%s: %s", name, err.text);
    if (st == OK && engine_info(e)->has_head) {
        *ret_n = (size_t)engine_info(e)->vocab;
        row = mem_calloc(*ret_n, sizeof *row);
        st = engine_logits(e, ids, 3, false, 0, row, &err);
        EXPECT(st == OK, "%s: %s", name, err.text);
    }
    engine_free(e);
    remove_dir(dir);
    return row;
}

static void check_family(const char *name) {
    size_t n = 0;
    float *a = logits_of(name, 1, &n), *b = logits_of(name, 1, &n), *c = logits_of(name, 2, &n);
    bool finite = true;
    for (size_t i = 0; a && i < n; i++) finite &= isfinite(a[i]);
    EXPECT(finite, "%s: logits are not finite", name);
    if (a && b && c) {
        EXPECT(memcmp(a, b, n * sizeof *a) == 0, "%s: one seed, two models", name);
        EXPECT(memcmp(a, c, n * sizeof *a) != 0, "%s: two seeds, one model", name);
    }
    mem_free(a);
    mem_free(b);
    mem_free(c);
}

int main(void) {
    family_set set;
    error err;
    EXPECT(family_set_load(NULL, &set, &err) == OK, "%s", err.text);
    int n = 0;
    for (int i = 0; i < set.n; i++) {
        if (strncmp(set.list[i].name, "gguf", 4) == 0) continue;
        check_family(set.list[i].name);
        n++;
    }
    printf("%d families made, opened and run\n", n);
    family_set_done(&set);
    return n_failed != 0;
}
