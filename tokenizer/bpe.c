/* Short words (nearly all) are merged by scanning an array of ranks, which beats any heap up to
 * about a hundred symbols. Long ones - a megabyte without a space is possible input - use a heap
 * of candidate pairs over a linked list: O(n log n). Stale heap entries are recognised by the two
 * ids they were made for.
 *
 * Invariant of both: symbols tile the word, and rank i belongs to (symbol i, its right
 * neighbour). */
#include "tokenizer/bpe.h"

#include "engine/base/check.h"
#include "engine/base/utf8.h"

#define SHORT_MAX 96
#define NO_RANK   UINT32_MAX

void bpe_init(bpe *b) {
    *b = (bpe){.unk = -1, .n_ids = INT32_MAX};
    for (int i = 0; i < 256; i++) b->byte_id[i] = -1;
    b->cache = wordcache_new();
}

void bpe_done(bpe *b) {
    vocab_done(&b->whole);
    mem_free((void *)b->prefix.p);
    mem_free((void *)b->suffix.p);
    mem_free(b->pairs);
    mem_free(b->chars);
    mem_free(b->joined);
    vec_done(&b->privates);
    wordcache_free(b->cache);
}

/* ---- tables ---- */

static inline uint32_t pair_hash(int32_t l, int32_t r) {
    uint64_t h = ((uint64_t)(uint32_t)l << 32 | (uint32_t)r) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32) ^ (uint32_t)(h >> 49);
}

static bpe_pair *pair_slot(const bpe *b, int32_t l, int32_t r) {
    uint32_t mask = b->pair_slots - 1;
    for (uint32_t at = pair_hash(l, r) & mask;; at = (at + 1) & mask) {
        bpe_pair *p = &b->pairs[at];
        if (p->left < 0 || (p->left == l && p->right == r)) return p;
    }
}

void bpe_reserve_pairs(bpe *b, size_t n) {
    uint32_t want = MAX(b->pair_slots, 64);
    while (want < n + n / 2) want *= 2;
    if (want == b->pair_slots) return;
    bpe_pair *old = b->pairs;
    uint32_t n_old = b->pair_slots;
    b->pairs = mem_alloc((size_t)want * sizeof *b->pairs);
    memset(b->pairs, 0xFF, (size_t)want * sizeof *b->pairs);
    b->pair_slots = want;
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i].left >= 0) *pair_slot(b, old[i].left, old[i].right) = old[i];
    mem_free(old);
}

void bpe_add_pair(bpe *b, int32_t left, int32_t right, uint32_t rank, int32_t id) {
    CHECK(left >= 0 && right >= 0);
    bpe_reserve_pairs(b, (size_t)b->n_pairs + 1);
    bpe_pair *p = pair_slot(b, left, right);
    b->n_pairs += p->left < 0;
    *p = (bpe_pair){left, right, rank, id};
}

void bpe_prefetch_pair(const bpe *b, int32_t left, int32_t right) {
    if (b->pair_slots) __builtin_prefetch(&b->pairs[pair_hash(left, right) & (b->pair_slots - 1)]);
}

static bpe_char *char_slot(const bpe *b, uint32_t cp) {
    uint32_t mask = b->char_slots - 1;
    for (uint32_t at = (cp * 0x9E3779B1u) >> 8 & mask;; at = (at + 1) & mask)
        if (!b->chars[at].cp1 || b->chars[at].cp1 == cp + 1) return &b->chars[at];
}

void bpe_add_char(bpe *b, uint32_t cp, int32_t id) {
    if (b->n_chars * 2 >= b->char_slots) {
        bpe_char *old = b->chars;
        uint32_t n_old = b->char_slots;
        b->char_slots = MAX(n_old * 2, 256);
        b->chars = mem_calloc(b->char_slots, sizeof *b->chars);
        for (uint32_t i = 0; i < n_old; i++)
            if (old[i].cp1) *char_slot(b, old[i].cp1 - 1) = old[i];
        mem_free(old);
    }
    bpe_char *c = char_slot(b, cp);
    b->n_chars += !c->cp1;
    *c = (bpe_char){cp + 1, id};
}

