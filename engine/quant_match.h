/* Names of modules as quantisation configs list them. */
#ifndef ENGINE_QUANT_MATCH_H
#define ENGINE_QUANT_MATCH_H

#include <stdbool.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "engine/name_regex.h"

/* One pattern: an exact name, part of a dotted name, or a regular expression that must match from
 * the name's beginning. */
typedef struct name_pattern {
    char *text;        /* owned */
    name_regex *regex; /* NULL: a plain name */
} name_pattern;

/* ERR_UNSUPPORTED: an expression that is not read (name_regex.h); the error names it. */
NODISCARD status name_pattern_init(name_pattern *p, str text, bool is_regex, error *err);
void name_pattern_done(name_pattern *p);
/* The whole name, or what the expression matches at its beginning. */
bool name_pattern_is(const name_pattern *p, const char *name);
/* As name_pattern_is, but a plain pattern may also be some whole components of the name:
 * "lm_head", "self_attn.q_proj" and "model.layers.0" are part of
 * "model.layers.0.self_attn.q_proj" if they are in it between dots. */
bool name_pattern_in(const name_pattern *p, const char *name);

#endif
