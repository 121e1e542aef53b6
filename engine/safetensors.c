/* Headers only; loader.c reads the bytes. The checks are those of the format's own library, so a
 * file that it accepts is accepted here: offsets cover the data exactly, in some order, without
 * overlap or hole. */
#include "engine/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"

static const struct {
    const char *name;
    dtype dt;
    uint8_t bytes;
} dtypes[] = {
    {"F32", DT_F32, 4},         {"F16", DT_F16, 2},         {"BF16", DT_BF16, 2},
    {"I8", DT_I8, 1},           {"U8", DT_U8, 1},           {"I32", DT_I32, 4},
    {"I64", DT_I64, 8},         {"F64", DT_COUNT, 8},       {"I16", DT_COUNT, 2},
    {"U16", DT_COUNT, 2},       {"U32", DT_COUNT, 4},       {"U64", DT_COUNT, 8},
    {"BOOL", DT_COUNT, 1},      {"F8_E4M3", DT_F8_E4M3, 1}, {"F8_E5M2", DT_F8_E5M2, 1},
    {"F8_E8M0", DT_F8_E8M0, 1}, {"C64", DT_COUNT, 8},
};

static status read_dtype(str name, st_tensor *t, uint64_t *ret_bytes) {
    for (size_t i = 0; i < ARRAY_LEN(dtypes); i++)
        if (str_eqz(name, dtypes[i].name)) {
            snprintf(t->dtype_name, sizeof t->dtype_name, "%s", dtypes[i].name);
            t->dt = dtypes[i].dt;
            *ret_bytes = dtypes[i].bytes;
            return OK;
        }
    return ERR_FORMAT;
}

static status read_shape(const json_t *shape, st_tensor *t, uint64_t *io_bytes) {
    if (!json_is_array(shape) || json_array_size(shape) > LIMIT_TENSOR_DIMS) return ERR_FORMAT;
    for (size_t i = 0; i < json_array_size(shape); i++) {
        const json_t *d = json_array_get(shape, i);
        if (!json_is_integer(d) || json_integer_value(d) < 0) return ERR_FORMAT;
        t->dims[t->n_dims++] = json_integer_value(d);
        if (!mul_ok(*io_bytes, (size_t)json_integer_value(d), io_bytes)) return ERR_FORMAT;
    }
    return OK;
}

static status read_offsets(const json_t *o, uint64_t *ret_from, uint64_t *ret_to) {
    const json_t *a = json_array_get(o, 0), *b = json_array_get(o, 1);
    if (json_array_size(o) != 2 || !json_is_integer(a) || !json_is_integer(b)) return ERR_FORMAT;
    if (json_integer_value(a) < 0 || json_integer_value(b) < json_integer_value(a))
        return ERR_FORMAT;
    *ret_from = (uint64_t)json_integer_value(a);
    *ret_to = (uint64_t)json_integer_value(b);
    return OK;
}

static status read_tensor(const char *path, const char *name, const json_t *v, uint64_t data_off,
                          uint64_t data_bytes, st_tensor *t, error *err) {
    uint64_t bytes = 0, from = 0, to = 0;
    str dt = js_get_str(v, "dtype");
    if (!json_is_object(v) || read_dtype(dt, t, &bytes) != OK)
        return error_set(err, ERR_FORMAT, "%s: tensor \"%s\": unknown dtype \"" STR_FMT "\"", path,
                         name, STR_ARG(dt));
    if (read_shape(js_get(v, "shape"), t, &bytes) != OK)
        return error_set(err, ERR_FORMAT, "%s: tensor \"%s\": bad shape", path, name);
    if (read_offsets(js_get(v, "data_offsets"), &from, &to) != OK)
        return error_set(err, ERR_FORMAT, "%s: tensor \"%s\": bad data_offsets", path, name);
    if (to > data_bytes)
        return error_set(err, ERR_FORMAT,
                         "%s: truncated: tensor \"%s\" ends at data byte %llu, the file has %llu",
                         path, name, (unsigned long long)to, (unsigned long long)data_bytes);
    if (to - from != bytes)
        return error_set(
            err, ERR_FORMAT,
            "%s: tensor \"%s\": data_offsets span %llu bytes, its shape and dtype need %llu", path,
            name, (unsigned long long)(to - from), (unsigned long long)bytes);
    t->off = data_off + from;
    t->bytes = bytes;
    return OK;
}

