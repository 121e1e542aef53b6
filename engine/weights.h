/* The weights of a model in memory: one block, a place in it for every item of every slot of every
 * layer, and which bytes of the checkpoint fill each place. */
#ifndef ENGINE_WEIGHTS_H
#define ENGINE_WEIGHTS_H

#include "engine/arch.h"
#include "engine/checkpoint.h"
#include "engine/quantize.h"
#include "engine/row_source.h"
#include "kernels/backend.h"

/* One item of a slot. A matrix is a stack of parts, each with its own storage: one part where all
 * of it is floats, blocks of one type, or codes of one spec without an order or table. */
typedef struct weight {
    int32_t rows, cols; /* rows 0: the layer has none */
    wmat *m;            /* matrices: [n_parts] */
    int32_t n_parts;
    float *vec;         /* vectors */
    void *table;        /* tables: [rows,cols] row-major; NULL where */
    const wmat *packed; /* the rows are read from this matrix, the head's */
    dtype dt;           /* of the table, or of the first part */
    size_t off, bytes;
    bool shares_groups; /* a tensor begins inside a packed row group: pack under a lock */
} weight;

/* Where the bytes of one arch tensor come from. */
typedef struct weight_bind {
    const st_tensor *st; /* the tensor, or the first of a module's */
    row_source *src;     /* NULL: plain floats, rows as they lie in the file */
    dtype dt;            /* of st, or of what src yields: a float, GGUF blocks or codes */
    size_t row_bytes;    /* one row of it */
    dtype to;            /* quantised storage of the rows: dt, or what quantize.h makes of floats;
                          * DT_COUNT: they are stored as floats */
    quant_spec spec;     /* of `to` */
    int32_t part;        /* of its weight */
    int32_t part_row0;   /* its first row in that part */
} weight_bind;

/* In which arithmetic products with quantised weights run. */
typedef struct quant_how {
    dtype math; /* quant_spec.math */
    bool codes; /* activations are rounded as the backend multiplies fastest (backend.h: native_act)
                 * where the checkpoint does not say how */
} quant_how;

typedef struct weights {
    const arch *a;
    backend *b;
    weight *list; /* [n_list] items one after another */
    int32_t n_list;
    int32_t *first; /* [(L+1), W_SLOT_COUNT]: index into list, -1: none; row L: of no layer */
    wmat *mats;     /* [n_mats]: the parts, in the order of the list */
    int32_t n_mats;
    float **vecs;      /* [n_list]: list[i].vec, for ops that take one an expert */
    weight_bind *bind; /* [a->n_tensors] */
    void *block;
    size_t bytes;
    dtype dt;      /* of the layers' matrices */
    quant_how how; /* of products with quantised weights */
    quantize_kind quantize;
    quantize_error *errors; /* [a->n_tensors] of those that were quantised, after loading; NULL:
                             * quantize is QUANTIZE_NONE */
    int64_t n_params;       /* elements in the checkpoint's bound tensors */
} weights;

/* Item 0 of a slot, the others behind it; NULL when there is none. layer -1: of no layer. */
static inline weight *weights_at(const weights *w, int32_t layer, weight_slot slot) {
    int32_t row = layer < 0 ? w->a->n_layers : layer;
    int32_t i = w->first[(size_t)row * W_SLOT_COUNT + slot];
    return i < 0 ? NULL : &w->list[i];
}
static inline const float *weights_vec(const weights *w, int32_t layer, weight_slot slot) {
    const weight *p = weights_at(w, layer, slot);
    return p ? p->vec : NULL;
}
/* The vectors of a slot's items, NULL when there is none. */
static inline const float *const *weights_vecs(const weights *w, int32_t layer, weight_slot slot) {
    const weight *p = weights_at(w, layer, slot);
    return p ? (const float *const *)&w->vecs[p - w->list] : NULL;
}

typedef struct weights_options {
    dtype want;             /* of floats; DT_COUNT: the checkpoint's types */
    quant_how how;          /* math f32: and activations are not rounded to 8-bit floats, whatever
                             * the checkpoint asks for */
    quantize_kind quantize; /* floats become codes while they are loaded; ERR_INVALID where some are
                             * stored as such already */
    bool own_table;         /* the embedding stays a table of its own beside a tied head */
} weights_options;

/* Decide places and storage types. Every tensor of the arch must be there with its shape, every
 * tensor of the checkpoint must be used or ignored: the error names tensor, file, expected and
 * found. Allocates nothing large. */
NODISCARD status weights_plan(const arch *a, checkpoint *c, backend *b, const weights_options *o,
                              weights *ret, error *err);
/* Allocate the block (w->bytes) and describe the matrices in it. */
NODISCARD status weights_alloc(weights *w, error *err);
void weights_done(weights *w);

#endif
