/* The table of tensors that the readers of containers fill. */
#include "engine/checkpoint.h"

#include <stdio.h>
#include <sys/mman.h>

#include "engine/base/mem.h"
#include "engine/quant_config.h"

int32_t checkpoint_add_path(checkpoint *c, char *path) {
    c->files = mem_realloc(c->files, (size_t)(c->n_files + 1) * sizeof *c->files);
    c->files[c->n_files] = path;
    return c->n_files++;
}

status checkpoint_push(checkpoint *c, st_tensor t, str name, error *err) {
    const char *path = c->files[t.file];
    if (c->n_tensors >= LIMIT_TENSORS)
        return error_set(err, ERR_FORMAT, "%s: more than %d tensors", path, LIMIT_TENSORS);
    if (!name.n || memchr(name.p, 0, name.n))
        return error_set(err, ERR_FORMAT, "%s: tensor %d has an empty name or one with a NUL", path,
                         c->n_tensors);
    if (c->n_tensors == c->cap) {
        c->cap = MAX(256, 2 * c->cap);
        c->tensors = mem_realloc(c->tensors, (size_t)c->cap * sizeof *c->tensors);
    }
    t.name = mem_alloc(name.n + 1);
    memcpy(t.name, name.p, name.n);
    t.name[name.n] = 0;
    c->tensors[c->n_tensors++] = t;
    return OK;
}

void checkpoint_cut(checkpoint *c, int32_t n_tensors) {
    while (c->n_tensors > n_tensors) mem_free(c->tensors[--c->n_tensors].name);
}

status checkpoint_map(checkpoint *c, int32_t file, const char **ret, error *err) {
    if (!c->maps) c->maps = mem_calloc((size_t)c->n_files, sizeof *c->maps);
    if (!c->maps[file].p) TRY(file_map_open(c->files[file], &c->maps[file], err));
    *ret = (const char *)c->maps[file].p;
    return OK;
}

void checkpoint_rest(const checkpoint *c) {
    for (int32_t i = 0; c->maps && i < c->n_files; i++)
        if (c->maps[i].p) madvise((void *)c->maps[i].p, c->maps[i].n, MADV_DONTNEED);
}

void checkpoint_done(checkpoint *c) {
    for (int32_t i = 0; c->maps && i < c->n_files; i++) file_map_close(&c->maps[i]);
    mem_free(c->maps);
    for (int32_t i = 0; i < c->n_tensors; i++) mem_free(c->tensors[i].name);
    for (int32_t i = 0; i < c->n_files; i++) mem_free(c->files[i]);
    quant_config_free(c->quant);
    mem_free(c->tensors);
    mem_free(c->files);
    map_done(&c->by_name);
    json_decref(c->config);
    *c = (checkpoint){0};
}

const st_tensor *checkpoint_find(const checkpoint *c, const char *name) {
    uint64_t at;
    return map_get(&c->by_name, str_z(name), &at) ? &c->tensors[at] : NULL;
}

void st_tensor_describe(const st_tensor *t, char *out, size_t n) {
    strbuf b = {0};
    strbuf_addc(&b, '[');
    for (int32_t i = 0; i < t->n_dims; i++)
        strbuf_addf(&b, "%s%lld", i ? ", " : "", (long long)t->dims[i]);
    strbuf_addf(&b, "] %s", t->dtype_name);
    snprintf(out, n, "%s", b.p);
    strbuf_done(&b);
}
