/* Names on disk: "base_model.model." + module + what it is. The adapter's own name, which is part
 * of the keys in memory, is left out when saved; files written by hand may still have "default"
 * there, so that is read over. */
#include "engine/adapter_source.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"

#define GLM_PREFIX "transformer.prefix_encoder."

static const struct {
    const char *suffix;
    adapter_role role;
} roles[] = {
    /* a suffix that ends in another comes first */
    {".lora_A.weight", ROLE_A},
    {".lora_A", ROLE_A},
    {".lora_B.weight", ROLE_B},
    {".lora_B.bias", ROLE_B_BIAS},
    {".lora_B", ROLE_B},
    {".lora_E", ROLE_E},
    {".lora_magnitude_vector.weight", ROLE_MAGNITUDE},
    {".lora_magnitude_vector", ROLE_MAGNITUDE},
    {".lora_embedding_A", ROLE_EMBED_A},
    {".lora_embedding_B", ROLE_EMBED_B},
    {".ia3_l", ROLE_IA3},
    {".modules_to_save.weight", ROLE_WEIGHT},
    {".modules_to_save.bias", ROLE_BIAS},
    {".base_layer.weight", ROLE_WEIGHT},
    {".base_layer.bias", ROLE_BIAS},
    {".weight", ROLE_WEIGHT},
    {".bias", ROLE_BIAS},
};

/* Kinds in which a role means something. */
static bool role_fits(const adapter_config *c, adapter_role r) {
    switch (r) {
    case ROLE_A:
    case ROLE_B: return c->kind == ADAPTER_LORA || c->kind == ADAPTER_ADALORA;
    case ROLE_E: return c->kind == ADAPTER_ADALORA;
    case ROLE_MAGNITUDE: return c->kind == ADAPTER_LORA && c->dora;
    case ROLE_B_BIAS:
    case ROLE_EMBED_A:
    case ROLE_EMBED_B: return c->kind == ADAPTER_LORA;
    case ROLE_IA3: return c->kind == ADAPTER_IA3;
    default: return c->kind <= ADAPTER_IA3;
    }
}

/* "x.lora_A.default.weight" without its ".default", in fresh memory. */
static char *plain_name(const char *name) {
    str s = str_z(name), prefix = STR("base_model.model."), own = STR(".default");
    if (str_starts(s, prefix)) s = str_cut(s, prefix.n, s.n);
    strbuf out = {0};
    ptrdiff_t at = str_find(s, own, 0);
    bool cut = at >= 0 && ((size_t)at + own.n == s.n || s.p[(size_t)at + own.n] == '.');
    if (cut) {
        strbuf_add(&out, str_cut(s, 0, (size_t)at));
        strbuf_add(&out, str_cut(s, (size_t)at + own.n, s.n));
    } else {
        strbuf_add(&out, s);
    }
    return strbuf_take(&out);
}

static const char *file_of(const adapter_source *s, const st_tensor *t) {
    return s->files.files[t->file];
}

static status unknown(const adapter_source *s, const st_tensor *t, error *err) {
    char shape[128];
    st_tensor_describe(t, shape, sizeof shape);
    return error_set(err, ERR_FORMAT,
                     "%s: tensor \"%s\" %s has no meaning in an adapter of kind %s", file_of(s, t),
                     t->name, shape, adapter_kind_name(s->config.kind));
}

static adapter_module *module_at(adapter_source *s, str name) {
    uint64_t at;
    if (map_get(&s->by_name, name, &at)) return &s->modules[at];
    adapter_module m = {.name = mem_alloc(name.n + 1)};
    memcpy(m.name, name.p, name.n);
    m.name[name.n] = 0;
    if ((s->n_modules & (s->n_modules - 1)) == 0) /* room for a power of two */
        s->modules = mem_realloc(s->modules, (size_t)MAX(1, 2 * s->n_modules) * sizeof *s->modules);
    map_put(&s->by_name, str_z(m.name), (uint64_t)s->n_modules);
    s->modules[s->n_modules] = m;
    return &s->modules[s->n_modules++];
}

