/* UTF-8: strict decoding (no overlongs, no surrogates, nothing past U+10FFFF), as RFC 3629. */
#ifndef ENGINE_BASE_UTF8_H
#define ENGINE_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes of the code point at p (1..4) and its value; 0 if it is invalid or cut short. */
size_t utf8_get(const char *p, size_t n, uint32_t *ret_cp);
/* Write cp (must be valid) to out[4]; returns its length. */
size_t utf8_put(uint32_t cp, char out[4]);
bool utf8_valid(const char *p, size_t n);
/* How many trailing bytes of p[0..n) are the beginning of a code point that could still be
 * completed (0..3). Bytes that can never become valid do not count. */
size_t utf8_partial_tail(const char *p, size_t n);
/* Code points in p; an invalid byte counts as one. */
size_t utf8_count(const char *p, size_t n);

#endif
