/* Strings: `str` borrows bytes (not NUL-terminated, may hold NULs), `strbuf` owns and grows. */
#ifndef ENGINE_BASE_STR_H
#define ENGINE_BASE_STR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "engine/base/status.h"

typedef struct str {
    const char *p;
    size_t n;
} str;

#define STR(lit)   ((str){(lit), sizeof(lit) - 1})
#define STR_FMT    "%.*s"
#define STR_ARG(s) (int)(s).n, (s).p

static inline str str_z(const char *z) {
    return (str){z, z ? strlen(z) : 0};
}
static inline str str_n(const char *p, size_t n) {
    return (str){p, n};
}
static inline bool str_eq(str a, str b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}
static inline bool str_eqz(str a, const char *z) {
    return str_eq(a, str_z(z));
}
static inline str str_cut(str s, size_t from, size_t to) {
    return (str){s.p + from, to - from};
}
bool str_starts(str s, str prefix);
bool str_ends(str s, str suffix);
/* Byte offset of the first `needle` at or after `from`, or -1. */
ptrdiff_t str_find(str s, str needle, size_t from);
str str_trim(str s); /* ASCII white space off both ends */
/* Whole-string decimal integer / finite number; false if it is not one or overflows. */
bool str_to_i64(str s, int64_t *ret);
bool str_to_f64(str s, double *ret);
/* Levenshtein distance, bounded: for "did you mean". Strings over 64 bytes give 65. */
int str_distance(str a, str b);

/* A growing byte buffer. {0} is a valid empty one. `max` (0 = none) bounds n: an append past it
 * changes nothing, sets `full` and returns false, so that a caller may check once at the end.
 * p is always NUL-terminated after the first append. */
typedef struct strbuf {
    char *p;
    size_t n, cap, max;
    bool full;
} strbuf;

void strbuf_done(strbuf *b); /* frees; leaves {0} */
static inline void strbuf_clear(strbuf *b) {
    b->n = 0;
    b->full = false;
    if (b->p) b->p[0] = 0;
}
bool strbuf_reserve(strbuf *b, size_t more);
bool strbuf_add(strbuf *b, str s);
static inline bool strbuf_addz(strbuf *b, const char *z) {
    return strbuf_add(b, str_z(z));
}
bool strbuf_addc(strbuf *b, char c);
bool strbuf_addf(strbuf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
bool strbuf_addcp(strbuf *b, uint32_t codepoint); /* UTF-8 */
/* A JSON string with quotes; bytes that are not UTF-8 become U+FFFD. The line separators that are
 * not control characters (U+0085, U+2028, U+2029) are escaped too: readers of JSON lines and of
 * event streams that split at every Unicode line end then still see whole values. */
bool strbuf_add_json(strbuf *b, str s);
static inline str strbuf_str(const strbuf *b) {
    return (str){b->p ? b->p : "", b->n};
}
/* Hand the bytes over (mem_free them); the buffer is empty afterwards. Never NULL. */
char *strbuf_take(strbuf *b);

#endif
