/* Both layouts come down to the same: one pickle that names storages by key, and for each key a
 * place in the file. In an archive a storage is the entry NAME/data/KEY beside NAME/data.pkl; in
 * the older layout four pickles (magic, version, system, the object) and a list of keys are
 * followed by the storages in that order, each after its length.
 *
 * Tensors may share a storage (tied weights), so their bytes may overlap. */
#include "engine/pth.h"

#include <string.h>

#include "engine/base/mem.h"
#include "engine/pth_object.h"
#include "engine/zip.h"

/* Memory for a pickle's values: many times what models need. */
#define VALUES_MAX ((size_t)256 << 20)

/* The first pickle of the older layout: protocol 2 and the number 0x1950a86a20f9469cfc6c. */
static const uint8_t legacy_magic[] = {0x80, 2,    0x8a, 10,   0x6c, 0xfc, 0x9c, 0x46,
                                       0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, '.'};

typedef struct reader {
    const uint8_t *p;
    size_t n;
    const char *path;
    checkpoint *c;
    int32_t file;
    pickle k;
    pickle_rules rules;
    pth_objects objects;
    error *err;
} reader;

bool pth_is_start(const uint8_t *p, size_t n) {
    return (n >= 4 && memcmp(p, "PK\3\4", 4) == 0) ||
           (n >= sizeof legacy_magic && memcmp(p, legacy_magic, sizeof legacy_magic) == 0);
}

/* Tensors */

static status tensor_error(const reader *r, str name, const char *what) {
    return error_set(r->err, ERR_FORMAT, "%s: tensor \"%.*s\": %s", r->path,
                     (int)MIN(name.n, (size_t)120), name.p, what);
}

/* Elements, when they lie row by row without gaps. */
static status count_elements(const reader *r, str name, const pth_tensor *t, size_t *ret) {
    size_t n = 1;
    for (int32_t i = t->n_dims - 1; i >= 0; i--) {
        if (t->dims[i] > 1 && (size_t)t->strides[i] != n && n != 0)
            return error_set(r->err, ERR_UNSUPPORTED,
                             "%s: tensor \"%.*s\" is not stored row by row (stride %lld of "
                             "dimension %d, expected %zu): not supported",
                             r->path, (int)MIN(name.n, (size_t)120), name.p,
                             (long long)t->strides[i], i, n);
        if (!mul_ok(n, (size_t)t->dims[i], &n))
            return tensor_error(r, name, "its dimensions overflow");
    }
    *ret = n;
    return OK;
}

static status add_tensor(reader *r, str name, const pth_tensor *t) {
    size_t n = 0, from, bytes;
    const pth_storage *s = t->storage;
    TRY(count_elements(r, name, t, &n));
    if (!mul_ok(n, t->type->bytes, &bytes) || !mul_ok((size_t)t->first, t->type->bytes, &from) ||
        from > s->bytes || bytes > s->bytes - from)
        return tensor_error(r, name, "it passes the end of its storage");
    st_tensor st = {.dt = t->type->dt,
                    .n_dims = t->n_dims,
                    .off = s->off + from,
                    .bytes = bytes,
                    .file = r->file};
    strcpy(st.dtype_name, t->type->name);
    memcpy(st.dims, t->dims, sizeof st.dims);
    TRY(checkpoint_push(r->c, st, name, r->err));
    r->c->data_bytes += bytes;
    return OK;
}

static bool has_tensors(const pickle_value *v) {
    for (uint32_t i = 0; v && v->kind == PICKLE_DICT && i + 1 < v->n; i += 2)
        if (v->items[i]->kind == PICKLE_TEXT && pth_tensor_of(v->items[i + 1])) return true;
    return false;
}

/* The dict of tensors: the file's own, or one that it wraps. */
static const pickle_value *state_dict(const pickle_value *root) {
    static const char *const wrappers[] = {"state_dict", "model_state_dict", "module", "model"};
    if (has_tensors(root)) return root;
    for (size_t i = 0; i < ARRAY_LEN(wrappers); i++) {
        const pickle_value *v = pickle_member(root, wrappers[i]);
        if (has_tensors(v)) return v;
    }
    return NULL;
}

static status add_tensors(reader *r, const pickle_value *root) {
    const pickle_value *v = state_dict(root);
    if (!v)
        return error_set(r->err, ERR_FORMAT, "%s: no dict of tensors by name is in it", r->path);
    for (uint32_t i = 0; i + 1 < v->n; i += 2) {
        const pth_tensor *t = pth_tensor_of(v->items[i + 1]);
        if (t && v->items[i]->kind == PICKLE_TEXT) TRY(add_tensor(r, v->items[i]->text, t));
    }
    return OK;
}

/* The storage's place is known: does it hold its elements? */
static status place_storage(reader *r, pth_storage *s, uint64_t off, uint64_t bytes) {
    size_t need;
    if (!mul_ok((size_t)s->numel, s->type->bytes, &need) || need > bytes)
        return error_set(r->err, ERR_FORMAT,
                         "%s: storage \"%.*s\" has %llu bytes, its %lld elements of %s need more",
                         r->path, (int)MIN(s->key.n, (size_t)120), s->key.p,
                         (unsigned long long)bytes, (long long)s->numel, s->type->name);
    s->off = off;
    s->bytes = need;
    return OK;
}

static status no_storage(const reader *r, str key) {
    return error_set(r->err, ERR_FORMAT, "%s: storage \"%.*s\" is missing", r->path,
                     (int)MIN(key.n, (size_t)120), key.p);
}

