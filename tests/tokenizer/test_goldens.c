/* Every golden of the shared data against our tokenizers: ids, ids with special tokens, decoded
 * text, and the incremental detokeniser over the same ids. Run with a word to filter by name.
 *
 * The goldens were made by the reference libraries (Hugging Face tokenizers, SentencePiece,
 * tiktoken). Exits 77 (skip) where the data is absent. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tests/tokenizer/golden.h"
#include "tokenizer/tokenizer.h"

#define DATA   "../shared/data/tokenizers/"
#define MODELS "../shared/data/models/"
#define GGML   DATA "ggml-vocab/ggml-vocab-"
#define DEV    DATA "goldens-made/dev/"

static const struct golden {
    const char *name, *path, *pretokenizer;
} goldens[] = {
    {"llama-2.hf", DATA "derived/llama-2/tokenizer.json", NULL},
    {"llama-3.hf", DATA "derived/llama-3/tokenizer.json", NULL},
    {"qwen2.5.hf", DATA "derived/qwen2.5/tokenizer.json", NULL},
    {"qwen3.hf", DATA "derived/qwen3/tokenizer.json", NULL},
    {"gpt2.hf", DATA "derived/gpt2/tokenizer.json", NULL},
    {"gpt2.hf", DATA "gpt2/vocab.json", NULL},
    {"deepseek-coder.hf", DATA "derived/deepseek-coder/tokenizer.json", NULL},
    {"deepseek-llm.hf", DATA "derived/deepseek-llm/tokenizer.json", NULL},
    {"bert-base-uncased.hf", DATA "derived/bert-base-uncased/tokenizer.json", NULL},
    {"gpt-neox.hf", DATA "gpt-neox/tokenizer.json", NULL},
    {"phi-2.hf", DATA "phi-2/tokenizer.json", NULL},
    {"phi-3-mini.hf", DATA "phi-3-mini/tokenizer.json", NULL},
    {"phi-3-medium.hf", DATA "phi-3-medium/tokenizer.json", NULL},
    {"falcon.hf", DATA "falcon/tokenizer.json", NULL},
    {"roberta-base.hf", DATA "roberta-base/tokenizer.json", NULL},
    {"stories260K.hf", MODELS "derived/stories260K-hf-f32/tokenizer.json", NULL},
    {"tinystories-656k.hf", MODELS "tinystories-656k-hf/tokenizer.json", NULL},
    {"t5-small.hf", DATA "t5-small/tokenizer.json", NULL},
    {"llama-2.spm", DATA "llama-2/tokenizer.model", NULL},
    {"internlm.spm", DATA "internlm/tokenizer.model", NULL},
    {"mistral-v1.spm", DATA "mistral/tokenizer.model.v1", NULL},
    {"mistral-v2.spm", DATA "mistral/mistral_instruct_tokenizer_240216.model.v2", NULL},
    {"mistral-v3.spm", DATA "mistral/mistral_instruct_tokenizer_240323.model.v3", NULL},
    {"chatglm-6b-ice.spm", DATA "chatglm-6b/ice_text.model", NULL},
    {"sp-test.spm", DATA "sentencepiece-tests/test_model.model", NULL},
    {"sp-test-ja.spm", DATA "sentencepiece-tests/test_ja_model.model", NULL},
    {"stories260K.spm", MODELS "derived/stories260K-hf-f32/tokenizer.model", NULL},
    {"gpt2.hf", GGML "gpt-2.gguf", NULL},
    {"phi-3-mini.hf", GGML "phi-3.gguf", NULL},
    {"falcon.hf", GGML "falcon.gguf", NULL},
    {"deepseek-coder.hf", GGML "deepseek-coder.gguf", NULL},
    {"deepseek-llm.hf", GGML "deepseek-llm.gguf", NULL},
    {"bert-base-uncased.hf", GGML "bert-bge.gguf", NULL},
    {"llama-3.tiktoken", DATA "llama-3/tokenizer.model", "llama3"},
    {"llama-4.tiktoken", DATA "llama-4/tokenizer.model", "llama4"},
    {"qwen.tiktoken", DATA "qwen/qwen.tiktoken", "qwen2"},
    {"cl100k.tiktoken", DATA "cl100k-phi-3-small/cl100k_base.tiktoken", "cl100k"},
};

static int n_passed, n_failed, n_skipped;

static void run(const struct golden *g, const json_t *texts) {
    char path[256];
    json_t *cases;
    error err;
    tokenizer *t;
    snprintf(path, sizeof path, DEV "%s.json", g->name);
    tokenizer_options o = {.pretokenizer = g->pretokenizer};
    if (!file_exists(g->path) || !file_exists(path)) {
        printf("SKIP %s: %s is absent\n", g->name, file_exists(path) ? g->path : path);
        n_skipped++;
        return;
    }
    if (tokenizer_open(g->path, &o, &t, &err) != OK ||
        js_parse_file(path, (size_t)64 << 20, &cases, &err) != OK) {
        printf("FAIL %s: %s\n", g->name, err.text);
        n_failed++;
        return;
    }
    int bad = 0, n = (int)json_array_size(cases);
    for (int i = 0; i < n; i++) {
        json_t *want = json_array_get(cases, (size_t)i);
        str text = js_get_str(json_array_get(texts, (size_t)js_get_int(want, "id", 0)), "text");
        bad += !golden_check(g->name, t, text, want);
    }
    printf("%s %s (%s): %d of %d texts equal\n", bad ? "FAIL" : "ok  ", g->name, g->path, n - bad,
           n);
    n_failed += bad > 0;
    n_passed += !bad;
    json_decref(cases);
    tokenizer_free(t);
}

int main(int argc, char **argv) {
    json_t *texts;
    error err;
    if (!file_exists(DEV "texts.json")) {
        printf("SKIP: " DEV "texts.json is absent\n");
        return 77;
    }
    if (js_parse_file(DEV "texts.json", (size_t)64 << 20, &texts, &err) != OK) {
        printf("FAIL: %s\n", err.text);
        return 1;
    }
    for (size_t i = 0; i < ARRAY_LEN(goldens); i++)
        if (argc < 2 || strstr(goldens[i].name, argv[1])) run(&goldens[i], texts);
    json_decref(texts);
    printf("%d passed, %d failed, %d skipped\n", n_passed, n_failed, n_skipped);
    return n_failed > 0;
}
