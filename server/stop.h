/* Stop strings over a stream of text: found wherever the pieces were cut, and never shown in part.
 */
#ifndef SERVER_STOP_H
#define SERVER_STOP_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/arena.h"
#include "engine/base/str.h"

/* The strings compiled; immutable, shared by all choices of a call. */
typedef struct stop_set stop_set;

/* In the arena, which must hold the strings too. NULL for n = 0 or when the arena is full (only
 * then with n > 0). */
stop_set *stop_set_new(arena *mem, const str *strings, int32_t n);
int32_t stop_set_count(const stop_set *s); /* takes NULL: 0 */

/* Where one choice stands: state[i] = how many bytes of string i the text ends with. */
typedef struct stop_state {
    uint16_t at[24]; /* LIMIT_STOP_STRINGS + LIMIT_TEMPLATE_STOPS */
} stop_state;

typedef struct stop_hit {
    int32_t which;  /* index of the string, -1: none */
    size_t end;     /* bytes of `piece` up to and with the string's last byte */
    size_t n_bytes; /* the string's length: it may begin before the piece */
} stop_hit;

/* Look at the next piece. The hit is the one that ends first; of two that end together, the longer
 * one. After a hit the state is of no use. */
stop_hit stop_push(const stop_set *s, stop_state *st, str piece);
/* Bytes at the text's end that may be the beginning of a stop string: not to be shown yet. */
size_t stop_held(const stop_set *s, const stop_state *st);

#endif
