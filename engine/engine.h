/* The engine: a model directory becomes a stepper. Everything large is allocated in engine_open;
 * after it a step allocates nothing. */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <stddef.h>

#include "engine/base/status.h"
#include "engine/base/str.h"
#include "engine/batch.h"
#include "kernels/backend.h"

typedef struct engine_options {
    const char *model_dir;     /* a directory, or a GGUF file */
    const char *register_path; /* NULL or a directory with more family files (NAME.json) */
    const char *dtype;         /* "auto" (the checkpoint's), "f32", "bf16", "f16" */
    const char *quantize; /* NULL or "none", "int8", "int4": float weights become codes while they
                           * are loaded (engine/quantize.h) */
    const char *packed_cache; /* NULL: none; a directory, or "auto": the model's
                               * (engine/packed_cache.h) */
    const char *kv_dtype;   /* "auto" (f32 with f32 or quantised f16 weights, else bf16), f32, bf16,
                             * int8, fp8 (kernels/kv8.h) */
    const char *quant_math; /* "exact": products with quantised weights in f32, activations as they
                             * are but for int8; "native": in the arithmetic that the checkpoint is
                             * made for, and products of int8 codes on the CPU; "auto", NULL: native
                             * on devices, products of codes and else exact on the CPU */
    const char *gemm_library;   /* of large 16-bit products on a device: "own", NULL, or "cublaslt",
                                 * with which a row's bits depend on the batch and the run */
    const char *device;         /* "auto", "cpu", "cuda", "cuda:N" (kernels/device.h); NULL: auto */
    const char *isa;            /* of the CPU; NULL: best */
    int n_threads;              /* 0: one per usable CPU */
    cpu_pinning pin;            /* of them */
    int32_t max_model_len;      /* 0: the model's, reduced to what fits */
    int32_t max_seqs;           /* most sequences in a step */
    int32_t max_drafts;         /* most drafts of a sequence in a step that are expected: on the CPU
                                 * rows of logits at a time are planned for them */
    int32_t max_batched_tokens; /* most tokens in a step; at least max_model_len where the model
                                 * needs its prompt whole */
    size_t kv_bytes;            /* 0: chosen from free memory */
    /* Pinned memory of the host for pages that the device has no room for: 0: none; SIZE_MAX:
     * chosen. None where the device's memory is the host's, unless kv_swap_forced (for tests), and
     * for models that take prompts whole: the scheduler finds no page of theirs again. */
    size_t kv_swap_bytes;
    bool kv_swap_forced;
    int32_t adapters_max;   /* most adapters loaded at once; 0: none can be */
    int32_t lora_rank_max;  /* the highest rank that an adapter may have */
    const char *merge_lora; /* NULL, or an adapter's directory to merge into the weights */
    /* NULL, or a smaller model that guesses tokens (engine_draft): planned, loaded and freed with
     * this one, in its types unless draft_quantize says otherwise, as `quantize` does. */
    const char *draft_dir, *draft_quantize;
    double kv_fraction; /* with kv_bytes 0: this part of what is left; 0: chosen */
    const char *graphs; /* "off": ops are launched one by one; NULL or "auto": steps of
                         * decoding are recorded on backends that can (kernels/graphs.h) */
    int32_t depth;      /* most steps in flight; 0: 2 where the device samples, else 1 */
    bool plan_only;     /* read headers and plan memory, load nothing (inspect) */
    /* Called while loading, from the loading thread; may be NULL. */
    void (*progress)(void *ctx, size_t bytes_done, size_t bytes_total);
    /* Called once with the memory plan, before anything large is allocated; may be NULL. */
    void (*on_plan)(void *ctx, str text);
    /* Called once after loading with what there is to tell, if anything; may be NULL. */
    void (*on_loaded)(void *ctx, str text);
    void *ctx;
} engine_options;

typedef struct model_info {
    char family[32];       /* "llama" */
    char architecture[64]; /* "LlamaForCausalLM" */
    char chat_format[64];  /* the family's, for models without a chat template; "": none named */
    int32_t n_layers, hidden, n_heads, n_kv_heads, head_dim, ffn, vocab;
    int32_t ctx_max; /* what the config allows */
    int64_t n_params;
    dtype weight_dt, kv_dt;
    dtype quant_math; /* of products with quantised weights: f32 is exact */
    bool quant_codes; /* activations of some are rounded to int8 for products of codes */
    bool is_quant;    /* some weights are quantised */
    bool tied;
    bool has_head;             /* false: an encoder, for embeddings */
    pool_kind pool;            /* how an embedding is made of hidden states */
    bool pool_normalize;       /* to length 1, by default */
    char pool_unsupported[64]; /* a module of sentence-transformers that is not computed, or "" */
    int32_t bos_id;            /* -1: none */
    int32_t eos_ids[16];       /* union of config.json and generation_config.json */
    int32_t n_eos;
    size_t weight_bytes, kv_bytes, activation_bytes, total_bytes;
    size_t matrix_bytes;                /* of weight_bytes: all but tables and vectors */
    int64_t matrix_params, head_params; /* elements of the matrices; of them the head's */
    char backend[96];
} model_info;

/* What a registered family says of its models' text (its `tokenizer` block), known before anything
 * is loaded: a tokenizer file beside the family's own, and how a rank file splits. NULL: nothing
 * said, or a GGUF file. Both in fresh memory (mem_free). */
NODISCARD status engine_family_tokenizer(const char *model_dir, const char *register_path,
                                         char **ret_file, char **ret_pretokenizer, error *err);

typedef struct engine engine;

/* Errors name the file and the key or tensor at fault; ERR_NOMEM carries the plan's numbers. */
NODISCARD status engine_open(const engine_options *o, engine **ret, error *err);
void engine_free(engine *e); /* takes NULL */
const model_info *engine_info(const engine *e);
stepper engine_stepper(engine *e); /* valid while e lives */

/* The model of draft_dir: a stepper of its own, one step in flight, with pages of the same number
 * and size, so that a sequence's page list serves both. Of the device they share: no step of one
 * while the other's is computed. False: there is none. */
bool engine_draft(engine *e, stepper *ret);

/* Adapters beside the weights; the stepper's sequences name them. Valid while e lives. */
adapter_host engine_adapters(engine *e);
/* The adapter of later engine_logits calls, NULL for none. Its virtual tokens are put before the
 * ids; they have no row in the result. */
void engine_use_adapter(engine *e, const adapter_info *info);

/* What inspect prints: family, dims, tensors, the memory plan; text for people or JSON. */
void engine_describe(const engine *e, bool json, strbuf *out);

/* Logits of ids through the paged path, for tests and `pagoda logits`: rows of the last position,
 * or of all, [n, vocab] f32 into ret (caller's). Uses pages of the engine's cache: not while
 * serving. `chunk` > 0 prefills in chunks of that many tokens. */
NODISCARD status engine_logits(engine *e, const int32_t *ids, int32_t n, bool all, int32_t chunk,
                               float *ret, error *err);

#endif
