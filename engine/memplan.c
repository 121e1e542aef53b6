/* KV pages are the only part with a choice. Automatic: what max_seqs sequences of full length
 * need, but at most half of what is free after everything else, so that the machine stays usable;
 * and where one full-length sequence does not fit in that half, up to nine tenths.
 *
 * The second tier of the KV cache is memory of the host that stays locked. Automatic: as much as
 * the first tier has, at most a quarter of what is free there, and at most SWAP_MOST, since the
 * system has to find and clear every page of it before the server starts. */
#include "engine/memplan.h"

#include <stdio.h>
#include <stdlib.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"

#define SWAP_MOST ((size_t)8 << 30)

/* "key: 123 kB" or a bare number; false when the file or key is not there. */
static bool read_number(const char *path, const char *key, unsigned long long *ret) {
    char line[256];
    bool found = false;
    FILE *f = fopen(path, "re");
    size_t n = strlen(key);
    while (f && !found && fgets(line, sizeof line, f))
        if (strncmp(line, key, n) == 0) found = sscanf(line + n, "%llu", ret) == 1;
    if (f) fclose(f);
    return found;
}

/* What a control group directory still allows. */
static size_t cgroup_left(const char *dir, const char *max_name, const char *now_name) {
    char path[512];
    unsigned long long max, now, cached = 0;
    snprintf(path, sizeof path, "%s/%s", dir, max_name);
    if (!read_number(path, "", &max)) return SIZE_MAX; /* "max": no limit */
    snprintf(path, sizeof path, "%s/%s", dir, now_name);
    if (!read_number(path, "", &now)) return SIZE_MAX;
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    read_number(path, "inactive_file ", &cached); /* can be dropped */
    now -= MIN(now, cached);
    return max > now ? (size_t)(max - now) : 0;
}

/* This process's control group (version 2) and all above it. */
static size_t cgroup_available(void) {
    char line[400], dir[512];
    size_t least =
        cgroup_left("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes");
    FILE *f = fopen("/proc/self/cgroup", "re");
    bool found = false;
    while (f && !found && fgets(line, sizeof line, f)) found = strncmp(line, "0::", 3) == 0;
    if (f) fclose(f);
    if (!found) return least;
    line[strcspn(line, "\n")] = 0;
    for (char *at = line + 3;; *at = 0) {
        snprintf(dir, sizeof dir, "/sys/fs/cgroup%s", line + 3);
        least = MIN(least, cgroup_left(dir, "memory.max", "memory.current"));
        at = strrchr(line + 3, '/');
        if (!at) return least;
    }
}

void memplan_available(size_t *ret_bytes, const char **ret_limited_by) {
    unsigned long long kb;
    size_t free_bytes =
        read_number("/proc/meminfo", "MemAvailable:", &kb) ? (size_t)kb * 1024 : SIZE_MAX;
    size_t group = cgroup_available();
    *ret_bytes = MIN(free_bytes, group);
    *ret_limited_by = group < free_bytes ? "the control group's limit" : "free memory";
}

void memplan_size(size_t bytes, char *out, size_t n) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double x = (double)bytes;
    size_t u = 0;
    while (x >= 1024 && u + 1 < ARRAY_LEN(units)) x /= 1024, u++;
    snprintf(out, n, u ? "%.1f %s" : "%.0f %s", x, units[u]);
}

static size_t pages_for(const memplan *m, int32_t len) {
    return CEIL_DIV((size_t)len, (size_t)m->page_tokens);
}

/* Pages when nothing says how many; `left` is what everything else leaves free. */
static size_t choose_pages(const memplan *m, int32_t len, size_t left) {
    size_t one = pages_for(m, len), full = one * (size_t)m->max_seqs;
    if (left == SIZE_MAX) return full;
    if (m->kv_fraction > 0) return (size_t)(m->kv_fraction * (double)left) / m->page_bytes;
    size_t half = left / 2 / m->page_bytes, most = left / 10 * 9 / m->page_bytes;
    return MIN(full, MAX(half, MIN(one, most)));
}

