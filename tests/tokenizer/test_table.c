/* Vocabularies from one container into the other and back: GGUF -> files of a directory -> table ->
 * GGUF, and the other way round. At every station the tokenizer gives the ids of the first one, on
 * real texts. The real vocabularies are in ../shared/data, read in place; our small fixtures are
 * always there, some of which GGUF has no word for: those say so.
 *
 * test_table FROM TO writes FROM's tokenizer to TO (a directory, or NAME.gguf without tensors): for
 * looking at it with other programs. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "server/cmd_convert_tok.h"

#define DATA     "../shared/data/tokenizers/"
#define GGML     DATA "ggml-vocab/ggml-vocab-"
#define FIXTURES "tests/tokenizer/fixtures/"

static const char *const texts[] = {
    "../shared/data/tokenizers/ggml-vocab/ggml-vocab-gpt-2.gguf.inp", "engine/README.md",
    "tokenizer/gguf_pre.c", "conf/demo-model/train/stories.py"};

static int n_ok, n_failed, n_skipped;

static bool fail(const char *name, const char *what) {
    printf("FAIL %s: %s\n", name, what);
    n_failed++;
    return false;
}

static bool same_text(const tokenizer *a, const tokenizer *b, str text) {
    vec_i32 x = {0}, y = {0};
    error err;
    bool same = tokenizer_encode(a, text, ENCODE_SPECIAL, 0, &x, &err) == OK &&
                tokenizer_encode(b, text, ENCODE_SPECIAL, 0, &y, &err) == OK && x.n == y.n &&
                (x.n == 0 || memcmp(x.p, y.p, x.n * sizeof *x.p) == 0);
    strbuf s = {0}, t = {0};
    tokenizer_decode(a, x.p, x.n, false, &s);
    tokenizer_decode(b, y.p, y.n, false, &t);
    /* GGUF has no word for a WordPiece decoder without clean-up */
    bool words = strcmp(tokenizer_kind(a), "wordpiece") == 0;
    same = same && (words || str_eq(strbuf_str(&s), strbuf_str(&t)));
    strbuf_done(&s);
    strbuf_done(&t);
    vec_done(&x);
    vec_done(&y);
    return same;
}

/* A Unigram's scores have fewer digits in GGUF: so many lines of a file may hold a near tie. */
#define TIES 2

/* Line by line, so that an error can be shown; and the whole. */
static bool same_file(const char *name, const tokenizer *a, const tokenizer *b, const char *path) {
    strbuf text = {0};
    int n_differ = 0, allowed = strcmp(tokenizer_kind(a), "unigram") == 0 ? TIES : 0;
    if (!file_exists(path) || file_read(path, 1 << 24, &text, NULL) != OK) return true;
    for (size_t at = 0; at < text.n && n_differ <= allowed;) {
        ptrdiff_t nl = str_find(strbuf_str(&text), STR("\n"), at);
        size_t end = nl < 0 ? text.n : (size_t)nl + 1;
        str line = str_cut(strbuf_str(&text), at, end);
        if (!same_text(a, b, line)) {
            printf("     differs: " STR_FMT, STR_ARG(line));
            n_differ++;
        }
        at = end;
    }
    bool same = n_differ <= allowed && (allowed || same_text(a, b, strbuf_str(&text)));
    strbuf_done(&text);
    return same ? true : fail(name, path);
}

static bool same(const char *name, const tokenizer *a, const char *path) {
    tokenizer *b = NULL;
    error err;
    if (tokenizer_open(path, NULL, &b, &err) != OK) return fail(name, err.text);
    /* what BERT puts in front is no bos in its files */
    bool words = strcmp(tokenizer_kind(a), "wordpiece") == 0,
         ok = words || tokenizer_bos(a) == tokenizer_bos(b) || tokenizer_bos(a) < 0;
    if (!ok) fail(name, "another bos");
    for (size_t i = 0; ok && i < ARRAY_LEN(texts); i++) ok = same_file(name, a, b, texts[i]);
    tokenizer_free(b);
    return ok;
}

static bool write_gguf(const char *name, const tok_table *t, const char *path) {
    gguf_writer g = {0};
    error err;
    gguf_put_str(&g, "general.architecture", STR("llama"));
    gguf_put_str(&g, "general.name", str_z(name));
    convert_put_table(t, &g);
    status st = gguf_write(path, &g, NULL, 0, NULL, NULL, &err);
    gguf_writer_done(&g);
    return st == OK ? true : fail(name, err.text);
}

static bool to_files(const char *name, const char *from, const char *dir) {
    tok_files_text f;
    error err;
    if (mkdir(dir, 0755) != 0) return fail(name, "cannot make a directory");
    status st = convert_make_files(from, &f, &err);
    if (st == OK) {
        st = convert_write_files(&f, dir, &err);
        tok_files_text_done(&f);
    }
    return st == OK ? true : fail(name, err.text);
}

static bool to_gguf(const char *name, const char *dir, const char *file) {
    tok_table t;
    error err;
    if (tok_table_of_dir(dir, 0, &t, &err) != OK) return fail(name, err.text);
    bool ok = write_gguf(name, &t, file);
    tok_table_done(&t);
    return ok;
}

