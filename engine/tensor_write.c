/* A tensor is made as f32 and converted in strips on its way out. */
#include "engine/tensor_write.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/str.h"

#define STRIP 16384 /* elements converted at a time */

status model_dir_make(const char *dir, error *err) {
    char *config = path_join(dir, "config.json");
    status st = OK;
    if (file_exists(config))
        st = error_set(err, ERR_INVALID, "%s: there is a model here already", config);
    else if (mkdir(dir, 0755) != 0 && errno != EEXIST)
        st = error_set(err, ERR_IO, "%s: cannot make the directory: %s", dir, strerror(errno));
    mem_free(config);
    return st;
}

static status failed(const out_file *f, const char *what, error *err) {
    return error_set(err, ERR_IO, "%s: cannot %s: %s", f->path, what, strerror(errno));
}

status out_file_open(const char *path, out_file *ret, error *err) {
    strbuf tmp = {0};
    strbuf_addf(&tmp, "%s.tmp.%d", path, (int)getpid());
    out_file f = {.path = path, .tmp = strbuf_take(&tmp)};
    f.fd = open(f.tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (f.fd < 0) {
        status st = failed(&f, "create", err);
        mem_free(f.tmp);
        return st;
    }
    *ret = f;
    return OK;
}

status out_file_put(out_file *f, const void *p, size_t n, error *err) {
    const char *from = p;
    while (n > 0) {
        ssize_t w = write(f->fd, from, n);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return failed(f, "write", err);
        from += w;
        n -= (size_t)w;
    }
    return OK;
}

status out_file_close(out_file *f, status st, error *err) {
    if (st == OK && fsync(f->fd) != 0) st = failed(f, "flush", err);
    close(f->fd);
    if (st == OK && rename(f->tmp, f->path) != 0) st = failed(f, "rename into place", err);
    if (st != OK) unlink(f->tmp);
    mem_free(f->tmp);
    return st;
}

static status put_elements(out_file *f, const float *x, int64_t n, dtype dt, error *err) {
    uint16_t half[STRIP];
    if (dt == DT_F32) return out_file_put(f, x, (size_t)n * sizeof *x, err);
    for (int64_t at = 0; at < n; at += STRIP) {
        int64_t m = MIN((int64_t)STRIP, n - at);
        for (int64_t i = 0; i < m; i++)
            half[i] = dt == DT_BF16 ? f32_to_bf16(x[at + i]) : f32_to_f16(x[at + i]);
        TRY(out_file_put(f, half, (size_t)m * sizeof *half, err));
    }
    return OK;
}

status out_file_tensor(out_file *f, const tensor_out *t, int32_t i, tensor_fill fill, void *ctx,
                       error *err) {
    int64_t n = tensor_out_count(t);
    float *x = mem_map((size_t)n * sizeof *x);
    if (!x) return error_set(err, ERR_NOMEM, "%s: no memory for tensor \"%s\"", f->path, t->name);
    status st = fill(ctx, i, x, err);
    if (st == OK) st = put_elements(f, x, n, t->dt, err);
    mem_unmap(x, (size_t)n * sizeof *x);
    return st;
}

static const char *type_name(dtype dt) {
    return dt == DT_F32 ? "F32" : dt == DT_F16 ? "F16" : "BF16";
}

static void header(const tensor_out *list, int32_t n, strbuf *out) {
    uint64_t at = 0;
    strbuf_addz(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int32_t i = 0; i < n; i++) {
        const tensor_out *t = &list[i];
        uint64_t bytes = (uint64_t)tensor_out_count(t) * dtype_bytes(t->dt);
        strbuf_addc(out, ',');
        strbuf_add_json(out, str_z(t->name));
        strbuf_addf(out, ":{\"dtype\":\"%s\",\"shape\":[", type_name(t->dt));
        for (int32_t d = 0; d < t->n_dims; d++)
            strbuf_addf(out, "%s%lld", d ? "," : "", (long long)t->dims[d]);
        strbuf_addf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                    (unsigned long long)(at + bytes));
        at += bytes;
    }
    strbuf_addc(out, '}');
    while (out->n % 8) strbuf_addc(out, ' ');
}

status tensors_write_safetensors(const char *path, const tensor_out *list, int32_t n,
                                 tensor_fill fill, void *ctx, error *err) {
    out_file f;
    strbuf head = {0};
    TRY(out_file_open(path, &f, err));
    header(list, n, &head);
    uint64_t bytes = head.n;
    status st = out_file_put(&f, &bytes, 8, err);
    if (st == OK) st = out_file_put(&f, head.p, head.n, err);
    for (int32_t i = 0; i < n && st == OK; i++)
        st = out_file_tensor(&f, &list[i], i, fill, ctx, err);
    strbuf_done(&head);
    return out_file_close(&f, st, err);
}
