/* A quantised module of a checkpoint: the tensors that lie where a plain "x.weight" would be, and
 * the rows that they stand for. One reader of rows serves all formats; a format (quant_formats.h)
 * finds and checks its tensors and says where codes, scales and zeros are. */
#ifndef ENGINE_QUANT_MODULE_H
#define ENGINE_QUANT_MODULE_H

#include "engine/quant_config.h"
#include "engine/row_source.h"

/* A tensor of a module and its mapped bytes. */
typedef struct module_tensor {
    const st_tensor *st; /* NULL: not there */
    const char *p;
} module_tensor;

/* Small unsigned numbers in 32-bit words: number `index` of line `item`. dense: number i begins at
 * bit i*bits of the line's words; else a word holds 32/bits numbers. */
typedef struct packed_numbers {
    const char *p;
    int64_t item_step,
        word_step; /* bytes from a line to the next, from a word of a line to the next */
    int bits;
    bool dense;
} packed_numbers;
uint8_t packed_at(const packed_numbers *b, int64_t item, int64_t index);

typedef struct quant_module quant_module;
struct quant_module {
    row_source s; /* what the weight sees: the view's rows */
    int32_t n, k; /* out and in features as stored */
    dtype dt;     /* of the codes */
    quant_spec spec;
    /* Codes of rows [row0, row0+n) to codes [n,K], one a byte. */
    void (*codes)(const quant_module *m, int64_t row0, int32_t n, uint8_t *codes);
    /* The zero of one row and group; NULL: none stored. */
    uint8_t (*zero)(const quant_module *m, int64_t row, int64_t group);
    packed_numbers code_words, zero_words;
    const char *bytes;             /* codes of formats without words */
    const char *scales;            /* of spec.scale_dt: */
    int64_t scale_div;             /* rows of one scale */
    int64_t scale_row, scale_step; /* elements from a row of scales to the next, group to group */
    int64_t scale_flat; /* not 0: weights of one scale, counted through all rows instead */
    int32_t *order;     /* [K] or NULL; owned */
    float table[16];
    /* Scales that are bytes themselves (bitsandbytes' double quantisation): table[byte] * nested
     * scale of nested_block of them + offset. nested NULL: scales are as they lie. */
    const char *nested, *nested_table;
    int64_t nested_block;
    float nested_offset;
    /* Which rows, and as what. */
    row_view view;
    bool floats;     /* rows are dequantised */
    bool transposed; /* the view picks this module's rows as our columns */
};

/* What a format is given: the module's place and what it should be. */
typedef struct module_binder {
    checkpoint *c;
    const quant_config *q;
    const quant_scheme *scheme;
    const arch_tensor *t;
    char *module;  /* the name before ".weight" */
    uint8_t *used; /* [c->n_tensors] set for every tensor that belongs to the module; or NULL */
    error *err;
} module_binder;

/* The tensor module + suffix with one of the types (a mask of 1 << dtype) and these dimensions; -1
 * is any length. Missing: an error, or st NULL if optional. Marks it used. */
NODISCARD status module_take(module_binder *b, const char *suffix, uint64_t types, int32_t n_dims,
                             const int64_t *dims, bool optional, module_tensor *ret);
/* Number of elements alone counts: scales that are [1] here and [] there. */
NODISCARD status module_take_scalar(module_binder *b, const char *suffix, uint64_t types,
                                    bool optional, module_tensor *ret);
bool module_has(const checkpoint *c, const char *module, const char *suffix);
const st_tensor *module_find(const checkpoint *c, const char *module, const char *suffix);
/* An error of the module's tensor. */
status module_error(const module_binder *b, const char *suffix, const char *fmt, ...)
    PRINTF_LIKE(3, 4);

/* Scales [N or ceil(N / rows), groups], [N], [1] or []: sets spec.group, scale_dt and the steps.
 * group: columns of one scale that the config says, -1 all, 0 as the shape says. */
NODISCARD status module_set_scales(module_binder *b, quant_module *m, const char *suffix,
                                   const module_tensor *t, int32_t group, int32_t rows);
/* g_idx [K]: group of each column, all below G. In sequence it is the same as none. */
NODISCARD status module_set_order(module_binder *b, quant_module *m, const char *suffix,
                                  const module_tensor *t);

#define TYPE_MASK(dt) (1ull << (dt))
#define TYPES_FLOAT   (TYPE_MASK(DT_F32) | TYPE_MASK(DT_F16) | TYPE_MASK(DT_BF16))

/* For the arch tensor t: a source of its rows if it is a quantised module of c (c->quant), NULL
 * in *ret if it is plain. floats: dequantise. ret_first: the tensor whose place in the files
 * counts. Every inconsistency is an error that names file and tensor. used as in module_binder. */
NODISCARD status quant_module_bind(checkpoint *c, const arch_tensor *t, bool floats, uint8_t *used,
                                   row_source **ret, const st_tensor **ret_first, error *err);
/* Would a tensor of that name be served by a quantised module? */
bool quant_module_serves(const checkpoint *c, const char *name);
/* For the error of a missing plain tensor: the tensor that is there in its place if the module is
 * quantised in a way that no config tells of; NULL otherwise. Borrowed from c. */
const char *quant_module_instead(const checkpoint *c, const char *name);
/* May an unused tensor be passed over: scales of a quantised KV cache, biases of zeros that GPTQ's
 * tools write beside every module. */
bool quant_module_spare(checkpoint *c, const st_tensor *st);

#endif
