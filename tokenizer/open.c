/* Which reader a path gets: a directory by the files in it, a file by its name and first bytes. */
#include <dirent.h>

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"
#include "tokenizer/bert.h"
#include "tokenizer/gguf_tok.h"
#include "tokenizer/spm.h"

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

/* The last component begins with `prefix` and ends with `suffix`. */
static bool named(const char *path, const char *prefix, const char *suffix) {
    str base = path_base(path);
    return str_starts(base, str_z(prefix)) && str_ends(base, str_z(suffix));
}

static status open_text(const char *path, str text, const tokenizer_options *o, tokenizer **ret,
                        error *err) {
    const char *pre = o ? o->pretokenizer : NULL;
    size_t i = 0;
    while (i < text.n && strchr(" \t\r\n", text.p[i]) && text.p[i]) i++;
    status st;
    if (named(path, "tekken", ".json"))
        st = tekken_open(text, ret, err);
    else if (named(path, "rwkv_vocab", ".txt"))
        st = rwkv_open(text, ret, err);
    else if (named(path, "vocab", ".txt"))
        st = bert_open(text, NULL, ret, err);
    else if (i < text.n && text.p[i] == '{')
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

/* ---- directories ---- */

typedef struct dir_ctx {
    const tok_files *files;
    tokenizer_options options;
    tokenizer *t;
} dir_ctx;

static status dir_plain(const char *path, dir_ctx *c, error *err) {
    TRY(open_file(path, &c->options, &c->t, err));
    return tok_config(c->t, c->files, TOK_CONFIG_ENDS, err);
}

static status dir_pair(const char *path, dir_ctx *c, error *err) {
    char *merges = path_join(c->files->dir, "merges.txt");
    status st = open_pair(path, merges, &c->t, err);
    mem_free(merges);
    return st == OK ? tok_config(c->t, c->files, TOK_CONFIG_ALL, err) : st;
}

/* Readers that look at the directory's settings themselves. */
typedef status (*text_reader)(str text, const json_t *config, tokenizer **ret, error *err);

static status fairseq_open(str text, const json_t *config, tokenizer **ret, error *err) {
    TRY(spm_open_as(text, SPM_IDS_FAIRSEQ, 0, ret, err));
    tokenizer *t = *ret;
    int32_t begin = vocab_id(&t->pieces, STR("<s>")), end = vocab_id(&t->pieces, STR("</s>"));
    if (begin >= 0) vec_push(&t->before, begin);
    if (end >= 0) vec_push(&t->after, end);
    return tok_add(
        t,
        &(added_spec){.id = t->pieces.n, .content = STR("<mask>"), .special = true, .lstrip = true},
        err);
}

static status dir_read(const char *path, text_reader read, dir_ctx *c, error *err) {
    strbuf b = {0};
    TRY(file_read(path, LIMIT_TOKENIZER_BYTES, &b, err));
    status st = read(strbuf_str(&b), c->files->config, &c->t, err);
    strbuf_done(&b);
    if (st != OK) error_prefix(err, "%s", path);
    return st == OK ? tok_config(c->t, c->files, TOK_CONFIG_ALL, err) : st;
}

static status dir_bert(const char *path, dir_ctx *c, error *err) {
    return dir_read(path, bert_open, c, err);
}
static status dir_glm6b(const char *path, dir_ctx *c, error *err) {
    return dir_read(path, glm6b_open, c, err);
}
static status dir_fairseq(const char *path, dir_ctx *c, error *err) {
    return dir_read(path, fairseq_open, c, err);
}

/* tokenizer.model: SentencePiece's or a rank file. */
static status dir_model(const char *path, dir_ctx *c, error *err) {
    TRY(open_file(path, &c->options, &c->t, err));
    int32_t n = c->t->pieces.n;
    bool ranks = c->t->raw_is_stored,
         glm = !ranks && tok_files_say(c->files, "ChatGLMTokenizer", "chatglm");
    TRY(tok_config(c->t, c->files, ranks || glm ? TOK_CONFIG_ALL : TOK_CONFIG_ALL_BOS, err));
    if (ranks) return rank_specials(c->t, c->files, n, err);
    if (!js_get_bool(c->files->config, "legacy", true)) TRY(spm_prefix_first(c->t, err));
    return glm ? glm2_specials(c->t, err) : OK;
}

/* In the order in which they are looked for: the more a file says, the earlier. */
static const struct {
    const char *name, *with; /* with: another file that must be there */
    status (*open)(const char *path, dir_ctx *c, error *err);
} dir_files[] = {
    {"tokenizer.json", NULL, dir_plain},
    {"tekken.json", NULL, dir_plain},
    {"ice_text.model", NULL, dir_glm6b},
    {"tokenizer.model", NULL, dir_model},
    {"sentencepiece.bpe.model", NULL, dir_fairseq},
    {"vocab.json", "merges.txt", dir_pair},
    {"qwen.tiktoken", NULL, dir_model},
    {"cl100k_base.tiktoken", NULL, dir_model},
    {"o200k_base.tiktoken", NULL, dir_model},
    {"rwkv_vocab_v20230424.txt", NULL, dir_plain},
    {"vocab.txt", NULL, dir_bert},
};

/* The first file of the directory that ends with .gguf, as a path (mem_free); NULL: none. */
static char *gguf_in(const char *dir) {
    char *best = NULL;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!ends(e->d_name, ".gguf") || (best && strcmp(e->d_name, best) > 0)) continue;
        mem_free(best);
        best = mem_strdup(e->d_name);
    }
    if (d) closedir(d);
    char *path = best ? path_join(dir, best) : NULL;
    mem_free(best);
    return path;
}

