/* One allocation for all layers, zeroed lazily by the system: pages cost memory when first used. */
#include "engine/kvcache.h"

#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "kernels/kv8.h"

static int32_t count(const kvcache *c) {
    return c->shape.n_layers * c->shape.n_buffers;
}

size_t kvcache_page_bytes(const kv_shape *s) {
    return (size_t)s->n_layers * (size_t)s->n_buffers *
           kv_page_bytes(s->dt, KV_PAGE_TOKENS, s->width, s->n_scales);
}

status kvcache_alloc(kvcache *c, int32_t copies_max, error *err) {
    c->page_tokens = KV_PAGE_TOKENS;
    c->dt = c->shape.dt;
    c->page_bytes = kvcache_page_bytes(&c->shape) / (size_t)count(c);
    size_t buffer = c->page_bytes * (size_t)c->n_pages;
    buffer = ALIGN_UP(buffer, (size_t)64);
    c->stride = buffer;
    c->bytes = buffer * (size_t)count(c);
    TRY(c->b->v->mem_alloc(c->b, c->bytes, &c->block, err));
    c->buffers = mem_alloc((size_t)count(c) * sizeof *c->buffers);
    for (int32_t i = 0; i < count(c); i++) c->buffers[i] = (char *)c->block + (size_t)i * buffer;
    c->copies_max = copies_max;
    c->src = mem_alloc((size_t)copies_max * sizeof *c->src);
    c->dst = mem_alloc((size_t)copies_max * sizeof *c->dst);
    return OK;
}

void kvcache_done(kvcache *c) {
    if (c->block) c->b->v->mem_free(c->b, c->block, c->bytes);
    mem_free(c->buffers);
    mem_free(c->src);
    mem_free(c->dst);
    *c = (kvcache){0};
}

void kvcache_copy(kvcache *c, const page_copy *copies, int32_t n) {
    for (int32_t at = 0; at < n; at += c->copies_max) {
        int32_t m = MIN(c->copies_max, n - at);
        for (int32_t i = 0; i < m; i++) {
            CHECK(copies[at + i].src >= 0 && copies[at + i].src < c->n_pages);
            CHECK(copies[at + i].dst >= 0 && copies[at + i].dst < c->n_pages);
            c->src[i] = copies[at + i].src;
            c->dst[i] = copies[at + i].dst;
        }
        op_copy_pages op = {.n_copies = m,
                            .src = c->src,
                            .dst = c->dst,
                            .n_buffers = count(c),
                            .buffers = c->buffers,
                            .page_bytes = c->page_bytes};
        c->b->v->copy_pages(c->b, &op);
    }
}
