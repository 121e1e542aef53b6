/* Expected ids that other projects published, over the same vocabularies: llama.cpp's .inp/.out
 * pairs and the test values of transformers.js. Skips what is absent from ../shared/data. */
#include <stdio.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tests/tokenizer/golden.h"

#define DATA "../shared/data/tokenizers/"
#define GGML DATA "ggml-vocab/"
#define JS   DATA "goldens-transformers.js/"

static const char *const ggml[][2] = {
    {GGML "ggml-vocab-llama-bpe.gguf", DATA "derived/llama-3/tokenizer.json"},
    {GGML "ggml-vocab-qwen2.gguf", DATA "derived/qwen2.5/tokenizer.json"},
    {GGML "ggml-vocab-deepseek-r1-qwen.gguf", DATA "derived/qwen2.5/tokenizer.json"},
    {GGML "ggml-vocab-deepseek-coder.gguf", DATA "derived/deepseek-coder/tokenizer.json"},
    {GGML "ggml-vocab-deepseek-llm.gguf", DATA "derived/deepseek-llm/tokenizer.json"},
    {GGML "ggml-vocab-gpt-2.gguf", DATA "derived/gpt2/tokenizer.json"},
    {GGML "ggml-vocab-llama-spm.gguf", DATA "derived/llama-2/tokenizer.json"},
    {GGML "ggml-vocab-phi-3.gguf", DATA "phi-3-mini/tokenizer.json"},
    {GGML "ggml-vocab-falcon.gguf", DATA "falcon/tokenizer.json"},
    {GGML "ggml-vocab-bert-bge.gguf", DATA "derived/bert-base-uncased/tokenizer.json"},
    {GGML "ggml-vocab-roberta-bpe.gguf", DATA "roberta-base/tokenizer.json"},
    {GGML "ggml-vocab-mpt.gguf", DATA "gpt-neox/tokenizer.json"},
    {GGML "history/ggml-vocab-phi-2.gguf", DATA "phi-2/tokenizer.json"},
};

/* Vocabularies that llama.cpp publishes with the ids that they give. */
static const char *const gguf[] = {
    GGML "ggml-vocab-bert-bge.gguf",     GGML "ggml-vocab-deepseek-coder.gguf",
    GGML "ggml-vocab-deepseek-llm.gguf", GGML "ggml-vocab-falcon.gguf",
    GGML "ggml-vocab-gpt-2.gguf",        GGML "ggml-vocab-llama-spm.gguf",
    GGML "ggml-vocab-mpt.gguf",          GGML "ggml-vocab-phi-3.gguf",
    GGML "ggml-vocab-refact.gguf",       GGML "ggml-vocab-starcoder.gguf",
    GGML "history/ggml-vocab-dbrx.gguf",
};

static const char *const js[][2] = {
    {JS "Xenova__bert-base-uncased.json", DATA "derived/bert-base-uncased/tokenizer.json"},
    {JS "Xenova__gpt2.json", DATA "derived/gpt2/tokenizer.json"},
    {JS "openai-community__gpt2.json", DATA "derived/gpt2/tokenizer.json"},
    {JS "Xenova__llama-tokenizer.json", DATA "derived/llama-2/tokenizer.json"},
};

static int n_passed, n_failed, n_skipped;

static void result(const char *name, int bad, int n) {
    printf("%s %s: %d of %d texts equal\n", bad ? "FAIL" : "ok  ", name, n - bad, n);
    n_failed += bad > 0;
    n_passed += !bad;
}

/* A line of ids as a JSON array. */
static json_t *ids_of(str line) {
    strbuf b = {0};
    json_t *v = NULL;
    strbuf_addc(&b, '[');
    for (size_t i = 0; i < line.n; i++) {
        bool gap = line.p[i] == ' ' && i && i + 1 < line.n;
        strbuf_addc(&b, gap ? ',' : line.p[i]);
    }
    strbuf_addc(&b, ']');
    if (js_parse(strbuf_str(&b), &v, NULL) != OK) v = json_array();
    strbuf_done(&b);
    return json_pack("{s:o}", "ids", v);
}

static void run_ggml_texts(const char *name, const tokenizer *t, str texts, str lines) {
    static const str mark = {"\n__ggml_vocab_test__\n", 21};
    int n = 0, bad = 0;
    size_t at = 0, line_at = 0;
    while (line_at < lines.n) {
        ptrdiff_t end = str_find(texts, mark, at), nl = str_find(lines, STR("\n"), line_at);
        size_t to = end < 0 ? texts.n : (size_t)end, line_to = nl < 0 ? lines.n : (size_t)nl;
        json_t *want = ids_of(str_cut(lines, line_at, line_to));
        bad += !golden_check(name, t, str_cut(texts, at, to), want);
        json_decref(want);
        n++;
        at = MIN(to + mark.n, texts.n);
        line_at = line_to + 1;
    }
    result(name, bad, n);
}

static void run_ggml(const char *base, const tokenizer *t) {
    char path[256];
    strbuf in = {0}, out = {0};
    error err;
    snprintf(path, sizeof path, "%s.inp", base);
    status st = file_read(path, (size_t)16 << 20, &in, &err);
    snprintf(path, sizeof path, "%s.out", base);
    if (st == OK) st = file_read(path, (size_t)16 << 20, &out, &err);
    if (st == OK)
        run_ggml_texts(base, t, strbuf_str(&in), strbuf_str(&out));
    else
        n_skipped++;
    strbuf_done(&in);
    strbuf_done(&out);
}

/* Their ids hold the special tokens; decoded is of those. */
static void run_js(const char *path, const tokenizer *t) {
    json_t *file, *c;
    size_t i;
    error err;
    int bad = 0;
    if (js_parse_file(path, (size_t)16 << 20, &file, &err) != OK) {
        n_skipped++;
        return;
    }
    json_t *cases = js_get(file, "cases");
    json_array_foreach(cases, i, c) {
        if (js_get(c, "text_pair")) continue; /* we encode single texts */
        json_t *want = json_pack("{s:i,s:O}", "id", (int)i, "ids_special", js_get(c, "ids"));
        bad += !golden_check(path, t, js_get_str(c, "text"), want);
        json_decref(want);
    }
    result(path, bad, (int)json_array_size(cases));
    json_decref(file);
}

static void run(const char *file, const char *path,
                void (*compare)(const char *, const tokenizer *)) {
    tokenizer *t;
    error err;
    if (!file_exists(path)) {
        n_skipped++;
        return;
    }
    if (tokenizer_open(path, NULL, &t, &err) != OK) {
        printf("FAIL %s\n", err.text);
        n_failed++;
        return;
    }
    compare(file, t);
    tokenizer_free(t);
}

int main(void) {
    if (!dir_exists(DATA)) {
        printf("SKIP: " DATA " is absent\n");
        return 77;
    }
    for (size_t i = 0; i < ARRAY_LEN(ggml); i++) run(ggml[i][0], ggml[i][1], run_ggml);
    for (size_t i = 0; i < ARRAY_LEN(gguf); i++) run(gguf[i], gguf[i], run_ggml);
    for (size_t i = 0; i < ARRAY_LEN(js); i++) run(js[i][0], js[i][1], run_js);
    printf("%d passed, %d failed, %d skipped\n", n_passed, n_failed, n_skipped);
    return n_failed > 0;
}