static status read_pickle(reader *r, uint64_t at, uint64_t bytes, pickle_value **ret,
                          size_t *ret_bytes) {
    size_t most = (size_t)MIN(bytes, (uint64_t)LIMIT_PICKLE_BYTES);
    return pickle_read(&r->k, str_n((const char *)r->p + at, most), ret, ret_bytes, r->err);
}

/* Archives */

/* The only entry called data.pkl, and what stands before that in its name. */
static const zip_entry *find_pickle(const zip *z, str *ret_prefix) {
    static const char name[] = "data.pkl";
    const zip_entry *found = NULL;
    for (size_t i = 0; i < z->n; i++) {
        str s = z->entries[i].name;
        if (!str_ends(s, STR(name)) || (s.n >= sizeof name && s.p[s.n - sizeof name] != '/'))
            continue;
        if (found) return NULL;
        found = &z->entries[i];
        *ret_prefix = str_cut(s, 0, s.n - (sizeof name - 1));
    }
    return found;
}

static const zip_entry *find_in(const zip *z, str prefix, const char *folder, str key) {
    strbuf name = {0};
    strbuf_add(&name, prefix);
    strbuf_addz(&name, folder);
    strbuf_add(&name, key);
    const zip_entry *e = zip_find(z, strbuf_str(&name));
    strbuf_done(&name);
    return e;
}

static status read_archive(reader *r, const zip *z) {
    str prefix = {0};
    pickle_value *root = NULL;
    size_t n = 0;
    const zip_entry *e = find_pickle(z, &prefix);
    if (!e)
        return error_set(r->err, ERR_FORMAT,
                         "%s: no or several entries data.pkl: not of torch.save", r->path);
    const zip_entry *order = find_in(z, prefix, "", STR("byteorder"));
    if (order && !str_eqz(str_n((const char *)r->p + order->off, (size_t)order->bytes), "little"))
        return error_set(r->err, ERR_UNSUPPORTED, "%s: its numbers are not little endian", r->path);
    TRY(read_pickle(r, e->off, e->bytes, &root, &n));
    for (size_t i = 0; i < r->objects.storages.n; i++) {
        pth_storage *s = r->objects.storages.p[i];
        const zip_entry *data = find_in(z, prefix, "data/", s->key);
        if (!data) return no_storage(r, s->key);
        TRY(place_storage(r, s, data->off, data->bytes));
    }
    return add_tensors(r, root);
}

/* The older layout */

static status place_legacy(reader *r, const pickle_value *keys, size_t at) {
    size_t n_placed = 0;
    for (uint32_t i = 0; keys->kind == PICKLE_LIST && i < keys->n; i++) {
        uint64_t where, numel = 0;
        const pickle_value *key = keys->items[i];
        if (key->kind != PICKLE_TEXT || !map_get(&r->objects.by_key, key->text, &where))
            return error_set(r->err, ERR_FORMAT, "%s: a storage that no tensor has", r->path);
        pth_storage *s = r->objects.storages.p[where];
        if (r->n - at < 8) return no_storage(r, s->key);
        for (int b = 7; b >= 0; b--) numel = numel << 8 | r->p[at + (size_t)b];
        at += 8;
        if (numel != (uint64_t)s->numel || s->off)
            return error_set(r->err, ERR_FORMAT,
                             "%s: storage \"%.*s\" is there twice or with another length", r->path,
                             (int)MIN(s->key.n, (size_t)120), s->key.p);
        TRY(place_storage(r, s, at, r->n - at));
        at += s->bytes;
        n_placed++;
    }
    for (size_t i = 0; n_placed < r->objects.storages.n && i < r->objects.storages.n; i++)
        if (!r->objects.storages.p[i]->off) return no_storage(r, r->objects.storages.p[i]->key);
    return OK;
}

static status read_legacy(reader *r) {
    size_t at = sizeof legacy_magic, n = 0;
    pickle_value *v = NULL, *root = NULL;
    for (int part = 0; part < 4; part++) { /* version, system, the object, the keys */
        TRY(read_pickle(r, at, r->n - at, &v, &n));
        at += n;
        if (part == 2) root = v;
    }
    TRY(place_legacy(r, v, at));
    return add_tensors(r, root);
}

static status read_file(reader *r) {
    TRY(file_check_pointer(r->path, r->p, r->n, r->err));
    if (!pth_is_start(r->p, r->n))
        return error_set(r->err, ERR_FORMAT,
                         "%s: neither a ZIP archive nor the older layout of torch.save", r->path);
    if (r->p[0] != 'P') return read_legacy(r);
    zip z = {0};
    TRY(zip_parse(r->p, r->n, r->path, &z, r->err));
    status st = read_archive(r, &z);
    zip_done(&z);
    return st;
}

status pth_add(checkpoint *c, int32_t file, const uint8_t *p, size_t n, error *err) {
    reader r = {.p = p, .n = n, .path = c->files[file], .c = c, .file = file, .err = err};
    uint64_t data_bytes = c->data_bytes;
    int32_t n_tensors = c->n_tensors;
    r.rules = pth_rules(&r.objects);
    r.k = (pickle){.path = r.path, .rules = &r.rules, .mem = arena_new(VALUES_MAX)};
    status st = read_file(&r);
    if (st != OK) {
        checkpoint_cut(c, n_tensors);
        c->data_bytes = data_bytes;
    }
    pth_objects_done(&r.objects);
    arena_free(r.k.mem);
    return st;
}

status pth_add_file(checkpoint *c, int32_t file, error *err) {
    file_map m;
    TRY(file_map_open(c->files[file], &m, err));
    status st = pth_add(c, file, m.p, m.n, err);
    file_map_close(&m);
    return st;
}
