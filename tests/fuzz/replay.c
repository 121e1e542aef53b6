/* Runs a fuzz target over its corpus without a fuzzer: each file as it is, cut short at a few
 * lengths, and with single bytes changed (a fixed pattern), so that every build visits the error
 * paths too. A target fails by crashing or by a sanitizer's report. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"

#define FILE_MAX (16u << 20)
#define VARIANTS 64 /* of each kind, per file */

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

/* A copy of exactly n bytes, so that a sanitizer sees a read past the end. */
static void run(const uint8_t *p, size_t n) {
    uint8_t *copy = mem_alloc(n ? n : 1);
    if (n) memcpy(copy, p, n);
    LLVMFuzzerTestOneInput(copy, n);
    mem_free(copy);
}

static void run_variants(uint8_t *p, size_t n) {
    run(p, n);
    size_t step = n / VARIANTS + 1;
    for (size_t cut = 0; cut < n; cut += step) run(p, cut);
    for (size_t i = 0; i < n; i += step) {
        uint8_t was = p[i];
        p[i] = (uint8_t)(was ^ (1u << (i % 8)));
        run(p, n);
        p[i] = 0xff;
        run(p, n);
        p[i] = was;
    }
}

static bool run_file(const char *dir, const char *name) {
    strbuf data = {0};
    error err;
    char *path = path_join(dir, name);
    status st = file_read(path, FILE_MAX, &data, &err);
    if (st == OK) run_variants((uint8_t *)data.p, data.n);
    if (st != OK) fprintf(stderr, "%s\n", err.text);
    strbuf_done(&data);
    mem_free(path);
    return st == OK;
}

int main(int argc, char **argv) {
    int passed = 0, failed = 0;
    run(NULL, 0);
    DIR *d = argc > 1 ? opendir(argv[1]) : NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        if (run_file(argv[1], e->d_name))
            passed++;
        else
            failed++;
    }
    if (d) closedir(d);
    if (!passed) failed++; /* a target without a corpus checks nothing */
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed ? 1 : 0;
}
