#include "tests/golden/tiny_model.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/check.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"

static const char config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":16,"
    "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,"
    "\"intermediate_size\":24,\"vocab_size\":32,\"max_position_embeddings\":64,"
    "\"bos_token_id\":1,\"eos_token_id\":[2,3]}";

void tiny_put(tiny_model *m, const char *file, const void *p, size_t n) {
    char *path = path_join(m->dir, file);
    FILE *f = fopen(path, "wb");
    CHECK(f);
    CHECK(n == 0 || fwrite(p, n, 1, f) == 1);
    CHECK(fclose(f) == 0);
    mem_free(path);
}

void tiny_add(tiny_model *m, const char *name, int64_t rows, int64_t cols) {
    CHECK(m->n < (int32_t)ARRAY_LEN(m->t));
    tiny_tensor *t = &m->t[m->n++];
    *t = (tiny_tensor){
        .dtype = "F32", .dims = {rows, cols}, .n_dims = cols ? 2 : 1, .from = m->data.n};
    snprintf(t->name, sizeof t->name, "%s", name);
    for (int64_t i = 0; i < rows * MAX(cols, 1); i++) {
        float x = (float)rng_uniform(8, m->data.n, 0) - 0.5f;
        strbuf_add(&m->data, str_n((const char *)&x, sizeof x));
    }
    t->to = m->data.n;
}

void tiny_init(tiny_model *m) {
    static const struct {
        const char *name;
        int64_t rows, cols;
    } parts[] = {{"input_layernorm", 16, 0},   {"self_attn.q_proj", 16, 16},
                 {"self_attn.k_proj", 8, 16},  {"self_attn.v_proj", 8, 16},
                 {"self_attn.o_proj", 16, 16}, {"post_attention_layernorm", 16, 0},
                 {"mlp.gate_proj", 24, 16},    {"mlp.up_proj", 24, 16},
                 {"mlp.down_proj", 16, 24}};
    *m = (tiny_model){0};
    snprintf(m->dir, sizeof m->dir, "/tmp/pagoda-test-XXXXXX");
    CHECK(mkdtemp(m->dir));
    tiny_put(m, "config.json", config, sizeof config - 1);
    tiny_add(m, "model.embed_tokens.weight", 32, 16);
    for (int l = 0; l < 2; l++)
        for (size_t k = 0; k < ARRAY_LEN(parts); k++) {
            char name[96];
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, parts[k].name);
            tiny_add(m, name, parts[k].rows, parts[k].cols);
        }
    tiny_add(m, "model.norm.weight", 16, 0);
    tiny_add(m, "lm_head.weight", 32, 16);
}

void tiny_done(tiny_model *m) {
    DIR *d = opendir(m->dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        char *path = path_join(m->dir, e->d_name);
        unlink(path);
        mem_free(path);
    }
    if (d) closedir(d);
    rmdir(m->dir);
    strbuf_done(&m->data);
}

tiny_tensor *tiny_find(tiny_model *m, const char *name) {
    for (int32_t i = 0; i < m->n; i++)
        if (strcmp(m->t[i].name, name) == 0) return &m->t[i];
    CHECK(!"no such tensor");
    return NULL;
}

void tiny_remove(tiny_model *m, const char *name) {
    tiny_tensor *t = tiny_find(m, name);
    size_t n = t->to - t->from, from = t->from;
    memmove(m->data.p + from, m->data.p + t->to, m->data.n - t->to);
    m->data.n -= n;
    memmove(t, t + 1, (size_t)(m->t + m->n - (t + 1)) * sizeof *t);
    m->n--;
    for (int32_t i = 0; i < m->n; i++)
        if (m->t[i].from > from) m->t[i].from -= n, m->t[i].to -= n;
}

static void make_header(const tiny_model *m, int32_t from, int32_t to, strbuf *out) {
    size_t base = m->t[from].from;
    strbuf_addz(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int32_t i = from; i < to; i++) {
        const tiny_tensor *t = &m->t[i];
        strbuf_addf(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%lld", t->name, t->dtype,
                    (long long)t->dims[0]);
        if (t->n_dims == 2) strbuf_addf(out, ",%lld", (long long)t->dims[1]);
        strbuf_addf(out, "],\"data_offsets\":[%zu,%zu]}", t->from - base, t->to - base);
    }
    strbuf_addc(out, '}');
}

void tiny_write(tiny_model *m, const char *file, int32_t from, int32_t to, const char *header) {
    strbuf h = {0}, all = {0};
    if (header)
        strbuf_addz(&h, header);
    else
        make_header(m, from, to, &h);
    uint64_t n = h.n;
    for (int i = 0; i < 8; i++) strbuf_addc(&all, (char)(n >> (8 * i)));
    strbuf_add(&all, strbuf_str(&h));
    strbuf_add(&all, str_n(m->data.p + m->t[from].from, m->t[to - 1].to - m->t[from].from));
    tiny_put(m, file, all.p, all.n);
    strbuf_done(&h);
    strbuf_done(&all);
}
