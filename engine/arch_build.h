/* What the files of the resolver share: arch.c (whole models), arch_attn.c, arch_mlp.c (the two
 * branches of a layer), arch_tensor.c (references to tensors), arch_rope.c. */
#ifndef ENGINE_ARCH_BUILD_H
#define ENGINE_ARCH_BUILD_H

#include "engine/arch.h"
#include "engine/arch_eval.h"

#define ARCH_WIDTH_MAX (1 << 24)
#define ARCH_ITEMS_MAX (1 << 18) /* experts or heads with tensors of their own, over all layers */

typedef struct arch_builder {
    arch_eval e;
    arch *a;
    int32_t n_cap;
} arch_builder;

/* Where a tensor goes. */
typedef struct arch_place {
    weight_slot slot;
    int32_t item, n_items; /* n_items > 0: a pack's part, or stack, is split evenly into items */
    int32_t row0, rows, cols;
    tensor_xform xform;
    /* The items are stored as [cols, rows] each inside a pack: MLA's key half of kv_b. */
    bool transpose_items;
} arch_place;

/* Takes t.name. */
void arch_push_tensor(arch_builder *b, arch_tensor t);
/* Add the tensor of a reference: "name", "=expression", "@pack.part", {"tensor":, "if":}.
 * *ret_has (may be NULL: then it must be there) says whether there is one. */
NODISCARD status arch_add_tensor(arch_builder *b, const json_t *ref, const char *path,
                                 arch_place at, bool *ret_has, error *err);
/* The bias of the tensor added last, in the slot after its own, if the rule says that there is
 * one: true, false, an expression, "auto" (if the checkpoint has it), or one per projection. `ref`
 * is the tensor's reference: a pack may name its bias. */
NODISCARD status arch_add_bias(arch_builder *b, const json_t *rule, const char *part,
                               const char *path, const json_t *ref, error *err);
/* A norm's weight (and bias, by the norm's kind); absent reference: *ret_has false. `true` stands
 * for a norm without parameters. */
NODISCARD status arch_add_norm(arch_builder *b, const json_t *ref, const char *path,
                               weight_slot slot, int32_t width, bool *ret_has, error *err);

/* Are n items (experts, heads) in each layer few enough? */
NODISCARD status arch_check_items(arch_builder *b, int32_t n, const char *what, error *err);
/* A word that must be one of a list: its index. The error names what is known. */
NODISCARD status arch_choice(arch_builder *b, const json_t *node, const char *path,
                             const char *fallback, const char *const *words, int n, int *ret,
                             error *err);
/* A number of the family in [min, max], whole. */
NODISCARD status arch_count(arch_builder *b, const json_t *node, const char *path, int32_t fallback,
                            int32_t min, int32_t max, int32_t *ret, error *err);
/* A finite number. */
NODISCARD status arch_number(arch_builder *b, const json_t *node, const char *path, double fallback,
                             float *ret, error *err);
NODISCARD status arch_flag(arch_builder *b, const json_t *node, const char *path, bool fallback,
                           bool *ret, error *err);
NODISCARD status arch_act(arch_builder *b, str name, act_kind *ret, error *err);

NODISCARD status arch_resolve_attn(arch_builder *b, arch_layer *l, error *err);
NODISCARD status arch_resolve_mla_dims(arch_builder *b, error *err);
NODISCARD status arch_resolve_alibi(arch_builder *b, error *err);
NODISCARD status arch_resolve_mlp(arch_builder *b, arch_layer *l, error *err);

#endif
