/* Chat templates: Jinja2 as transformers runs it (trim_blocks, lstrip_blocks, loop controls,
 * generation blocks, tojson without HTML escapes, raise_exception, strftime_now, immutable
 * sandbox), evaluated by our own bounded interpreter. Nothing of the host can be reached.
 *
 * A parsed template is immutable and may be rendered from any number of threads. */
#ifndef TOKENIZER_TEMPLATE_H
#define TOKENIZER_TEMPLATE_H

#include <jansson.h>
#include <stdint.h>

#include "engine/base/status.h"
#include "engine/base/str.h"

typedef struct template template;

/* Errors say line and what was expected. */
NODISCARD status template_parse(str source, template **ret, error *err);
void template_free(template *t); /* takes NULL */

typedef struct template_limits {
    int64_t steps_max; /* 0: LIMIT_TEMPLATE_* for each */
    size_t output_max;
    uint64_t time_us_max;
    int64_t unix_time; /* strftime_now's clock (local time as given); 0: now */
} template_limits;

/* Render with the members of `vars` (a JSON object; borrowed, not changed) as variables; append to
 * *out. ERR_INVALID with the template's own message for raise_exception and template errors,
 * ERR_TOO_LARGE with the limit named. */
NODISCARD status template_render(const template *t, const json_t *vars,
                                 const template_limits *limits, strbuf *out, error *err);

#endif