int32_t bpe_char_id(const bpe *b, uint32_t cp) {
    if (!b->char_slots) return -1;
    const bpe_char *c = char_slot(b, cp);
    return c->cp1 ? c->id : -1;
}

static size_t char_len(const bpe *b, str s, size_t at, uint32_t *cp) {
    size_t k = b->bytes ? 0 : utf8_get(s.p + at, s.n - at, cp);
    if (!k) *cp = (uint8_t)s.p[at];
    return k ? k : 1;
}

/* Id of a part of a piece: a piece, or the private id of a single character (made when new). */
static int32_t part_id(bpe *b, const vocab *v, str part) {
    int32_t id = vocab_id(v, part);
    uint32_t cp;
    if (id >= 0 || b->bytes || !part.n || utf8_get(part.p, part.n, &cp) != part.n) return id;
    id = bpe_char_id(b, cp);
    if (id < 0) {
        bpe_add_char(b, cp, id = b->n_ids + (int32_t)b->privates.n);
        vec_push(&b->privates, cp);
    }
    return id;
}

void bpe_pairs_from_pieces(bpe *b, const vocab *v, const uint32_t *rank, int32_t n_ids) {
    b->n_ids = n_ids;
    bpe_reserve_pairs(b, (size_t)v->n * 2);
    for (int32_t id = 0; id < v->n; id++) {
        str s = vocab_piece(v, id);
        if (!s.p || rank[id] == NO_RANK || vocab_id(v, s) != id) continue;
        uint32_t cp;
        for (size_t at = char_len(b, s, 0, &cp); at < s.n; at += char_len(b, s, at, &cp)) {
            int32_t l = part_id(b, v, str_cut(s, 0, at));
            int32_t r = l < 0 ? -1 : part_id(b, v, str_cut(s, at, s.n));
            if (r >= 0) bpe_add_pair(b, l, r, rank[id], id);
        }
    }
}

static uint32_t joint(uint32_t left, uint32_t right) {
    return (left * 0x9E3779B1u ^ right * 0x85EBCA77u) >> (32 - BPE_JOINED_BITS);
}

static bool is_joined(const bpe *b, uint32_t left, uint32_t right) {
    uint32_t i = joint(left, right);
    return b->joined[i >> 6] >> (i & 63) & 1;
}

static bool is_byte_id(const bpe *b, int32_t id) {
    for (int i = 0; i < 256; i++)
        if (b->byte_id[i] == id) return true;
    return false;
}

/* An unknown character vanishes, or what it becomes (its bytes, unk) takes part in merges. */
static bool needs_care(const bpe *b) {
    int32_t low = INT32_MAX, high = -1;
    bool merged = b->unk < 0;
    for (int i = 0; i < 256; i++) {
        if (b->byte_id[i] >= 0) low = MIN(low, b->byte_id[i]);
        high = MAX(high, b->byte_id[i]);
    }
    for (uint32_t i = 0; i < b->pair_slots && !merged; i++) {
        int32_t l = b->pairs[i].left, r = b->pairs[i].right;
        if (l < 0) continue;
        merged = l == b->unk || r == b->unk ||
                 (b->byte_fallback && ((l >= low && l <= high && is_byte_id(b, l)) ||
                                       (r >= low && r <= high && is_byte_id(b, r))));
    }
    return merged;
}

void bpe_set_breaks(bpe *b, const vocab *v) {
    if (b->prefix.n || b->suffix.n || b->bytes || v->crossed) return;
    b->careful = needs_care(b);
    b->joined = mem_calloc(((size_t)1 << BPE_JOINED_BITS) / 64, sizeof *b->joined);
    for (int32_t id = 0; id < v->n; id++) {
        str s = vocab_piece(v, id);
        uint32_t cp, left = 0;
        for (size_t at = 0; at < s.n; left = cp) {
            bool first = at == 0;
            at += char_len(b, s, at, &cp);
            uint32_t i = joint(left, cp);
            if (!first) b->joined[i >> 6] |= 1ull << (i & 63);
        }
    }
}

