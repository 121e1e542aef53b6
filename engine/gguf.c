/* One file is one part; its header says which part of how many. The first part has the metadata,
 * the others tensors only. What the parts say of themselves must agree with their names and with
 * the number of tensors found. */
#include "engine/gguf.h"

#include <stdio.h>
#include <strings.h>

#include "engine/base/mem.h"

/* The storage type by the format's name for it; DT_COUNT for those that no weight may have. */
static dtype dtype_of(const gguf_type *type) {
    for (int d = 0; d < DT_COUNT; d++)
        if (dtype_kind_of((dtype)d) != DTYPE_CODES &&
            strcasecmp(dtype_name((dtype)d), type->name) == 0)
            return (dtype)d;
    return DT_COUNT;
}

static status add_tensors(checkpoint *c, const gguf *g, int32_t file, error *err) {
    for (size_t i = 0; i < g->n_tensors; i++) {
        const gguf_tensor *t = &g->tensors[i];
        const gguf_type *type = gguf_type_of(t->type);
        st_tensor s = {.dt = dtype_of(type),
                       .n_dims = t->n_dims,
                       .off = t->off,
                       .bytes = t->bytes,
                       .file = file};
        snprintf(s.dtype_name, sizeof s.dtype_name, "%s", type->name);
        for (int32_t d = 0; d < t->n_dims; d++) s.dims[d] = t->ne[t->n_dims - 1 - d];
        TRY(checkpoint_push(c, s, t->name, err));
        c->data_bytes += t->bytes;
    }
    return OK;
}

/* Digits of exactly n places. */
static bool digits(const char *p, int n, int32_t *ret) {
    int32_t x = 0;
    for (int i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9') return false;
        x = 10 * x + (p[i] - '0');
    }
    *ret = x;
    return true;
}

bool gguf_split_name(str path, str *ret_stem, int32_t *ret_no, int32_t *ret_count) {
    const size_t n = sizeof "-00001-of-00002.gguf" - 1;
    if (path.n <= n || !str_ends(path, STR(".gguf"))) return false;
    const char *p = path.p + path.n - n;
    if (p[0] != '-' || memcmp(p + 6, "-of-", 4) != 0) return false;
    if (!digits(p + 1, 5, ret_no) || !digits(p + 10, 5, ret_count)) return false;
    *ret_stem = str_n(path.p, path.n - n);
    return *ret_no >= 1 && *ret_no <= *ret_count;
}

/* The first part of a split model: its tensors' number is known, so the sum can be checked. */
static status check_total(const checkpoint *c, const gguf *first, int32_t count, error *err) {
    int64_t want = gguf_get_int(first, "split.tensors.count", c->n_tensors);
    if (count == 1 || want == c->n_tensors) return OK;
    return error_set(err, ERR_FORMAT,
                     "%s: split.tensors.count says %lld tensors, the %d parts have %d", c->files[0],
                     (long long)want, count, c->n_tensors);
}

static status check_part(const gguf *g, const char *path, int32_t no, int32_t count, error *err) {
    int64_t has_no = gguf_get_int(g, "split.no", 0), has = gguf_get_int(g, "split.count", 1);
    if (has_no == no && (has == count || (count == 1 && has == 0))) return OK;
    return error_set(err, ERR_FORMAT,
                     "%s: split.no %lld of split.count %lld, but its name says part %d of %d", path,
                     (long long)has_no + 1, (long long)has, no + 1, count);
}

/* Part `no` (0-based) into *ret, which stays open. */
static status add_part(checkpoint *c, char *path, int32_t no, int32_t count, gguf *ret,
                       error *err) {
    int32_t file = checkpoint_add_path(c, path);
    TRY(gguf_open(path, ret, err));
    TRY(check_part(ret, path, no, count, err));
    return add_tensors(c, ret, file, err);
}

status gguf_add_model(checkpoint *c, const char *path, error *err) {
    str stem = str_z(path);
    int32_t no = 1, count = 1;
    status st = OK;
    bool split = gguf_split_name(stem, &stem, &no, &count);
    if (count > LIMIT_SHARDS)
        return error_set(err, ERR_FORMAT, "%s: more than %d parts", path, LIMIT_SHARDS);
    gguf *parts = mem_calloc((size_t)count, sizeof *parts);
    for (int32_t i = 0; i < count && st == OK; i++) {
        strbuf part = {0};
        strbuf_add(&part, stem);
        if (split) strbuf_addf(&part, "-%05d-of-%05d.gguf", i + 1, count);
        st = add_part(c, strbuf_take(&part), i, count, &parts[i], err);
    }
    if (st == OK) st = check_total(c, &parts[0], count, err);
    if (st == OK) st = gguf_config(parts, count, c->files[0], &c->config, err);
    for (int32_t i = 0; i < count; i++) gguf_close(&parts[i]);
    mem_free(parts);
    return st;
}