static status sort_one(adapter_source *s, const st_tensor *t, error *err) {
    char *plain = plain_name(t->name);
    str name = str_z(plain);
    status st = OK;
    bool found = false;
    for (size_t i = 0; i < ARRAY_LEN(roles) && !found; i++) {
        if (!str_ends(name, str_z(roles[i].suffix))) continue;
        found = true;
        if (!role_fits(&s->config, roles[i].role)) {
            st = unknown(s, t, err);
            break;
        }
        adapter_module *m = module_at(s, str_cut(name, 0, name.n - strlen(roles[i].suffix)));
        if (m->t[roles[i].role])
            st = error_set(err, ERR_FORMAT, "%s: tensor \"%s\" says again what \"%s\" says",
                           file_of(s, t), t->name, m->t[roles[i].role]->name);
        m->t[roles[i].role] = t;
    }
    if (!found) st = unknown(s, t, err);
    mem_free(plain);
    return st;
}

static status sort_soft(adapter_source *s, error *err) {
    for (int32_t i = 0; i < s->files.n_tensors; i++) {
        const st_tensor *t = &s->files.tensors[i];
        if (!str_ends(str_z(t->name), STR("prompt_embeddings"))) return unknown(s, t, err);
        s->soft = t;
    }
    if (s->soft && s->soft->n_dims == 2 && s->soft->dims[0] == s->config.n_virtual) return OK;
    return error_set(err, ERR_FORMAT, "%s: expected one tensor \"prompt_embeddings\" of %d rows",
                     s->files.files[0], s->config.n_virtual);
}

static status sort_glm(adapter_source *s, error *err) {
    static const char *const parts[] = {"trans.0.weight", "trans.0.bias", "trans.2.weight",
                                        "trans.2.bias"};
    int n = 0;
    for (int32_t i = 0; i < s->files.n_tensors; i++) {
        const st_tensor *t = &s->files.tensors[i];
        const char *rest = t->name + strlen(GLM_PREFIX);
        bool known = strncmp(t->name, GLM_PREFIX, strlen(GLM_PREFIX)) == 0;
        if (known && strcmp(rest, "embedding.weight") == 0) {
            s->soft = t;
            continue;
        }
        known = known && strncmp(rest, "trans.", 6) == 0;
        for (size_t k = 0; k < ARRAY_LEN(parts) && known; k++)
            if (strcmp(rest, parts[k]) == 0) s->project[k] = t, n++;
        if (!known) return unknown(s, t, err);
    }
    if (n != 0 && n != (int)ARRAY_LEN(parts))
        return error_set(err, ERR_FORMAT, "%s: the projection " GLM_PREFIX "trans is incomplete",
                         s->files.files[0]);
    if (s->soft->n_dims != 2 || s->soft->dims[0] < 1 || s->soft->dims[0] > LIMIT_VIRTUAL_TOKENS)
        return error_set(err, ERR_FORMAT, "%s: tensor \"%s\" must have 1 to %d rows",
                         s->files.files[0], s->soft->name, LIMIT_VIRTUAL_TOKENS);
    s->config.n_virtual = (int32_t)s->soft->dims[0];
    return OK;
}

static status sort_all(adapter_source *s, error *err) {
    if (s->config.kind == ADAPTER_PREFIX_GLM) return sort_glm(s, err);
    if (s->config.kind >= ADAPTER_PROMPT) return sort_soft(s, err);
    for (int32_t i = 0; i < s->files.n_tensors; i++) TRY(sort_one(s, &s->files.tensors[i], err));
    if (s->n_modules > 0) return OK;
    return error_set(err, ERR_FORMAT, "%s: no tensors", s->files.files[0]);
}

/* "dir/name" if it is a file, in fresh memory, else NULL. */
static char *file_in(const char *dir, const char *name) {
    char *path = path_join(dir, name);
    if (file_exists(path)) return path;
    mem_free(path);
    return NULL;
}

static status open_peft(adapter_source *s, const char *dir, const char *config, error *err) {
    TRY(adapter_config_read(config, &s->config, err));
    char *path = file_in(dir, "adapter_model.safetensors");
    if (!path) path = file_in(dir, "adapter_model.bin");
    if (!path)
        return error_set(err, ERR_NOT_FOUND,
                         "%s: no adapter_model.safetensors and no adapter_model.bin", dir);
    status st = checkpoint_open_file(path, &s->files, err);
    mem_free(path);
    return st;
}

