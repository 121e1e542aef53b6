/* modules.json and the pooling layer's config.json of a sentence-transformers directory, split at a
 * line "====". They are read from files: the target makes one directory. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/pooling.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static char dir[64];

static void name_of(char *out, size_t n, const char *file) {
    snprintf(out, n, "%s/%s", dir, file);
}

static void write_file(const char *file, str text) {
    char path[128];
    name_of(path, sizeof path, file);
    FILE *f = fopen(path, "wb");
    if (!f) abort();
    fwrite(text.p, 1, text.n, f);
    fclose(f);
}

static void remove_all(void) {
    static const char *const names[] = {"1_Pooling/config.json", "modules.json", "1_Pooling"};
    char path[128];
    for (size_t i = 0; i < 3; i++) {
        name_of(path, sizeof path, names[i]);
        remove(path);
    }
    rmdir(dir);
}

static void make_dir(void) {
    char path[128];
    snprintf(dir, sizeof dir, "/tmp/pagoda-fuzz-XXXXXX");
    if (!mkdtemp(dir)) abort();
    name_of(path, sizeof path, "1_Pooling");
    if (mkdir(path, 0700)) abort();
    atexit(remove_all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    str all = str_n((const char *)data, n);
    ptrdiff_t cut = str_find(all, STR("\n====\n"), 0);
    model_info info = {0};
    error err = {0};
    if (!dir[0]) make_dir();
    write_file("modules.json", cut < 0 ? all : str_cut(all, 0, (size_t)cut));
    write_file("1_Pooling/config.json", cut < 0 ? STR("{}") : str_cut(all, (size_t)cut + 6, n));
    if (pooling_read(dir, STR("mean"), &info, &err) != OK && !err.text[0]) abort();
    if (info.pool_unsupported[0] && !memchr(info.pool_unsupported, 0, sizeof info.pool_unsupported))
        abort();
    return 0;
}
