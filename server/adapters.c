/* A short array under one lock. A name is reserved before its directory is read (listed is false
 * until then), so two loads of one name do not both go ahead, and the lock is not held while the
 * engine reads. */
#include "server/adapters.h"

#include <pthread.h>

#include "conf/limits.h"
#include "engine/base/check.h"
#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/vec.h"

struct adapters {
    adapter_host host;
    pthread_mutex_t lock;
    VEC(adapter_entry *) entries; /* reserved, listed, or still in use */
};

adapters *adapters_new(adapter_host host) {
    adapters *a = mem_calloc(1, sizeof *a);
    a->host = host;
    pthread_mutex_init(&a->lock, NULL);
    return a;
}

static void entry_free(adapter_entry *e) {
    mem_free(e->name);
    mem_free(e->dir);
    mem_free(e);
}

void adapters_free(adapters *a) {
    if (!a) return;
    for (size_t i = 0; i < a->entries.n; i++) {
        adapter_entry *e = a->entries.p[i];
        CHECK(e->refs == 1 && e->listed);
        a->host.unload(a->host.self, e->info.id);
        entry_free(e);
    }
    vec_done(&a->entries);
    pthread_mutex_destroy(&a->lock);
    mem_free(a);
}

/* Under the lock: reserved or listed under that name. */
static adapter_entry *find(adapters *a, str name) {
    for (size_t i = 0; i < a->entries.n; i++) {
        adapter_entry *e = a->entries.p[i];
        if ((e->listed || e->info.id == 0) && str_eqz(name, e->name)) return e;
    }
    return NULL;
}

static void take_off(adapters *a, adapter_entry *e) {
    size_t i = 0;
    while (a->entries.p[i] != e) i++;
    a->entries.n--;
    memmove(&a->entries.p[i], &a->entries.p[i + 1], (a->entries.n - i) * sizeof e);
}

static status check_name(str name, error *err) {
    bool ok = name.n > 0 && name.n <= LIMIT_ADAPTER_NAME;
    for (size_t i = 0; i < name.n && ok; i++) ok = (unsigned char)name.p[i] > ' ';
    if (ok) return OK;
    return error_set_param(err, ERR_INVALID, "lora_name",
                           "an adapter's name has 1 to %d bytes and no spaces", LIMIT_ADAPTER_NAME);
}

static status reserve(adapters *a, str name, const char *path, adapter_entry **ret, error *err) {
    TRY(check_name(name, err));
    pthread_mutex_lock(&a->lock);
    bool taken = find(a, name) != NULL;
    if (!taken) {
        adapter_entry *e = mem_calloc(1, sizeof *e);
        strbuf text = {0}, dir = {0};
        strbuf_add(&text, name);
        strbuf_add(&dir, path_base(path));
        e->name = strbuf_take(&text);
        e->dir = strbuf_take(&dir);
        e->created = clock_unix_s();
        e->list = a;
        vec_push(&a->entries, e);
        *ret = e;
    }
    pthread_mutex_unlock(&a->lock);
    if (!taken) return OK;
    return error_set_param(err, ERR_INVALID, "lora_name",
                           "the adapter '" STR_FMT "' is already loaded", STR_ARG(name));
}

status adapters_load(adapters *a, str name, const char *path, error *err) {
    adapter_entry *e = NULL;
    adapter_info info;
    if (a->host.max == 0)
        return error_set(err, ERR_INVALID, "this server was started without adapters (--lora)");
    TRY(reserve(a, name, path, &e, err));
    status st = a->host.load(a->host.self, path, &info, err);
    pthread_mutex_lock(&a->lock);
    if (st == OK) {
        e->info = info;
        e->listed = true;
        e->refs = 1;
    } else {
        take_off(a, e);
    }
    pthread_mutex_unlock(&a->lock);
    if (st != OK) entry_free(e);
    return st;
}

/* Under the lock; true: the caller unloads and frees it after unlocking. */
static bool drop(adapters *a, adapter_entry *e) {
    CHECK(e->refs > 0);
    if (--e->refs > 0) return false;
    take_off(a, e);
    return true;
}

void adapter_entry_release(void *entry) {
    adapter_entry *e = entry;
    if (!e) return;
    adapters *a = e->list;
    pthread_mutex_lock(&a->lock);
    bool last = drop(a, e);
    pthread_mutex_unlock(&a->lock);
    if (!last) return;
    a->host.unload(a->host.self, e->info.id);
    entry_free(e);
}

status adapters_unload(adapters *a, str name, error *err) {
    pthread_mutex_lock(&a->lock);
    adapter_entry *e = find(a, name);
    bool found = e && e->listed;
    if (found) e->listed = false;
    pthread_mutex_unlock(&a->lock);
    if (found) {
        adapter_entry_release(e);
        return OK;
    }
    return error_set_param(err, ERR_NOT_FOUND, "lora_name",
                           "the adapter '" STR_FMT "' is not loaded",
                           (int)MIN(name.n, (size_t)LIMIT_ADAPTER_NAME), name.p);
}

adapter_entry *adapters_take(adapters *a, str name) {
    pthread_mutex_lock(&a->lock);
    adapter_entry *e = find(a, name);
    if (e && !e->listed) e = NULL;
    if (e) e->refs++;
    pthread_mutex_unlock(&a->lock);
    return e;
}

adapter_entry *adapter_entry_ref(adapter_entry *e) {
    pthread_mutex_lock(&e->list->lock);
    e->refs++;
    pthread_mutex_unlock(&e->list->lock);
    return e;
}

void adapters_each(adapters *a, void (*each)(void *ctx, const adapter_entry *e), void *ctx) {
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < a->entries.n; i++)
        if (a->entries.p[i]->listed) each(ctx, a->entries.p[i]);
    pthread_mutex_unlock(&a->lock);
}

void adapters_names(adapters *a, const uint64_t *bits, strbuf *out) {
    bool first = true;
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < a->entries.n; i++) {
        const adapter_entry *e = a->entries.p[i];
        int32_t k = e->info.id - 1;
        if (k < 0 || !(bits[k / 64] >> (k % 64) & 1)) continue;
        strbuf_addf(out, "%s%s", first ? "" : ",", e->name);
        first = false;
    }
    pthread_mutex_unlock(&a->lock);
}

int32_t adapters_max(const adapters *a) {
    return a->host.max;
}
