/* Linear probing at a load of at most one half. */
#include "engine/base/map.h"

#include "engine/base/hash.h"
#include "engine/base/mem.h"

void map_done(map *m) {
    mem_free(m->slots);
    *m = (map){0};
}

static map_slot *find(map_slot *slots, size_t cap, str key, uint64_t h) {
    for (size_t i = h & (cap - 1);; i = (i + 1) & (cap - 1)) {
        map_slot *s = &slots[i];
        if (!s->key.p || (s->hash == h && str_eq(s->key, key))) return s;
    }
}

void map_reserve(map *m, size_t n) {
    size_t cap = MAX(m->cap, (size_t)16);
    while (cap < n * 2) cap *= 2;
    if (cap == m->cap) return;
    map_slot *slots = mem_calloc(cap, sizeof *slots);
    for (size_t i = 0; i < m->cap; i++)
        if (m->slots[i].key.p) *find(slots, cap, m->slots[i].key, m->slots[i].hash) = m->slots[i];
    mem_free(m->slots);
    m->slots = slots;
    m->cap = cap;
}

bool map_put(map *m, str key, uint64_t value) {
    if (!key.p) key.p = "";
    map_reserve(m, m->n + 1);
    uint64_t h = hash64(key.p, key.n, 0);
    map_slot *s = find(m->slots, m->cap, key, h);
    bool fresh = !s->key.p;
    if (fresh) *s = (map_slot){.key = key, .hash = h}, m->n++;
    s->value = value;
    return fresh;
}

bool map_get(const map *m, str key, uint64_t *ret_value) {
    if (!m->n) return false;
    if (!key.p) key.p = "";
    map_slot *s = find(m->slots, m->cap, key, hash64(key.p, key.n, 0));
    if (!s->key.p) return false;
    *ret_value = s->value;
    return true;
}
