/* Which reader a path gets: a directory by the files in it, a file by its name and first bytes. */
#include <unistd.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/gguf_tok.h"
#include "tokenizer/tok.h"

static bool ends(const char *path, const char *suffix) {
    return str_ends(str_z(path), str_z(suffix));
}

/* The base64 of a rank file against protobuf's first field tag or JSON's brace. */
static bool looks_like_ranks(str text) {
    size_t i = 0;
    while (i < text.n && i < 256 && text.p[i] != ' ' && text.p[i] != '\n') {
        char c = text.p[i++];
        bool b64 = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
                   c == '+' || c == '/' || c == '=';
        if (!b64) return false;
    }
    return i > 0 && i < text.n && text.p[i] == ' ';
}

static status open_text(const char *path, str text, const tokenizer_options *o, tokenizer **ret,
                        error *err) {
    const char *pre = o ? o->pretokenizer : NULL;
    size_t i = 0;
    while (i < text.n && strchr(" \t\r\n", text.p[i]) && text.p[i]) i++;
    status st;
    if (i < text.n && text.p[i] == '{')
        st = hf_open(text, ret, err);
    else if (looks_like_ranks(text))
        st = tiktoken_open(text, pre, ret, err);
    else
        st = spm_open(text, ret, err);
    if (st != OK) error_prefix(err, "%s", path);
    return st;
}

static status open_file(const char *path, const tokenizer_options *o, tokenizer **ret, error *err) {
    if (gguf_magic(path)) return gguf_tok_open(path, ret, err);
    strbuf b = {0};
    status st = file_read(path, LIMIT_TOKENIZER_BYTES, &b, err);
    if (st == OK) st = open_text(path, strbuf_str(&b), o, ret, err);
    strbuf_done(&b);
    return st;
}

static status open_pair(const char *vocab_path, const char *merges_path, tokenizer **ret,
                        error *err) {
    strbuf v = {0}, m = {0};
    status st = file_read(vocab_path, LIMIT_TOKENIZER_BYTES, &v, err);
    if (st == OK) st = file_read(merges_path, LIMIT_TOKENIZER_BYTES, &m, err);
    if (st == OK) {
        st = gpt2files_open(strbuf_str(&v), strbuf_str(&m), ret, err);
        if (st != OK) error_prefix(err, "%s", vocab_path);
    }
    strbuf_done(&v);
    strbuf_done(&m);
    return st;
}

/* Rank files under a name of their own, where there is no tokenizer.model. */
static const char *const rank_files[] = {"qwen.tiktoken", "cl100k_base.tiktoken"};

/* The split pattern of a directory's rank file by config.json's model_type; NULL: not known. */
static const char *pretokenizer_of(const char *dir) {
    static const char *const types[][2] = {
        {"qwen", "qwen2"},       {"qwen2", "qwen2"},   {"chatglm", "glm4"},  {"glm", "glm4"},
        {"glm4", "glm4"},        {"llama", "llama3"},  {"llama4", "llama4"}, {"mllama", "llama3"},
        {"phi3small", "cl100k"}, {"gpt_oss", "o200k"},
    };
    char *path = path_join(dir, "config.json");
    json_t *config = NULL;
    const char *found = NULL;
    if (file_exists(path) && js_parse_file(path, LIMIT_CONFIG_BYTES, &config, NULL) == OK)
        for (size_t i = 0; i < ARRAY_LEN(types); i++)
            if (str_eqz(js_get_str(config, "model_type"), types[i][0])) found = types[i][1];
    json_decref(config);
    mem_free(path);
    return found;
}

static status open_dir(const char *dir, const tokenizer_options *o, tokenizer **ret, error *err) {
    char *json = path_join(dir, "tokenizer.json"), *spm = path_join(dir, "tokenizer.model"),
         *pieces = path_join(dir, "vocab.json"), *merges = path_join(dir, "merges.txt");
    status st;
    bool complete = true, bos_default = false;
    tokenizer_options by_config = {.pretokenizer = o ? o->pretokenizer : NULL};
    if (!by_config.pretokenizer) by_config.pretokenizer = pretokenizer_of(dir);
    o = &by_config;
    if (file_exists(json)) {
        complete = false;
        st = open_file(json, o, ret, err);
    } else if (file_exists(spm)) {
        bos_default = true;
        st = open_file(spm, o, ret, err);
    } else if (file_exists(pieces) && file_exists(merges))
        st = open_pair(pieces, merges, ret, err);
    else {
        st = ERR_NOT_FOUND;
        for (size_t i = 0; st == ERR_NOT_FOUND && i < ARRAY_LEN(rank_files); i++) {
            char *p = path_join(dir, rank_files[i]);
            if (file_exists(p)) st = open_file(p, o, ret, err);
            mem_free(p);
        }
        if (st == ERR_NOT_FOUND)
            st = error_set(err, ERR_NOT_FOUND,
                           "%s: no tokenizer.json, tokenizer.model, or vocab.json with merges.txt",
                           dir);
    }
    if (st == OK) {
        st = tok_config(*ret, dir, complete, bos_default, err);
        if (st != OK) {
            tokenizer_free(*ret);
            *ret = NULL;
        }
    }
    mem_free(json);
    mem_free(spm);
    mem_free(pieces);
    mem_free(merges);
    return st;
}

/* The directory of a file, in fresh memory. */
static char *dir_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return mem_strdup(".");
    size_t n = (size_t)(slash - path);
    char *dir = mem_alloc(n + 2);
    memcpy(dir, path, n ? n : 1);
    dir[n ? n : 1] = 0;
    return dir;
}

status tokenizer_open(const char *path, const tokenizer_options *o, tokenizer **ret, error *err) {
    tokenizer *t = NULL;
    if (dir_exists(path)) {
        TRY(open_dir(path, o, &t, err));
    } else if (ends(path, "vocab.json")) {
        char *dir = dir_of(path), *merges = path_join(dir, "merges.txt");
        status st = open_pair(path, merges, &t, err);
        mem_free(dir);
        mem_free(merges);
        TRY(st);
    } else {
        TRY(open_file(path, o, &t, err));
        if (ends(path, "tokenizer.json")) {
            char *dir = dir_of(path);
            status st = tok_config(t, dir, false, false, err);
            mem_free(dir);
            if (st != OK) {
                tokenizer_free(t);
                return st;
            }
        }
    }
    *ret = t;
    return OK;
}