static status open_any(dir_ctx *c, error *err) {
    const char *dir = c->files->dir;
    for (size_t i = 0; i < ARRAY_LEN(dir_files); i++) {
        char *path = path_join(dir, dir_files[i].name),
             *with = path_join(dir, dir_files[i].with ? dir_files[i].with : dir_files[i].name);
        bool there = file_exists(path) && file_exists(with);
        status st = there ? dir_files[i].open(path, c, err) : OK;
        mem_free(path);
        mem_free(with);
        if (there) return st;
    }
    char *path = gguf_in(dir);
    status st = path ? gguf_tok_open(path, &c->t, err)
                     : error_set(err, ERR_NOT_FOUND,
                                 "%s: no tokenizer.json, tokenizer.model, or vocab.json with "
                                 "merges.txt (nor tekken.json, *.tiktoken, vocab.txt, *.gguf)",
                                 dir);
    mem_free(path);
    return st;
}

static status open_dir(const char *dir, const tokenizer_options *o, tokenizer **ret, error *err) {
    tok_files files;
    TRY(tok_files_load(dir, &files, err));
    dir_ctx c = {.files = &files, .options.pretokenizer = o ? o->pretokenizer : NULL};
    if (!c.options.pretokenizer) c.options.pretokenizer = rank_pattern(&files);
    status st = open_any(&c, err);
    tok_files_done(&files);
    if (st != OK) {
        tokenizer_free(c.t);
        return st;
    }
    *ret = c.t;
    return OK;
}

static char *dir_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash) return mem_strdup(".");
    size_t n = (size_t)(slash - path);
    char *dir = mem_alloc(n + 2);
    memcpy(dir, path, n ? n : 1);
    dir[n ? n : 1] = 0;
    return dir;
}

/* A tokenizer.json or one half of a pair, named by itself: what lies beside it is read too. */
static status open_named(const char *path, const tokenizer_options *o, dir_ctx *c, error *err) {
    char *dir = dir_of(path);
    tok_files files;
    status st = tok_files_load(dir, &files, err);
    c->files = &files;
    if (st == OK) st = ends(path, "vocab.json") ? dir_pair(path, c, err) : dir_plain(path, c, err);
    tok_files_done(&files);
    mem_free(dir);
    return st;
}

status tokenizer_open(const char *path, const tokenizer_options *o, tokenizer **ret, error *err) {
    dir_ctx c = {.options.pretokenizer = o ? o->pretokenizer : NULL};
    if (dir_exists(path)) return open_dir(path, o, ret, err);
    status st = ends(path, "vocab.json") || ends(path, "tokenizer.json")
                    ? open_named(path, o, &c, err)
                    : open_file(path, o, &c.t, err);
    if (st != OK) {
        tokenizer_free(c.t);
        return st;
    }
    *ret = c.t;
    return OK;
}
