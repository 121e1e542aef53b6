/* Sorting, for the filters and tojson. Inside of the template engine only. */
#ifndef TOKENIZER_TEMPLATE_SEQ_H
#define TOKENIZER_TEMPLATE_SEQ_H

#include "tokenizer/template_value.h"

/* The stable order of n keys by "<": indices into keys. Equal keys keep their order, also when
 * reverse. */
const uint32_t *sort_order(rt *r, const val *keys, uint32_t n, bool reverse);

#endif
