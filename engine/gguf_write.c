#include "engine/gguf_write.h"

#include <string.h>

#include "engine/base/gguf.h"
#include "engine/base/mem.h"

#define ALIGNMENT 32

static void put(strbuf *b, const void *p, size_t n) {
    strbuf_add(b, str_n(p, n));
}

static void put_u32(strbuf *b, uint32_t x) {
    put(b, &x, sizeof x);
}

static void put_u64(strbuf *b, uint64_t x) {
    put(b, &x, sizeof x);
}

static void put_text(strbuf *b, str s) {
    put_u64(b, s.n);
    strbuf_add(b, s);
}

static void key(gguf_writer *g, const char *name, gguf_kind kind) {
    put_text(&g->kv, str_z(name));
    put_u32(&g->kv, (uint32_t)kind);
    g->n_kv++;
}

static void array(gguf_writer *g, const char *name, gguf_kind kind, uint64_t n) {
    key(g, name, GGUF_ARRAY);
    put_u32(&g->kv, (uint32_t)kind);
    put_u64(&g->kv, n);
}

void gguf_put_str(gguf_writer *g, const char *name, str value) {
    key(g, name, GGUF_STRING);
    put_text(&g->kv, value);
}

void gguf_put_u32(gguf_writer *g, const char *name, uint32_t value) {
    key(g, name, GGUF_U32);
    put_u32(&g->kv, value);
}

void gguf_put_f32(gguf_writer *g, const char *name, float value) {
    key(g, name, GGUF_F32);
    put(&g->kv, &value, sizeof value);
}

void gguf_put_bool(gguf_writer *g, const char *name, bool value) {
    key(g, name, GGUF_BOOL);
    strbuf_addc(&g->kv, value ? 1 : 0);
}

void gguf_begin_strings(gguf_writer *g, const char *name, uint64_t n) {
    array(g, name, GGUF_STRING, n);
}

void gguf_add_str(gguf_writer *g, str value) {
    put_text(&g->kv, value);
}

void gguf_put_i32s(gguf_writer *g, const char *name, const int32_t *list, uint64_t n) {
    array(g, name, GGUF_I32, n);
    put(&g->kv, list, (size_t)n * sizeof *list);
}

void gguf_put_f32s(gguf_writer *g, const char *name, const float *list, uint64_t n) {
    array(g, name, GGUF_F32, n);
    put(&g->kv, list, (size_t)n * sizeof *list);
}

void gguf_put_u8s(gguf_writer *g, const char *name, str bytes) {
    array(g, name, GGUF_U8, bytes.n);
    strbuf_add(&g->kv, bytes);
}

void gguf_put_bools(gguf_writer *g, const char *name, const bool *list, uint64_t n) {
    array(g, name, GGUF_BOOL, n);
    for (uint64_t i = 0; i < n; i++) strbuf_addc(&g->kv, list[i] ? 1 : 0);
}

void gguf_writer_done(gguf_writer *g) {
    strbuf_done(&g->kv);
}

static uint32_t type_id(dtype dt) {
    return dt == DT_F32 ? 0 : dt == DT_F16 ? 1 : 30;
}

static uint64_t bytes_of(const tensor_out *t) {
    return (uint64_t)tensor_out_count(t) * dtype_bytes(t->dt);
}

void gguf_header(const gguf_writer *g, const tensor_out *list, int32_t n, strbuf *out) {
    uint64_t at = 0;
    strbuf_addz(out, "GGUF");
    put_u32(out, 3);
    put_u64(out, (uint64_t)n);
    put_u64(out, g->n_kv);
    strbuf_add(out, strbuf_str((strbuf *)&g->kv));
    for (int32_t i = 0; i < n; i++) {
        const tensor_out *t = &list[i];
        put_text(out, str_z(t->name));
        put_u32(out, (uint32_t)t->n_dims);
        for (int32_t d = t->n_dims - 1; d >= 0; d--) put_u64(out, (uint64_t)t->dims[d]);
        put_u32(out, type_id(t->dt));
        put_u64(out, at);
        at += ALIGN_UP(bytes_of(t), (uint64_t)ALIGNMENT);
    }
    while (out->n % ALIGNMENT) strbuf_addc(out, 0);
}

status gguf_write(const char *path, const gguf_writer *g, const tensor_out *list, int32_t n,
                  tensor_fill fill, void *ctx, error *err) {
    static const char zeros[ALIGNMENT];
    out_file f;
    strbuf head = {0};
    TRY(out_file_open(path, &f, err));
    gguf_header(g, list, n, &head);
    status st = out_file_put(&f, head.p, head.n, err);
    for (int32_t i = 0; i < n && st == OK; i++) {
        uint64_t bytes = bytes_of(&list[i]);
        st = out_file_tensor(&f, &list[i], i, fill, ctx, err);
        if (st == OK)
            st = out_file_put(&f, zeros, ALIGN_UP(bytes, (uint64_t)ALIGNMENT) - bytes, err);
    }
    strbuf_done(&head);
    return out_file_close(&f, st, err);
}
