#include "tests/golden/gguf_write.h"

static void put_int(strbuf *b, uint64_t x, int bytes) {
    for (int i = 0; i < bytes; i++) strbuf_addc(b, (char)(x >> 8 * i & 255));
}

static void put_str(strbuf *b, const char *s) {
    put_int(b, strlen(s), 8);
    strbuf_addz(b, s);
}

static void begin_value(gguf_writer *w, const char *key, gguf_kind kind) {
    put_str(&w->values, key);
    put_int(&w->values, (uint64_t)kind, 4);
    w->n_values++;
}

void gguf_write_int(gguf_writer *w, const char *key, gguf_kind kind, uint64_t x) {
    static const int bytes[GGUF_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    begin_value(w, key, kind);
    put_int(&w->values, x, bytes[kind]);
}

void gguf_write_f32(gguf_writer *w, const char *key, float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    gguf_write_int(w, key, GGUF_F32, u);
}

void gguf_write_str(gguf_writer *w, const char *key, const char *text) {
    begin_value(w, key, GGUF_STRING);
    put_str(&w->values, text);
}

void gguf_write_array(gguf_writer *w, const char *key, gguf_kind kind, uint64_t n, str raw) {
    begin_value(w, key, GGUF_ARRAY);
    put_int(&w->values, (uint64_t)kind, 4);
    put_int(&w->values, n, 8);
    strbuf_add(&w->values, raw);
}

void gguf_write_strs(gguf_writer *w, const char *key, const char *const *list, size_t n) {
    strbuf raw = {0};
    for (size_t i = 0; i < n; i++) put_str(&raw, list[i]);
    gguf_write_array(w, key, GGUF_STRING, n, strbuf_str(&raw));
    strbuf_done(&raw);
}

void gguf_write_tensor(gguf_writer *w, const char *name, uint32_t type, int n_dims,
                       const int64_t *ne, str data) {
    while (w->data.n % 32) strbuf_addc(&w->data, 0);
    put_str(&w->tensors, name);
    put_int(&w->tensors, (uint64_t)n_dims, 4);
    for (int i = 0; i < n_dims; i++) put_int(&w->tensors, (uint64_t)ne[i], 8);
    put_int(&w->tensors, type, 4);
    put_int(&w->tensors, w->data.n, 8);
    strbuf_add(&w->data, data);
    w->n_tensors++;
}

void gguf_write_end(gguf_writer *w, strbuf *ret) {
    size_t start = ret->n;
    strbuf_addz(ret, "GGUF");
    put_int(ret, 3, 4);
    put_int(ret, w->n_tensors, 8);
    put_int(ret, w->n_values, 8);
    strbuf_add(ret, strbuf_str(&w->values));
    strbuf_add(ret, strbuf_str(&w->tensors));
    while ((ret->n - start) % 32) strbuf_addc(ret, 0);
    strbuf_add(ret, strbuf_str(&w->data));
    strbuf_done(&w->values);
    strbuf_done(&w->tensors);
    strbuf_done(&w->data);
    *w = (gguf_writer){0};
}
