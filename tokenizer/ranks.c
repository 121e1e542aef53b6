/* What rank files leave out: which split and which special tokens their families use. The tokens
 * follow the ranks in the order of the family's own code. */
#include <stdio.h>

#include "conf/limits.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/tok.h"

/* One run of names: the name itself, or `n` names with a number from `from` on in place of %d. */
typedef struct run {
    const char *name;
    int from, n;
} run;

static const run qwen[] = {
    {"<|endoftext|>"}, {"<|im_start|>"}, {"<|im_end|>"}, {"<|extra_%d|>", 0, 205}, {NULL},
};
static const run glm4[] = {
    {"<|endoftext|>"},
    {"[MASK]"},
    {"[gMASK]"},
    {"[sMASK]"},
    {"<sop>"},
    {"<eop>"},
    {"<|system|>"},
    {"<|user|>"},
    {"<|assistant|>"},
    {"<|observation|>"},
    {"<|begin_of_image|>"},
    {"<|end_of_image|>"},
    {"<|begin_of_video|>"},
    {"<|end_of_video|>"},
    {NULL},
};
static const run llama3[] = {
    {"<|begin_of_text|>"},
    {"<|end_of_text|>"},
    {"<|reserved_special_token_%d|>", 0, 2},
    {"<|finetune_right_pad_id|>"},
    {"<|step_id|>"},
    {"<|start_header_id|>"},
    {"<|end_header_id|>"},
    {"<|eom_id|>"},
    {"<|eot_id|>"},
    {"<|python_tag|>"},
    {"<|image|>"},
    {"<|reserved_special_token_%d|>", 2, 244},
    {NULL},
};
static const run llama4[] = {
    {"<|begin_of_text|>"},
    {"<|end_of_text|>"},
    {"<|fim_prefix|>"},
    {"<|fim_middle|>"},
    {"<|fim_suffix|>"},
    {"<|header_start|>"},
    {"<|header_end|>"},
    {"<|eom|>"},
    {"<|eot|>"},
    {"<|step|>"},
    {"<|text_post_train_reserved_special_token_%d|>", 0, 6},
    {"<|python_start|>"},
    {"<|python_end|>"},
    {"<|finetune_right_pad|>"},
    {"<|text_post_train_reserved_special_token_%d|>", 8, 61},
    {"<|image_start|>"},
    {"<|image_end|>"},
    {"<|vision_reserved_special_token_%d|>", 0, 2},
    {"<|tile_x_separator|>"},
    {"<|tile_y_separator|>"},
    {"<|vision_reserved_special_token_%d|>", 2, 4},
    {"<|image|>"},
    {"<|vision_reserved_special_token_%d|>", 6, 1},
    {"<|patch|>"},
    {"<|vision_reserved_special_token_%d|>", 7, 1041},
    {"<|reasoning_reserved_special_token_%d|>", 0, 8},
    {"<|reasoning_thinking_start|>"},
    {"<|reasoning_thinking_end|>"},
    {"<|reserved_special_token_%d|>", 0, 899},
    {NULL},
};

typedef struct family {
    const char *class, *model_type, *pattern;
    const run *specials;
    const char *front[2]; /* what goes before a text */
    const char *bos, *eos;
    bool nfc;
} family;