/* ---- symbols ---- */

/* A character that is no symbol: its bytes (true), an unknown, or nothing. *unk_pending: an unknown
 * that is to be written before the next known character (the reference keeps it that long). */
static bool add_unknown(const bpe *b, str ch, vec_i32 *out, bool *unk_pending) {
    if (b->byte_fallback) {
        bool all = true;
        for (size_t i = 0; i < ch.n; i++) all &= b->byte_id[(uint8_t)ch.p[i]] >= 0;
        if (all) {
            for (size_t i = 0; i < ch.n; i++) vec_push(out, b->byte_id[(uint8_t)ch.p[i]]);
            return true;
        }
    }
    if (b->unk < 0) return false;
    if (*unk_pending && !b->fuse_unk) vec_push(out, b->unk);
    *unk_pending = true;
    return false;
}

/* The character with the prefix and the suffix that its place asks for. */
static str affixed(const bpe *b, str ch, bool first, bool last, char buf[BPE_AFFIXED_MAX]) {
    size_t n = 0;
    if (!first && b->prefix.n) n += b->prefix.n, memcpy(buf, b->prefix.p, b->prefix.n);
    memcpy(buf + n, ch.p, ch.n), n += ch.n;
    if (last && b->suffix.n) memcpy(buf + n, b->suffix.p, b->suffix.n), n += b->suffix.n;
    return str_n(buf, n);
}

typedef VEC(uint32_t) lengths; /* bytes of the word behind each symbol */

static void fill_lengths(lengths *len, size_t n, uint32_t each) {
    while (len->n < n) vec_push(len, each);
}

/* An unknown character of k bytes gave n_new ids: its bytes are one each, an unknown takes what it
 * stands for; *run is that of the one which is pending. */
static void measure_unknown(size_t n_new, bool as_bytes, bool pending, size_t k, uint32_t *run,
                            lengths *len) {
    if (as_bytes) {
        fill_lengths(len, len->n + n_new, 1);
        return;
    }
    if (n_new) { /* the one before this */
        vec_push(len, *run);
        *run = 0;
    }
    if (pending) *run += (uint32_t)k;
}

/* len: NULL when nobody asks. Inlined once with and once without. */
static inline __attribute__((always_inline)) void symbols_of_chars(const bpe *b, str word,
                                                                   vec_i32 *out, lengths *len) {
    bool affix = b->prefix.n || b->suffix.n, unk_pending = false;
    uint32_t run = 0;
    for (size_t at = 0, k; at < word.n; at += k) {
        uint32_t cp;
        char buf[BPE_AFFIXED_MAX];
        k = char_len(b, word, at, &cp);
        str ch = str_cut(word, at, at + k);
        if (affix) ch = affixed(b, ch, at == 0, at + k == word.n, buf);
        int32_t id = affix ? vocab_id(&b->whole, ch) : bpe_char_id(b, cp);
        if (id < 0) {
            size_t n = out->n;
            bool as_bytes = add_unknown(b, ch, out, &unk_pending);
            if (len) measure_unknown(out->n - n, as_bytes, unk_pending, k, &run, len);
            continue;
        }
        if (unk_pending) {
            vec_push(out, b->unk);
            if (len) vec_push(len, run);
            run = 0;
        }
        unk_pending = false;
        vec_push(out, id);
        if (len) vec_push(len, (uint32_t)k);
    }
    if (!unk_pending) return;
    vec_push(out, b->unk);
    if (len) vec_push(len, run);
}

static void symbols_of_bytes(const bpe *b, str word, vec_i32 *out, lengths *len) {
    bool fuses = false; /* the last symbol is an unknown that takes in more */
    vec_reserve(out, out->n + word.n);
    for (size_t i = 0; i < word.n; i++) {
        int32_t id = b->byte_id[(uint8_t)word.p[i]];
        bool unknown = id < 0;
        if (unknown) id = b->unk;
        if (id < 0) continue;
        if (unknown && fuses) {
            if (len) len->p[len->n - 1]++;
            continue;
        }
        out->p[out->n++] = id;
        if (len) vec_push(len, 1);
        fuses = unknown && b->fuse_unk;
    }
}

