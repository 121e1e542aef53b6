/* Which files make up a model. A file's reader is chosen by the file's name, or its first bytes
 * where the name says nothing. Names are indexed once all files are read; a name that is in two
 * files is an error. */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/checkpoint.h"
#include "engine/gguf.h"
#include "engine/pth.h"
#include "engine/safetensors.h"

static status index_names(checkpoint *c, error *err) {
    for (int32_t i = 0; i < c->n_tensors; i++) {
        uint64_t at;
        str name = str_z(c->tensors[i].name);
        if (map_get(&c->by_name, name, &at))
            return error_set(err, ERR_FORMAT, "%s: tensor \"%s\" is also in %s",
                             c->files[c->tensors[i].file], c->tensors[i].name,
                             c->files[c->tensors[at].file]);
        map_put(&c->by_name, name, (uint64_t)i);
    }
    return OK;
}

typedef enum container { CONTAINER_SAFETENSORS, CONTAINER_GGUF, CONTAINER_PTH } container;

/* By name, else by first bytes; what is none of the others is taken for safetensors, whose reader
 * then says that it is not. */
static container container_of(const char *path) {
    static const struct {
        const char *suffix;
        container kind;
    } names[] = {{".safetensors", CONTAINER_SAFETENSORS},
                 {".gguf", CONTAINER_GGUF},
                 {".bin", CONTAINER_PTH},
                 {".pt", CONTAINER_PTH},
                 {".pth", CONTAINER_PTH},
                 {".ckpt", CONTAINER_PTH}};
    uint8_t head[16] = {0};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (str_ends(str_z(path), str_z(names[i].suffix))) return names[i].kind;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : pread(fd, head, sizeof head, 0);
    if (fd >= 0) close(fd);
    if (n >= 4 && memcmp(head, "GGUF", 4) == 0) return CONTAINER_GGUF;
    return n > 0 && pth_is_start(head, (size_t)n) ? CONTAINER_PTH : CONTAINER_SAFETENSORS;
}

/* Takes the path. */
static status add_file(checkpoint *c, char *path, error *err) {
    int32_t file = checkpoint_add_path(c, path);
    return container_of(path) == CONTAINER_PTH ? pth_add_file(c, file, err)
                                               : safetensors_add_file(c, file, err);
}

/* Each entry of weight_map must be in the shard it names. */
static status check_weight_map(checkpoint *c, const char *index, const json_t *weights,
                               error *err) {
    const char *name;
    json_t *v;
    json_object_foreach((json_t *)weights, name, v) {
        const st_tensor *t = checkpoint_find(c, name);
        str want = js_str(v);
        if (!t || !str_eq(path_base(c->files[t->file]), want))
            return error_set(err, ERR_FORMAT, "%s: tensor \"%s\" is not in " STR_FMT, index, name,
                             STR_ARG(want));
    }
    return OK;
}

static status add_shards(checkpoint *c, const char *dir, const char *index, const json_t *weights,
                         error *err) {
    const char *name;
    json_t *v;
    map seen = {0};
    status st = OK;
    json_object_foreach((json_t *)weights, name, v) {
        str file = js_str(v);
        if (!file.n || memchr(file.p, '/', file.n) || memchr(file.p, 0, file.n)) {
            st = error_set(err, ERR_FORMAT, "%s: tensor \"%s\": bad file name", index, name);
            break;
        }
        if (!map_put(&seen, file, 1)) continue;
        if (c->n_files == LIMIT_SHARDS) {
            st = error_set(err, ERR_FORMAT, "%s: more than %d shards", index, LIMIT_SHARDS);
            break;
        }
        st = add_file(c, path_join(dir, file.p), err);
        if (st != OK) break;
    }
    map_done(&seen);
    return st;
}

static status open_sharded(checkpoint *c, const char *dir, const char *index, error *err) {
    json_t *root = NULL;
    TRY(js_parse_file(index, LIMIT_SAFETENSORS_HEADER, &root, err));
    const json_t *weights = js_get(root, "weight_map");
    status st = json_is_object(weights) && json_object_size(weights) > 0
                    ? add_shards(c, dir, index, weights, err)
                    : error_set(err, ERR_FORMAT, "%s: no \"weight_map\"", index);
    if (st == OK) st = index_names(c, err);
    if (st == OK) st = check_weight_map(c, index, weights, err);
    json_decref(root);
    return st;
}