static void clean(const char *dir) {
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    if (system(command) != 0) printf("cannot remove %s\n", dir);
}

/* A tokenizer at `path` (a GGUF file or a directory): twice into the other container, and back. */
static void round_trip(const char *path) {
    char tmp[] = "/tmp/pagoda-table-XXXXXX", dir[64], file[64], again[64];
    tokenizer *t = NULL;
    error err;
    bool is_file = str_ends(str_z(path), STR(".gguf"));
    if (!file_exists(path) && !dir_exists(path)) {
        n_skipped++;
        printf("skip %s: it is not there\n", path);
        return;
    }
    if (!mkdtemp(tmp) || tokenizer_open(path, NULL, &t, &err) != OK) {
        fail(path, err.text);
        return;
    }
    snprintf(dir, sizeof dir, "%s/dir", tmp);
    snprintf(file, sizeof file, "%s/again.gguf", tmp);
    snprintf(again, sizeof again, "%s/again", tmp);
    bool ok = is_file ? to_files(path, path, dir) && same(path, t, dir) &&
                            to_gguf(path, dir, file) && same(path, t, file)
                      : to_gguf(path, path, file) && same(path, t, file) &&
                            to_files(path, file, again) && same(path, t, again);
    tokenizer_free(t);
    clean(tmp);
    if (!ok) return;
    printf("ok   %s\n", path);
    n_ok++;
}

/* A fixture in a directory of its own: a round trip, or an error that contains `refused`. */
static void fixture(const char *name, const char *refused) {
    char tmp[] = "/tmp/pagoda-table-XXXXXX", path[96];
    strbuf text = {0};
    error err;
    snprintf(path, sizeof path, FIXTURES "%s.json", name);
    if (!mkdtemp(tmp) || file_read(path, 1 << 24, &text, &err) != OK) {
        fail(name, err.text);
        return;
    }
    snprintf(path, sizeof path, "%s/tokenizer.json", tmp);
    if (file_write_atomic(path, strbuf_str(&text), &err) != OK) fail(name, err.text);
    if (!refused) {
        round_trip(tmp);
    } else {
        tok_table t;
        status st = tok_table_of_dir(tmp, 0, &t, &err);
        if (st == OK) tok_table_done(&t);
        if (st == OK || !strstr(err.text, refused) || !strstr(err.text, tmp))
            fail(name, st == OK ? "it should be refused" : err.text);
        else
            n_ok++;
    }
    strbuf_done(&text);
    clean(tmp);
}

static void rows_are_filled(void) {
    tok_table t;
    error err;
    if (tok_table_of_dir("conf/demo-model", 0, &t, &err) != OK) {
        fail("rows", err.text);
        return;
    }
    int32_t n = t.n;
    tok_table_done(&t);
    if (tok_table_of_dir("conf/demo-model", n + 3, &t, &err) != OK) {
        fail("rows", err.text);
        return;
    }
    if (t.n != n + 3 || t.types[n + 2] != 5 || !t.pieces[n].n) fail("rows", "no filler");
    tok_table_done(&t);
    if (tok_table_of_dir("conf/demo-model", n - 1, &t, &err) == OK) {
        tok_table_done(&t);
        fail("rows", "more tokens than rows should be refused");
    }
}

static int write_one(const char *from, const char *to) {
    bool gguf_out = str_ends(str_z(to), STR(".gguf"));
    return (gguf_out ? to_gguf(from, from, to) : to_files(from, from, to)) ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc == 3) return write_one(argv[1], argv[2]);
    static const char *const ggufs[] = {
        GGML "baichuan.gguf",       GGML "bert-bge.gguf",
        GGML "deepseek-coder.gguf", GGML "falcon.gguf",
        GGML "gpt-2.gguf",          GGML "deepseek-llm.gguf",
        GGML "llama-spm.gguf",      GGML "mpt.gguf",
        GGML "phi-3.gguf",          GGML "refact.gguf",
        GGML "starcoder.gguf",      DATA "ggml-vocab/history/ggml-vocab-dbrx.gguf",
    };
    static const char *const dirs[] = {
        DATA "derived/bert-base-uncased",

        DATA "derived/llama-2",
        DATA "derived/llama-3",
        DATA "derived/qwen2.5",

        DATA "llama-2",
        DATA "phi-3-mini",
        DATA "roberta-base",
        DATA "gpt2",
        DATA "t5-small",
        "conf/demo-model",
    };
    for (size_t i = 0; i < ARRAY_LEN(ggufs); i++) round_trip(ggufs[i]);
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++) round_trip(dirs[i]);
    fixture("byte_level", "GGUF has no name for the split");
    fixture("spm_like", NULL);
    fixture("metaspace_first", "\"NFKC\"");
    fixture("unigram_bytes", "\"NFKC\"");
    fixture("word_piece_lower", NULL);
    fixture("word_piece_cased", NULL);
    fixture("prefix_bpe", "continuing_subword_prefix");
    fixture("clip_like", "end_of_word_suffix");
    rows_are_filled();
    printf("%d round trips, %d failed, %d skipped\n", n_ok, n_failed, n_skipped);
    return n_failed ? 1 : 0;
}