/* len: as in symbols_of_chars. */
static void symbols(const bpe *b, str word, vec_i32 *out, lengths *len) {
    if (b->bytes && !b->prefix.n && !b->suffix.n)
        symbols_of_bytes(b, word, out, len);
    else if (len)
        symbols_of_chars(b, word, out, len);
    else
        symbols_of_chars(b, word, out, NULL);
}

/* ---- merging ---- */

static inline uint32_t rank_of(const bpe *b, int32_t l, int32_t r, int32_t *id) {
    const bpe_pair *p = pair_slot(b, l, r);
    *id = p->id;
    return p->left < 0 ? NO_RANK : p->rank;
}

/* sym[0..n) in place; returns how many are left. n <= SHORT_MAX. */
static size_t merge_short(const bpe *b, int32_t *sym, size_t n) {
    uint32_t rank[SHORT_MAX];
    int32_t id[SHORT_MAX];
    for (size_t i = 0; i + 1 < n; i++) rank[i] = rank_of(b, sym[i], sym[i + 1], &id[i]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == NO_RANK) break;
        sym[best] = id[best];
        n--;
        size_t tail = n - best - 1;
        memmove(sym + best + 1, sym + best + 2, tail * sizeof *sym);
        memmove(rank + best, rank + best + 1, tail * sizeof *rank);
        memmove(id + best, id + best + 1, tail * sizeof *id);
        if (best + 1 < n) rank[best] = rank_of(b, sym[best], sym[best + 1], &id[best]);
        if (best > 0) rank[best - 1] = rank_of(b, sym[best - 1], sym[best], &id[best - 1]);
    }
    return n;
}

typedef struct candidate {
    uint32_t rank, pos;
    int32_t left, right;
} candidate;

typedef VEC(candidate) heap;

static bool before(const candidate *a, const candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->pos < b->pos;
}

static void heap_push(heap *h, candidate c) {
    vec_push(h, c);
    size_t i = h->n - 1;
    for (; i && before(&c, &h->p[(i - 1) / 2]); i = (i - 1) / 2) h->p[i] = h->p[(i - 1) / 2];
    h->p[i] = c;
}

static candidate heap_pop(heap *h) {
    candidate top = h->p[0], c = h->p[--h->n];
    size_t i = 0;
    for (size_t k; (k = 2 * i + 1) < h->n; i = k) {
        if (k + 1 < h->n && before(&h->p[k + 1], &h->p[k])) k++;
        if (!before(&h->p[k], &c)) break;
        h->p[i] = h->p[k];
    }
    if (h->n) h->p[i] = c;
    return top;
}

typedef struct node {
    int32_t id; /* -1: merged into its left neighbour */
    uint32_t prev, next;
} node;

#define END UINT32_MAX

static void push_pair(const bpe *b, heap *h, const node *nodes, uint32_t at) {
    if (at == END || nodes[at].next == END) return;
    int32_t id, l = nodes[at].id, r = nodes[nodes[at].next].id;
    uint32_t rank = rank_of(b, l, r, &id);
    if (rank != NO_RANK) heap_push(h, (candidate){rank, at, l, r});
}

/* place (may be NULL): for each symbol that is left the index of the first that it is made of. */
static size_t merge_long(const bpe *b, int32_t *sym, size_t n, uint32_t *place) {
    node *nodes = mem_alloc(n * sizeof *nodes);
    heap h = {0};
    for (uint32_t i = 0; i < n; i++)
        nodes[i] = (node){sym[i], i ? i - 1 : END, i + 1 < n ? i + 1 : END};
    for (uint32_t i = 0; i < n; i++) push_pair(b, &h, nodes, i);
    while (h.n) {
        candidate c = heap_pop(&h);
        node *l = &nodes[c.pos];
        if (l->id != c.left || l->next == END || nodes[l->next].id != c.right) continue;
        node *r = &nodes[l->next];
        rank_of(b, c.left, c.right, &l->id);
        r->id = -1;
        l->next = r->next;
        if (l->next != END) nodes[l->next].prev = c.pos;
        push_pair(b, &h, nodes, c.pos);
        push_pair(b, &h, nodes, l->prev);
    }
    size_t left = 0;
    for (uint32_t i = 0; i != END; i = nodes[i].next) {
        if (place) place[left] = i;
        sym[left++] = nodes[i].id;
    }
    vec_done(&h);
    mem_free(nodes);
    return left;
}

