/* The rope part of a family: from rope_theta and rope_scaling, or rope_parameters (also nested by
 * layer type), to a rope_spec. */
#ifndef ENGINE_ARCH_ROPE_H
#define ENGINE_ARCH_ROPE_H

#include "engine/arch_build.h"

/* For the builder's layer. ret->style is ROPE_NONE when the family has no rope there. */
NODISCARD status arch_rope_resolve(arch_builder *b, rope_spec *ret, error *err);
/* Positions that scaled rotations reach, from those of the config. */
int32_t arch_rope_ctx(const arch *a, int32_t ctx);

#endif
