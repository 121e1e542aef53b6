/* --quantize: which matrices become codes while a model is loaded, which codes, and what that costs
 * in accuracy. The search for scales is kernels/quantize.h.
 *
 * int8: 8 bits in groups of 128 columns. int4: 4 bits in groups of 32; the head and MLA's small
 * up-projections 8 bits. Tables, routers, gates of one row, norms and biases stay as they are. */
#ifndef ENGINE_QUANTIZE_H
#define ENGINE_QUANTIZE_H

#include "engine/arch.h"
#include "engine/base/status.h"
#include "engine/base/str.h"
#include "kernels/quantize.h"

typedef enum quantize_kind { QUANTIZE_NONE, QUANTIZE_INT8, QUANTIZE_INT4 } quantize_kind;

/* "none" or NULL, "int8", "int4". */
NODISCARD status quantize_parse(const char *name, quantize_kind *ret, error *err);
const char *quantize_name(quantize_kind k);

/* What matrices of a slot are stored as; *ret_dt is DT_COUNT where they stay floats. */
void quantize_choose(quantize_kind k, weight_slot slot, dtype *ret_dt, quant_spec *ret_spec);

/* After loading: the root of the sum of squared differences over that of squared values, by slot
 * and for the worst tensor; for people, and as members of a JSON object ("quantize": {...}). */
struct weights;
void quantize_report(const struct weights *w, strbuf *out);
void quantize_report_json(const struct weights *w, strbuf *out);

#endif