static int by_offset(const void *a, const void *b) {
    const st_tensor *x = a, *y = b;
    if (x->off != y->off) return x->off < y->off ? -1 : 1;
    return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static status check_layout(const st_tensor *t, int32_t n, const char *path, uint64_t data_off,
                           uint64_t data_bytes, error *err) {
    uint64_t at = data_off;
    for (int32_t i = 0; i < n; i++) {
        if (t[i].off < at)
            return error_set(err, ERR_FORMAT, "%s: tensor \"%s\" overlaps tensor \"%s\"", path,
                             t[i].name, t[i - 1].name);
        if (t[i].off > at)
            return error_set(err, ERR_FORMAT,
                             "%s: %llu bytes before tensor \"%s\" belong to no tensor", path,
                             (unsigned long long)(t[i].off - at), t[i].name);
        at += t[i].bytes;
    }
    if (at != data_off + data_bytes)
        return error_set(err, ERR_FORMAT, "%s: %llu bytes at the end belong to no tensor", path,
                         (unsigned long long)(data_off + data_bytes - at));
    return OK;
}

static status add_tensors(checkpoint *c, const json_t *root, const char *path, int32_t file,
                          uint64_t data_off, uint64_t data_bytes, error *err) {
    const char *name;
    json_t *v;
    if (!json_is_object(root))
        return error_set(err, ERR_FORMAT, "%s: the header is no JSON object", path);
    json_object_foreach((json_t *)root, name, v) {
        if (strcmp(name, "__metadata__") == 0) continue;
        st_tensor t = {.file = file};
        TRY(read_tensor(path, name, v, data_off, data_bytes, &t, err));
        TRY(checkpoint_push(c, t, str_z(name), err));
    }
    return OK;
}

status safetensors_add(checkpoint *c, str header, const char *path, int32_t file, uint64_t data_off,
                       uint64_t data_bytes, error *err) {
    json_t *root = NULL;
    int32_t first = c->n_tensors;
    status st = js_parse_unique(header, &root, err);
    if (st != OK) {
        error_prefix(err, "%s: header", path);
        return ERR_FORMAT;
    }
    st = add_tensors(c, root, path, file, data_off, data_bytes, err);
    int32_t n = c->n_tensors - first;
    st_tensor *added = n ? c->tensors + first : NULL;
    if (st == OK && n) qsort(added, (size_t)n, sizeof *added, by_offset);
    if (st == OK) st = check_layout(added, n, path, data_off, data_bytes, err);
    if (st != OK)
        checkpoint_cut(c, first);
    else
        c->data_bytes += data_bytes;
    json_decref(root);
    return st;
}

static status read_exact(int fd, void *p, size_t n, uint64_t off) {
    for (size_t got = 0; got < n;) {
        ssize_t r = pread(fd, (char *)p + got, n - got, (off_t)(off + got));
        if (r < 0 && errno == EINTR) continue;
        if (r <= 0) return ERR_IO;
        got += (size_t)r;
    }
    return OK;
}

/* The header's length, checked against the file. */
static status read_length(int fd, const char *path, uint64_t file_bytes, uint64_t *ret,
                          error *err) {
    uint8_t head[64] = {0};
    size_t n = (size_t)MIN(file_bytes, (uint64_t)sizeof head);
    if (n > 0 && read_exact(fd, head, n, 0) != OK)
        return error_set(err, ERR_IO, "%s: cannot read: %s", path, strerror(errno));
    TRY(file_check_pointer(path, head, n, err));
    if (n < 8)
        return error_set(err, ERR_FORMAT, "%s: truncated: %llu bytes are no safetensors file", path,
                         (unsigned long long)file_bytes);
    uint64_t len = 0;
    for (int i = 7; i >= 0; i--) len = len << 8 | head[i];
    if (len > LIMIT_SAFETENSORS_HEADER)
        return error_set(err, ERR_FORMAT,
                         "%s: not safetensors, or its header of %llu bytes is "
                         "over the bound of %llu",
                         path, (unsigned long long)len,
                         (unsigned long long)LIMIT_SAFETENSORS_HEADER);
    if (len > file_bytes - 8)
        return error_set(err, ERR_FORMAT, "%s: truncated: a header of %llu bytes in a file of %llu",
                         path, (unsigned long long)len, (unsigned long long)file_bytes);
    *ret = len;
    return OK;
}

static status read_header(int fd, checkpoint *c, int32_t file, error *err) {
    const char *path = c->files[file];
    struct stat s;
    uint64_t len = 0;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode))
        return error_set(err, ERR_IO, "%s: not a regular file", path);
    TRY(read_length(fd, path, (uint64_t)s.st_size, &len, err));
    char *text = mem_alloc(len + 1);
    status st = read_exact(fd, text, len, 8) == OK
                    ? safetensors_add(c, str_n(text, len), path, file, 8 + len,
                                      (uint64_t)s.st_size - 8 - len, err)
                    : error_set(err, ERR_IO, "%s: cannot read the header", path);
    mem_free(text);
    return st;
}

status safetensors_add_file(checkpoint *c, int32_t file, error *err) {
    const char *path = c->files[file];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: cannot open: %s", path,
                         strerror(errno));
    status st = read_header(fd, c, file, err);
    close(fd);
    return st;
}
