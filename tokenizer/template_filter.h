/* The filters' own parts. Inside of the template engine only. */
#ifndef TOKENIZER_TEMPLATE_FILTER_H
#define TOKENIZER_TEMPLATE_FILTER_H

#include "tokenizer/template_run.h"

const filter *find_seq_filter(str name); /* template_seq.c */
/* Attributes only, never items: |attr. */
val get_attribute(rt *r, val obj, val name);

#endif