/* The directory's only file that ends in `suffix` as a fresh path, NULL if there is none or more
 * than one. Of a split GGUF model the first part counts; projectors of images do not. */
static char *only_file(const char *dir, const char *suffix, int *ret_n) {
    char *found = NULL;
    DIR *d = opendir(dir);
    *ret_n = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        str stem, name = str_z(e->d_name);
        int32_t no, count;
        if (!str_ends(name, str_z(suffix)) || str_starts(name, STR("mmproj"))) continue;
        if (gguf_split_name(name, &stem, &no, &count) && no > 1) continue;
        if ((*ret_n)++ == 0) found = path_join(dir, e->d_name);
    }
    if (d) closedir(d);
    if (*ret_n == 1) return found;
    mem_free(found);
    return NULL;
}

/* "dir/name" if it is a file, in fresh memory, else NULL. */
static char *file_in(const char *dir, const char *name) {
    char *path = path_join(dir, name);
    if (file_exists(path)) return path;
    mem_free(path);
    return NULL;
}

/* What a model directory holds: `path` is an index or a weight file. */
typedef struct dir_model {
    char *path; /* NULL: none found; to be freed */
    bool is_index, is_gguf;
    int n_gguf;
} dir_model;

static dir_model find_in_dir(const char *dir) {
    static const char *const names[] = {"model.safetensors", "pytorch_model.bin"};
    dir_model m = {0};
    int n;
    for (size_t i = 0; i < ARRAY_LEN(names) && !m.path; i++) {
        strbuf index = {0};
        strbuf_addf(&index, "%s.index.json", names[i]);
        m.path = file_in(dir, index.p);
        m.is_index = m.path != NULL;
        strbuf_done(&index);
        if (!m.path) m.path = file_in(dir, names[i]);
    }
    if (!m.path) m.path = only_file(dir, ".safetensors", &n);
    if (m.path) return m;
    m.path = only_file(dir, ".gguf", &m.n_gguf);
    m.is_gguf = m.path != NULL;
    return m;
}

static status no_weights(const char *dir, int n_gguf, error *err) {
    if (n_gguf > 1)
        return error_set(err, ERR_INVALID, "%s: %d GGUF models; name one of the files", dir,
                         n_gguf);
    return error_set(
        err, ERR_NOT_FOUND,
        "%s: no model.safetensors, pytorch_model.bin (nor *.index.json of them) or *.gguf", dir);
}

static status open_dir(checkpoint *c, const char *dir, error *err) {
    dir_model m = find_in_dir(dir);
    if (!m.path) return no_weights(dir, m.n_gguf, err);
    status st = m.is_index  ? open_sharded(c, dir, m.path, err)
                : m.is_gguf ? gguf_add_model(c, m.path, err)
                            : add_file(c, mem_strdup(m.path), err);
    if (st == OK && !m.is_index) st = index_names(c, err);
    mem_free(m.path);
    return st;
}

static status finish(status st, checkpoint *c, checkpoint *ret) {
    if (st == OK)
        *ret = *c;
    else
        checkpoint_done(c);
    return st;
}

status checkpoint_open_file(const char *path, checkpoint *ret, error *err) {
    checkpoint c = {0};
    status st = container_of(path) == CONTAINER_GGUF ? gguf_add_model(&c, path, err)
                                                     : add_file(&c, mem_strdup(path), err);
    if (st == OK) st = index_names(&c, err);
    return finish(st, &c, ret);
}

status checkpoint_open(const char *model, checkpoint *ret, error *err) {
    checkpoint c = {0};
    if (!dir_exists(model)) return checkpoint_open_file(model, ret, err);
    return finish(open_dir(&c, model, err), &c, ret);
}

bool checkpoint_has_config(const char *model) {
    if (!dir_exists(model)) return file_exists(model) && container_of(model) == CONTAINER_GGUF;
    dir_model m = find_in_dir(model);
    mem_free(m.path);
    return m.is_gguf;
}

bool checkpoint_has_weights(const char *dir) {
    dir_model m = find_in_dir(dir);
    mem_free(m.path);
    return m.path || m.n_gguf;
}
