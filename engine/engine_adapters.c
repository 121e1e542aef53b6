/* Adapters of a running engine: ids, loading on the caller's thread, and the one that
 * engine_logits uses. The engine thread reads the table once a step (adapter_step.h); nothing here
 * waits for it, and it never waits for a load. */
#include "engine/base/check.h"
#include "engine/engine_internal.h"

static status load(void *self, const char *dir, adapter_info *ret, error *err) {
    engine *e = self;
    adapter_limits limits = {.rank_max = e->lora_rank_max};
    adapter *ad = NULL;
    int32_t id = 1;
    pthread_mutex_lock(&e->adapter_lock);
    while (id <= e->adapters_max && atomic_load(&e->adapters.at[id])) id++;
    status st = id > e->adapters_max
                    ? error_set(err, ERR_BUSY, "all %d places for adapters are taken (--max-loras)",
                                e->adapters_max)
                    : adapter_open(dir, &e->w, &e->ckpt, &limits, &ad, err);
    if (st == OK) {
        ad->info.id = id;
        *ret = ad->info;
        atomic_store_explicit(&e->adapters.at[id], ad, memory_order_release);
    }
    pthread_mutex_unlock(&e->adapter_lock);
    return st;
}

/* No sequence has it any more, but a step that a device is still computing may: giving back memory
 * of a device waits for its ops. */
static void unload(void *self, int32_t id) {
    engine *e = self;
    CHECK(id >= 1 && id <= e->adapters_max);
    const adapter *ad = atomic_exchange(&e->adapters.at[id], NULL);
    CHECK(ad);
    adapter_free((adapter *)ad);
}

adapter_host engine_adapters(engine *e) {
    return (adapter_host){.self = e, .max = e->adapters_max, .load = load, .unload = unload};
}

uint64_t engine_adapter_class(const engine *e, int32_t id) {
    if (id == 0) return 0;
    const adapter *ad = atomic_load_explicit(&e->adapters.at[id], memory_order_acquire);
    CHECK(ad);
    return ad->generation;
}

void engine_use_adapter(engine *e, const adapter_info *info) {
    e->logits_adapter = info ? *info : (adapter_info){0};
}

void engine_adapters_done(engine *e) {
    for (int32_t id = 1; id <= LIMIT_ADAPTERS; id++)
        adapter_free((adapter *)atomic_load(&e->adapters.at[id]));
    if (e->b) adapter_step_free(e->f.ad, e->b);
    pthread_mutex_destroy(&e->adapter_lock);
}
