/* An open-addressing table of counts under one lock. It has twice as many slots as there can be
 * connections, so it never fills; an address whose last connection closed is taken out at once,
 * so that probe chains stay short whatever addresses come by. */
#include "server/peers.h"

#include <netinet/in.h>
#include <pthread.h>
#include <string.h>

#include "engine/base/hash.h"
#include "engine/base/mem.h"

typedef struct slot {
    uint8_t addr[16];
    int n;
} slot;

struct peers {
    pthread_mutex_t lock;
    int per_address;
    uint64_t seed;
    size_t mask;
    slot *slots;
};

peers *peers_new(int per_address, int max) {
    peers *p = mem_calloc(1, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    p->per_address = per_address;
    if (per_address <= 0) return p;
    size_t n = 64;
    while (n < (size_t)max * 2) n *= 2;
    p->mask = n - 1;
    p->seed = hash_key_random().k[0];
    p->slots = mem_calloc(n, sizeof *p->slots);
    return p;
}

void peers_free(peers *p) {
    if (!p) return;
    pthread_mutex_destroy(&p->lock);
    mem_free(p->slots);
    mem_free(p);
}

/* IPv4 in the mapped form; false for anything else (a Unix socket is not limited). */
static bool address_of(const struct sockaddr *a, uint8_t ret[16]) {
    memset(ret, 0, 16);
    if (a && a->sa_family == AF_INET) {
        memset(ret + 10, 0xff, 2);
        memcpy(ret + 12, &((const struct sockaddr_in *)a)->sin_addr, 4);
        return true;
    }
    if (!a || a->sa_family != AF_INET6) return false;
    memcpy(ret, &((const struct sockaddr_in6 *)a)->sin6_addr, 16);
    return true;
}

static size_t home(const peers *p, const uint8_t addr[16]) {
    return hash64(addr, 16, p->seed) & p->mask;
}

/* The slot of the address, or the empty one where it would go. */
static slot *find(peers *p, const uint8_t addr[16]) {
    size_t at = home(p, addr);
    while (p->slots[at].n > 0 && memcmp(p->slots[at].addr, addr, 16) != 0) at = (at + 1) & p->mask;
    return &p->slots[at];
}

/* Empty a slot and move up what only sat behind it (Knuth 6.4, algorithm R). */
static void vacate(peers *p, size_t hole) {
    for (size_t at = (hole + 1) & p->mask; p->slots[at].n > 0; at = (at + 1) & p->mask) {
        size_t from_home = (at - home(p, p->slots[at].addr)) & p->mask;
        if (from_home < ((at - hole) & p->mask)) continue;
        p->slots[hole] = p->slots[at];
        hole = at;
    }
    p->slots[hole].n = 0;
}

bool peers_enter(peers *p, const struct sockaddr *a) {
    uint8_t addr[16];
    if (p->per_address <= 0 || !address_of(a, addr)) return true;
    pthread_mutex_lock(&p->lock);
    slot *s = find(p, addr);
    bool ok = s->n < p->per_address;
    if (ok) {
        memcpy(s->addr, addr, 16);
        s->n++;
    }
    pthread_mutex_unlock(&p->lock);
    return ok;
}

void peers_leave(peers *p, const struct sockaddr *a) {
    uint8_t addr[16];
    if (p->per_address <= 0 || !address_of(a, addr)) return;
    pthread_mutex_lock(&p->lock);
    slot *s = find(p, addr);
    if (s->n > 0 && --s->n == 0) vacate(p, (size_t)(s - p->slots));
    pthread_mutex_unlock(&p->lock);
}
