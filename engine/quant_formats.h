/* One function per storage format: find and check the module's tensors, fill in where codes,
 * scales and zeros are. m->n and m->k are set. */
#ifndef ENGINE_QUANT_FORMATS_H
#define ENGINE_QUANT_FORMATS_H

#include "engine/quant_module.h"

NODISCARD status quant_bind_gptq(module_binder *b, quant_module *m);
NODISCARD status quant_bind_awq(module_binder *b, quant_module *m);
NODISCARD status quant_bind_packed(module_binder *b, quant_module *m);  /* compressed-tensors */
NODISCARD status quant_bind_bytes(module_binder *b, quant_module *m);   /* int8, FP8 */
NODISCARD status quant_bind_fp4(module_binder *b, quant_module *m);     /* NVFP4, MXFP4 modules */
NODISCARD status quant_bind_experts(module_binder *b, quant_module *m); /* MXFP4 stacks */
NODISCARD status quant_bind_bnb4(module_binder *b, quant_module *m);    /* NF4, FP4 */
NODISCARD status quant_bind_bnb8(module_binder *b, quant_module *m);    /* LLM.int8 */
/* Rounding of activations and its scales, of formats that have it. */
NODISCARD status quant_bind_acts(module_binder *b, quant_module *m);

#endif
