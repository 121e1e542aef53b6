/* Every bound of pagoda that is not an option. A bound that a request can meet is named in the
 * error it causes. */
#ifndef CONF_LIMITS_H
#define CONF_LIMITS_H

/* HTTP and JSON */
#define LIMIT_HEADER_BYTES     (16 * 1024)
#define LIMIT_JSON_DEPTH       96
#define LIMIT_REQUEST_ID_BYTES 128

/* One request */
#define LIMIT_MESSAGES      2048
#define LIMIT_CONTENT_PARTS 1024
#define LIMIT_PROMPTS       128  /* prompts of one /v1/completions call */
#define LIMIT_INPUTS        2048 /* inputs of one /v1/embeddings call */
#define LIMIT_N             128  /* choices of one prompt */
#define LIMIT_CHOICES       256  /* prompts x n of one call */
#define LIMIT_STOP_STRINGS  16
#define LIMIT_STOP_BYTES    1024
#define LIMIT_STOP_IDS      256
#define LIMIT_LOGIT_BIAS    1024
#define LIMIT_TOP_LOGPROBS  20
#define LIMIT_LOGPROBS      (4 << 20) /* tokens x (1 + top_logprobs) of one call's answer */
#define LIMIT_TOP_K         (1 << 20)
#define LIMIT_NGRAM         1024
#define LIMIT_TOOLS         128
#define LIMIT_ARENA_BYTES   ((size_t)64 << 20) /* parsed, rendered, tokenised text of a request */

/* Chat templates (Jinja) */
#define LIMIT_TEMPLATE_STOPS  8
#define LIMIT_TEMPLATE_BYTES  (1 << 20)
#define LIMIT_TEMPLATE_STEPS  10000000
#define LIMIT_TEMPLATE_DEPTH  128
#define LIMIT_TEMPLATE_OUTPUT (16 << 20)
#define LIMIT_TEMPLATE_RANGE  100000
#define LIMIT_TEMPLATE_US     2000000

/* Line tools (pagoda tokenize, render, logits, generate --json) */
#define LIMIT_LINE_BYTES ((size_t)256 << 20)

/* Files */
#define LIMIT_CONFIG_BYTES       ((size_t)4 << 20)
#define LIMIT_TOKENIZER_BYTES    ((size_t)256 << 20)
#define LIMIT_SAFETENSORS_HEADER ((size_t)100 << 20)
#define LIMIT_PICKLE_BYTES       ((size_t)32 << 20)
#define LIMIT_GGUF_KEYS          65536
#define LIMIT_TENSORS            1000000
#define LIMIT_TENSOR_DIMS        8
#define LIMIT_VOCAB              (4 << 20)
#define LIMIT_LAYERS             1024
#define LIMIT_SHARDS             4096

/* Adapters */
#define LIMIT_ADAPTERS       256 /* loaded at once */
#define LIMIT_ADAPTER_NAME   128 /* bytes */
#define LIMIT_VIRTUAL_TOKENS 4096

#endif