/* Merges of one token's own bytes, with the pairs of lower ranks in place, end in its two parts: in
 * any text the merges inside the token's bytes happen in that same order, so no other two parts can
 * meet. A file where they do not end in two (its ranks are not in an order that training makes)
 * gets every way for that token. */
static void add_rank_pair(bpe *b, const vocab *v, int32_t id) {
    str s = vocab_piece(v, id);
    int32_t sym[SHORT_MAX];
    size_t n = 0;
    if (s.n < 2 || vocab_id(v, s) != id) return;
    if (s.n <= SHORT_MAX) {
        for (size_t i = 0; i < s.n; i++) sym[i] = b->byte_id[(uint8_t)s.p[i]];
        n = merge_short(b, sym, s.n);
    }
    if (n == 2) {
        bpe_add_pair(b, sym[0], sym[1], (uint32_t)id, id);
        return;
    }
    for (size_t at = 1; at < s.n; at++) {
        int32_t l = vocab_id(v, str_cut(s, 0, at)), r = vocab_id(v, str_cut(s, at, s.n));
        if (l >= 0 && r >= 0) bpe_add_pair(b, l, r, (uint32_t)id, id);
    }
}

void bpe_pairs_from_ranks(bpe *b, const vocab *v) {
    bpe_reserve_pairs(b, (size_t)v->n);
    for (int32_t id = 0; id < v->n; id++) add_rank_pair(b, v, id);
}

/* Private ids that no merge took in are unknown characters after all: bytes or unk. */
static void resolve_private(const bpe *b, vec_i32 *ids, size_t from) {
    size_t i = from;
    while (i < ids->n && ids->p[i] < b->n_ids) i++;
    if (i == ids->n) return;
    vec_i32 in = {0};
    for (size_t k = i; k < ids->n; k++) vec_push(&in, ids->p[k]);
    ids->n = i;
    for (size_t k = 0; k < in.n; k++) {
        bool unk_pending = false;
        if (in.p[k] < b->n_ids)
            vec_push(ids, in.p[k]);
        else {
            char ch[4];
            size_t n = utf8_put(b->privates.p[in.p[k] - b->n_ids], ch);
            add_unknown(b, str_n(ch, n), ids, &unk_pending);
            if (unk_pending) vec_push(ids, b->unk);
        }
    }
    vec_done(&in);
    if (!b->fuse_unk) return;
    size_t to = i = MAX(i, from + 1);
    for (; i < ids->n; i++)
        if (ids->p[i] != b->unk || ids->p[to - 1] != b->unk) ids->p[to++] = ids->p[i];
    ids->n = MIN(to, ids->n);
}

/* ---- words ---- */

static void encode_uncached(const bpe *b, str word, vec_i32 *ids) {
    if (b->ignore_merges) {
        int32_t id = vocab_id(&b->whole, word);
        if (id >= 0) {
            vec_push(ids, id);
            return;
        }
    }
    size_t from = ids->n;
    symbols(b, word, ids, NULL);
    size_t n = ids->n - from;
    if (b->pair_slots && n > 1)
        n = n <= SHORT_MAX ? merge_short(b, ids->p + from, n)
                           : merge_long(b, ids->p + from, n, NULL);
    ids->n = from + n;
    resolve_private(b, ids, from);
}

static void encode_cached(const bpe *b, str word, vec_i32 *ids) {
    wordkey k;
    if (!wordcache_key(word, &k)) {
        encode_uncached(b, word, ids);
        return;
    }
    vec_reserve(ids, ids->n + WORDCACHE_IDS);
    int n = wordcache_get(b->cache, &k, ids->p + ids->n);
    if (n >= 0) {
        ids->n += (size_t)n;
        return;
    }
    size_t from = ids->n;
    encode_uncached(b, word, ids);
    wordcache_put(b->cache, &k, ids->p + from, ids->n - from);
}

