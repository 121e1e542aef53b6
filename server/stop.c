/* One Knuth-Morris-Pratt automaton per string, stepped byte by byte: what is held back is simply
 * the largest state, and no text is looked at twice. Stop strings and pieces are both whole UTF-8
 * characters, and a string begins with a leading byte, so what is held back never begins inside a
 * character. */
#include "server/stop.h"

#include "conf/limits.h"
#include "engine/base/check.h"

typedef struct pattern {
    str s;
    uint16_t *fail; /* [n+1]: longest proper border of the first i bytes */
} pattern;

struct stop_set {
    int32_t n;
    pattern p[];
};

_Static_assert(sizeof((stop_state){0}.at) / sizeof(uint16_t) ==
                   LIMIT_STOP_STRINGS + LIMIT_TEMPLATE_STOPS,
               "states");
_Static_assert(LIMIT_STOP_BYTES < UINT16_MAX, "states");

static bool compile(pattern *p, arena *mem) {
    p->fail = arena_array(mem, p->s.n + 1, sizeof *p->fail);
    if (!p->fail) return false;
    uint16_t k = 0;
    for (size_t i = 1; i < p->s.n; i++) {
        while (k > 0 && p->s.p[i] != p->s.p[k]) k = p->fail[k];
        if (p->s.p[i] == p->s.p[k]) k++;
        p->fail[i + 1] = k;
    }
    return true;
}

stop_set *stop_set_new(arena *mem, const str *strings, int32_t n) {
    CHECK(n <= LIMIT_STOP_STRINGS + LIMIT_TEMPLATE_STOPS);
    if (n == 0) return NULL;
    stop_set *s = arena_alloc(mem, sizeof *s + (size_t)n * sizeof *s->p);
    if (!s) return NULL;
    s->n = n;
    for (int32_t i = 0; i < n; i++) {
        CHECK(strings[i].n > 0 && strings[i].n <= LIMIT_STOP_BYTES);
        s->p[i].s = strings[i];
        if (!compile(&s->p[i], mem)) return NULL;
    }
    return s;
}

int32_t stop_set_count(const stop_set *s) {
    return s ? s->n : 0;
}

static uint16_t step(const pattern *p, uint16_t at, char c) {
    while (at > 0 && p->s.p[at] != c) at = p->fail[at];
    return p->s.p[at] == c ? at + 1 : 0;
}

stop_hit stop_push(const stop_set *s, stop_state *st, str piece) {
    stop_hit hit = {.which = -1};
    for (size_t i = 0; s && i < piece.n; i++) {
        for (int32_t k = 0; k < s->n; k++) {
            const pattern *p = &s->p[k];
            st->at[k] = step(p, st->at[k], piece.p[i]);
            if (st->at[k] == p->s.n && p->s.n > hit.n_bytes) hit = (stop_hit){k, i + 1, p->s.n};
        }
        if (hit.which >= 0) return hit;
    }
    return hit;
}

size_t stop_held(const stop_set *s, const stop_state *st) {
    size_t held = 0;
    for (int32_t k = 0; s && k < s->n; k++) held = st->at[k] > held ? st->at[k] : held;
    return held;
}