static const family families[] = {
    {"QWenTokenizer", "qwen", "qwen2", qwen, {0}, NULL, "<|endoftext|>", true},
    {"ChatGLM4Tokenizer",
     "chatglm",
     "glm4",
     glm4,
     {"[gMASK]", "<sop>"},
     NULL,
     "<|endoftext|>",
     false},
    {NULL,
     "llama",
     "llama3",
     llama3,
     {"<|begin_of_text|>"},
     "<|begin_of_text|>",
     "<|end_of_text|>",
     false},
    {NULL,
     "mllama",
     "llama3",
     llama3,
     {"<|begin_of_text|>"},
     "<|begin_of_text|>",
     "<|end_of_text|>",
     false},
    {NULL,
     "llama4",
     "llama4",
     llama4,
     {"<|begin_of_text|>"},
     "<|begin_of_text|>",
     "<|end_of_text|>",
     false},
    {NULL,
     "llama4_text",
     "llama4",
     llama4,
     {"<|begin_of_text|>"},
     "<|begin_of_text|>",
     "<|end_of_text|>",
     false},
    {NULL, "qwen2", "qwen2", qwen, {0}, NULL, "<|endoftext|>", true},
    {NULL, "glm4", "glm4", glm4, {"[gMASK]", "<sop>"}, NULL, "<|endoftext|>", false},
    {NULL, "glm", "glm4", glm4, {"[gMASK]", "<sop>"}, NULL, "<|endoftext|>", false},
    {"Phi3SmallTokenizer", "phi3small", "cl100k", NULL, {0}, NULL, NULL, false},
    {NULL, "gpt_oss", "o200k", NULL, {0}, NULL, NULL, false},
};

/* The class decides; the model's type where no class is of the table. */
static const family *family_of(const tok_files *f) {
    str class = js_get_str(f->config, "tokenizer_class"), type = js_get_str(f->model, "model_type");
    for (size_t i = 0; i < ARRAY_LEN(families); i++)
        if (families[i].class && str_eqz(class, families[i].class)) return &families[i];
    for (size_t i = 0; i < ARRAY_LEN(families); i++)
        if (str_eqz(type, families[i].model_type)) return &families[i];
    return NULL;
}

const char *rank_pattern(const tok_files *f) {
    const family *m = family_of(f);
    return m ? m->pattern : NULL;
}

/* A token at `id`, unless the directory's own files put another there or this one elsewhere. */
static status add(tokenizer *t, int32_t id, const char *name, bool normalized, error *err) {
    str s = str_z(name);
    if (vocab_id(&t->pieces, s) >= 0 || vocab_piece(&t->pieces, id).p) return OK;
    added_spec a = {.id = id, .content = s, .special = true, .normalized = normalized};
    return tok_add(t, &a, err);
}

static status add_runs(tokenizer *t, int32_t id, const family *m, error *err) {
    for (const run *r = m->specials; r->name; r++)
        for (int i = 0; i < MAX(r->n, 1); i++) {
            char name[64], number[16];
            const char *mark = strstr(r->name, "%d");
            snprintf(number, sizeof number, "%d", r->from + i);
            int head = mark ? (int)(mark - r->name) : (int)strlen(r->name);
            snprintf(name, sizeof name, "%.*s%s%s", head, r->name, mark ? number : "",
                     mark ? mark + 2 : "");
            if (id >= LIMIT_VOCAB) return error_set(err, ERR_TOO_LARGE, "too many tokens");
            TRY(add(t, id++, name, m->nfc, err));
        }
    return OK;
}

static status set_nfc(tokenizer *t, error *err) {
    json_t *nfc = json_pack("{s:s}", "type", "NFC");
    status st = normalizer_new(nfc, &t->norm, err);
    json_decref(nfc);
    return st;
}

status rank_specials(tokenizer *t, const tok_files *f, int32_t n_ranks, error *err) {
    const family *m = family_of(f);
    if (!m || !m->specials) return OK;
    if (m->nfc) TRY(set_nfc(t, err));
    TRY(add_runs(t, n_ranks, m, err));
    if (t->bos < 0 && m->bos) t->bos = vocab_id(&t->pieces, str_z(m->bos));
    if (t->eos < 0 && m->eos) t->eos = vocab_id(&t->pieces, str_z(m->eos));
    t->before.n = 0;
    for (size_t i = 0; i < ARRAY_LEN(m->front) && m->front[i]; i++) {
        int32_t id = vocab_id(&t->pieces, str_z(m->front[i]));
        if (id >= 0) vec_push(&t->before, id);
    }
    tok_finish(t);
    return OK;
}