/* Not one of the private ids, which may turn out to be unknown. */
static bool is_symbol(const bpe *b, uint32_t cp) {
    int32_t id = bpe_char_id(b, cp);
    return id >= 0 && id < b->n_ids;
}

/* End of the part of a word that starts at `at`. A part may end between two characters that are
 * symbols and stand so in no piece: no merge reaches across. (Not beside other characters: they may
 * vanish, become bytes that merge, or have to be fused.) */
static size_t part_end(const bpe *b, str word, size_t at) {
    uint32_t cp, left;
    at += char_len(b, word, at, &left);
    for (; at < word.n; left = cp) {
        size_t k = char_len(b, word, at, &cp);
        bool apart = !is_joined(b, left, cp) && is_symbol(b, cp);
        if (apart && (!b->careful || is_symbol(b, left))) break;
        at += k;
    }
    return at;
}

void bpe_encode(const bpe *b, str word, vec_i32 *ids) {
    if (!b->joined || b->ignore_merges) {
        encode_cached(b, word, ids);
        return;
    }
    for (size_t at = 0, end; at < word.n; at = end) {
        end = part_end(b, word, at);
        encode_cached(b, str_cut(word, at, end), ids);
    }
}

/* ---- spans ---- */

/* resolve_private(), with lengths. */
static void resolve_measured(const bpe *b, vec_i32 *ids, size_t from, lengths *len) {
    vec_i32 in = {0};
    lengths in_len = *len;
    *len = (lengths){0};
    for (size_t i = from; i < ids->n; i++) vec_push(&in, ids->p[i]);
    ids->n = from;
    for (size_t i = 0; i < in.n; i++) {
        bool private = in.p[i] >= b->n_ids, unk = in.p[i] == b->unk;
        size_t before = ids->n;
        if (private) {
            char ch[4];
            size_t n = utf8_put(b->privates.p[in.p[i] - b->n_ids], ch);
            add_unknown(b, str_n(ch, n), ids, &unk);
        } else if (!unk)
            vec_push(ids, in.p[i]);
        if (unk && b->fuse_unk && ids->n > from && ids->p[ids->n - 1] == b->unk) {
            len->p[len->n - 1] += in_len.p[i];
            continue;
        }
        if (unk) vec_push(ids, b->unk);
        fill_lengths(len, ids->n - from, ids->n - before > 1 ? 1 : in_len.p[i]);
    }
    vec_done(&in);
    vec_done(&in_len);
}

static void measure(const bpe *b, str word, vec_i32 *ids, lengths *len) {
    size_t from = ids->n;
    int32_t whole = b->ignore_merges ? vocab_id(&b->whole, word) : -1;
    if (whole >= 0) {
        vec_push(ids, whole);
        vec_push(len, (uint32_t)word.n);
        return;
    }
    symbols(b, word, ids, len);
    size_t n = ids->n - from;
    if (b->pair_slots && n > 1) {
        uint32_t *place = mem_alloc(n * sizeof *place);
        size_t left = merge_long(b, ids->p + from, n, place);
        for (size_t i = 0; i < left; i++) {
            uint32_t sum = 0;
            size_t end = i + 1 < left ? place[i + 1] : n;
            for (size_t k = place[i]; k < end; k++) sum += len->p[k];
            len->p[i] = sum;
        }
        ids->n = from + left;
        len->n = left;
        mem_free(place);
    }
    bool private = false;
    for (size_t i = from; i < ids->n; i++) private |= ids->p[i] >= b->n_ids;
    if (private) resolve_measured(b, ids, from, len);
}

void bpe_spans(const bpe *b, str word, vec_i32 *ids, span_vec *spans) {
    lengths len = {0};
    uint32_t at = 0;
    measure(b, word, ids, &len);
    for (size_t i = 0; i < len.n; i++) {
        vec_push(spans, ((span){at, len.p[i]}));
        at += len.p[i];
    }
    vec_done(&len);
}