static status open_glm(adapter_source *s, const char *dir, error *err) {
    static const char *const names[] = {"pytorch_model.bin", "model.safetensors"};
    char *path = NULL;
    for (size_t i = 0; i < ARRAY_LEN(names) && !path; i++) path = file_in(dir, names[i]);
    status st = path ? checkpoint_open_file(path, &s->files, err) : OK;
    mem_free(path);
    TRY(st);
    s->config.kind = ADAPTER_PREFIX_GLM;
    if (s->files.n_files && checkpoint_find(&s->files, GLM_PREFIX "embedding.weight")) return OK;
    return error_set(
        err, ERR_NOT_FOUND,
        "%s: no adapter: expected adapter_config.json, or a model file with " GLM_PREFIX
        "embedding.weight",
        dir);
}

status adapter_source_open(const char *dir, adapter_source *ret, error *err) {
    adapter_source s = {0};
    status st = OK;
    char *config = path_join(dir, "adapter_config.json");
    if (!dir_exists(dir))
        st = error_set(err, ERR_NOT_FOUND, "%s: no such adapter directory", dir);
    else
        st = file_exists(config) ? open_peft(&s, dir, config, err) : open_glm(&s, dir, err);
    mem_free(config);
    if (st == OK) st = sort_all(&s, err);
    if (st == OK)
        *ret = s;
    else
        adapter_source_done(&s);
    return st;
}

void adapter_source_done(adapter_source *s) {
    for (int32_t i = 0; i < s->n_modules; i++) mem_free(s->modules[i].name);
    mem_free(s->modules);
    map_done(&s->by_name);
    checkpoint_done(&s->files);
    adapter_config_done(&s->config);
    *s = (adapter_source){0};
}

const adapter_module *adapter_source_find(const adapter_source *s, const char *module) {
    uint64_t at;
    return map_get(&s->by_name, str_z(module), &at) ? &s->modules[at] : NULL;
}

int64_t st_tensor_elements(const st_tensor *t) {
    int64_t n = 1;
    for (int32_t i = 0; i < t->n_dims; i++) n *= t->dims[i]; /* checked against bytes when read */
    return n;
}

static status read_bytes(const char *path, uint64_t off, void *p, size_t n, error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t at = 0;
    while (fd >= 0 && at < n) {
        ssize_t got = pread(fd, (char *)p + at, n - at, (off_t)(off + at));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        at += (size_t)got;
    }
    if (fd >= 0) close(fd);
    return at == n ? OK : error_set(err, ERR_IO, "%s: cannot read %zu bytes", path, n);
}

status adapter_source_read(const adapter_source *s, const st_tensor *t, float *ret, error *err) {
    int64_t n = st_tensor_elements(t);
    bool wide = t->dt == DT_F32, known = wide || t->dt == DT_F16 || t->dt == DT_BF16;
    char shape[128];
    st_tensor_describe(t, shape, sizeof shape);
    if (!known || (uint64_t)n * dtype_bytes(t->dt) != t->bytes)
        return error_set(err, ERR_FORMAT, "%s: tensor \"%s\": expected F32, F16 or BF16, found %s",
                         file_of(s, t), t->name, shape);
    /* narrow elements are read into the upper half and widened from the front */
    uint16_t *half = (uint16_t *)ret + (wide ? 0 : n);
    TRY(read_bytes(file_of(s, t), t->off, wide ? (void *)ret : half, t->bytes, err));
    for (int64_t i = 0; i < n; i++) {
        if (!wide) {
            uint16_t h;
            memcpy(&h, &half[i], sizeof h);
            ret[i] = t->dt == DT_F16 ? f16_to_f32(h) : bf16_to_f32(h);
        }
        if (!isfinite(ret[i]))
            return error_set(err, ERR_FORMAT, "%s: tensor \"%s\" has a value that is not finite",
                             file_of(s, t), t->name);
    }
    return OK;
}