/* The second tier, once the first is known. */
static status decide_swap(memplan *m, error *err) {
    size_t want = m->swap_wanted;
    m->swap = 0;
    m->n_host_pages = 0;
    if (m->swap_why || want == 0) return OK;
    if (want == SIZE_MAX) {
        want = MIN(m->kv, SWAP_MOST);
        if (m->host_available != SIZE_MAX) want = MIN(want, m->host_available / 4);
    } else if (want > m->host_available) {
        char a[32], b[32];
        memplan_size(want, a, sizeof a);
        memplan_size(m->host_available, b, sizeof b);
        return error_set(err, ERR_NOMEM,
                         "kv_swap: %s of pinned memory are wanted, the host has %s free", a, b);
    }
    size_t page = m->page_bytes - m->draft_page_bytes;
    if (want < page && m->swap_wanted != SIZE_MAX) {
        char a[32], b[32];
        memplan_size(want, a, sizeof a);
        memplan_size(page, b, sizeof b);
        return error_set(err, ERR_INVALID,
                         "kv_swap: %s do not hold a page of the KV cache, which takes %s", a, b);
    }
    m->n_host_pages = (int32_t)MIN(want / page, (size_t)INT32_MAX);
    m->swap = (size_t)m->n_host_pages * page;
    return OK;
}

static status too_large(const memplan *m, size_t need, const char *what, error *err) {
    char a[32], b[32], w[32];
    memplan_size(need, a, sizeof a);
    memplan_size(m->available, b, sizeof b);
    memplan_size(m->weights + m->draft_weights, w, sizeof w);
    return error_set(err, ERR_NOMEM, "%s: %s are needed (weights %s), %s leaves %s", what, a, w,
                     m->limited_by, b);
}

status memplan_decide(memplan *m, error *err) {
    m->len = m->max_model_len > 0 ? m->max_model_len : m->ctx_max;
    m->activations = m->activations_fixed + m->activations_per_len * (size_t)m->len;
    size_t other = m->weights + m->draft_weights + m->activations + m->other;
    size_t left = m->available == SIZE_MAX ? SIZE_MAX
                  : m->available > other   ? m->available - other
                                           : 0;
    size_t pages = m->kv_wanted ? m->kv_wanted / m->page_bytes : choose_pages(m, m->len, left);
    if (m->max_model_len <= 0 && pages < pages_for(m, m->len) && pages > 0)
        m->len = (int32_t)(pages * (size_t)m->page_tokens);
    m->n_pages = (int32_t)MIN(pages, (size_t)INT32_MAX - 1); /* the engine may add one */
    m->kv = pages * m->page_bytes;
    m->total = MAX(other + m->kv, m->weights + m->staging);
    if (pages < pages_for(m, m->len) || pages == 0) {
        size_t need = pages_for(m, m->len) * m->page_bytes;
        char a[32], b[32];
        if (!m->kv_wanted) return too_large(m, other + need, "the model does not fit", err);
        memplan_size(need, a, sizeof a);
        memplan_size(m->kv_wanted, b, sizeof b);
        return error_set(err, ERR_NOMEM,
                         "a KV cache of %s is too small for one sequence of %d tokens: %s are "
                         "needed (or a smaller max_model_len)",
                         b, m->len, a);
    }
    if (m->total > m->available)
        return too_large(m, m->total, "the model and its KV cache do not fit", err);
    return decide_swap(m, err);
}

static void line(strbuf *out, const char *name, size_t bytes, const char *note) {
    char s[32];
    memplan_size(bytes, s, sizeof s);
    strbuf_addf(out, "  %-12s %12s  %s\n", name, s, note);
}

void memplan_print(const memplan *m, strbuf *out) {
    char note[160], s[32];
    strbuf_addz(out, "memory plan\n");
    line(out, "weights", m->weights, "");
    if (m->draft_weights) {
        memplan_size(m->draft_page_bytes * (size_t)m->n_pages, s, sizeof s);
        snprintf(note, sizeof note, "weights; its keys and values are %s of the KV cache", s);
        line(out, "draft model", m->draft_weights, note);
    }
    snprintf(note, sizeof note, "%d pages of %d tokens, %lld tokens in all%s%s", m->n_pages,
             m->page_tokens, (long long)m->n_pages * m->page_tokens, m->kv_type ? ", " : "",
             m->kv_type ? m->kv_type : "");
    line(out, "KV cache", m->kv, note);
    snprintf(note, sizeof note, "sequences up to %d tokens, %d at a time", m->len, m->max_seqs);
    line(out, "activations", m->activations, note);
    if (m->swap) {
        snprintf(note, sizeof note, "pinned memory of the host: %d pages more", m->n_host_pages);
        line(out, "KV swap", m->swap, note);
    } else if (m->swap_why)
        line(out, "KV swap", 0, m->swap_why);
    line(out, "other", m->other, "set aside for program, tokenizer, requests");
    line(out, "staging", m->staging, "while loading only");
    memplan_size(m->available, s, sizeof s);
    snprintf(note, sizeof note, "of %s (%s)", s, m->limited_by);
    line(out, "total", m->total, m->available == SIZE_MAX ? "" : note);
}
