/* The tokenizer's interface on the small tokenizers of tests/tokenizer/fixtures, and small files
 * written here: flags, bounds, damaged files, the detokeniser's property. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/rng.h"
#include "engine/base/thread.h"
#include "tokenizer/detok.h"
#include "tokenizer/jscan.h"
#include "tokenizer/tok.h"
#include "tokenizer/unorm.h"
#include "tests/unit/suite.h"

#define DIR "tests/tokenizer/fixtures/"

static const char *const files[] = {
    DIR "byte_level.json",      DIR "spm_like.json",         DIR "metaspace_first.json",
    DIR "metaspace_never.json", DIR "word_piece_lower.json", DIR "word_piece_cased.json",
    DIR "unigram_bytes.json",   DIR "clip_like.json",        DIR "prefix_bpe.json",
    DIR "splits_4.json",
};

static tokenizer *open_ok(const char *path) {
    tokenizer *t = NULL;
    error err;
    ck_assert_msg(tokenizer_open(path, NULL, &t, &err) == OK, "%s", err.text);
    return t;
}

static void expect(const tokenizer *t, const char *text, unsigned flags, const char *pieces) {
    vec_i32 ids = {0};
    strbuf b = {0};
    error err;
    ck_assert(tokenizer_encode(t, str_z(text), flags, 0, &ids, &err) == OK);
    for (size_t i = 0; i < ids.n; i++) {
        if (i) strbuf_addc(&b, '|');
        strbuf_add(&b, tokenizer_piece(t, ids.p[i]));
    }
    ck_assert_str_eq(b.p ? b.p : "", pieces);
    strbuf_done(&b);
    vec_done(&ids);
}

START_TEST(added_tokens_follow_their_flags) {
    tokenizer *t = open_ok(DIR "byte_level.json");
    expect(t, "page", ENCODE_SPECIAL, "<|begin|>|page|<|end|>");
    expect(t, "page", ENCODE_PLAIN, "page");
    expect(t, "  <mask>", ENCODE_PLAIN, "<mask>");             /* lstrip */
    expect(t, "<r> \n <r>", ENCODE_PLAIN, "<r>|<r>");          /* rstrip */
    expect(t, "e\xCC\x81", ENCODE_PLAIN, "\xC3\x83|\xC2\xA9"); /* NFC, then bytes */
    vec_i32 a = {0}, b = {0};
    error err;
    ck_assert(tokenizer_encode(t, STR("<|end|>"), ENCODE_NO_ADDED, 0, &a, &err) == OK && a.n > 1);
    ck_assert(tokenizer_encode(t, STR("pages"), ENCODE_PLAIN, 0, &b, &err) == OK);
    ck_assert(b.p[0] != tokenizer_id(t, STR("page"))); /* single_word */
    ck_assert(tokenizer_is_special(t, tokenizer_id(t, STR("<|end|>"))));
    ck_assert(!tokenizer_is_special(t, tokenizer_id(t, STR("page"))));
    ck_assert(!tokenizer_is_special(t, -1) && !tokenizer_is_special(t, 1 << 30));
    vec_done(&a);
    vec_done(&b);
    tokenizer_free(t);
}
END_TEST

START_TEST(invalid_utf8_becomes_replacement) {
    tokenizer *t = open_ok(DIR "byte_level.json");
    vec_i32 a = {0}, b = {0};
    error err;
    ck_assert(tokenizer_encode(t, STR("x\xFFy\xE4\xB8z\xED\xA0\x80"), 0, 0, &a, &err) == OK);
    ck_assert(
        tokenizer_encode(t, STR("x\xEF\xBF\xBDy\xEF\xBF\xBDz\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"),
                         0, 0, &b, &err) == OK);
    ck_assert(a.n == b.n && memcmp(a.p, b.p, a.n * sizeof *a.p) == 0);
    vec_done(&a);
    vec_done(&b);
    tokenizer_free(t);
}
END_TEST

/* For random ids: the pieces of every prefix concatenate to its decode, whatever came before. */
START_TEST(stream_equals_decode) {
    tokenizer *t = open_ok(files[_i]);
    uint64_t draw = 0;
    for (int round = 0; round < 300; round++) {
        strbuf whole = {0}, pieces = {0};
        vec_i32 ids = {0};
        int n = (int)(rng_uniform(7, draw++, 0) * 24);
        int32_t range = round % 2 ? tokenizer_vocab(t) : MIN(tokenizer_vocab(t), 280);
        bool skip = round % 3 == 0;
        for (int i = 0; i < n; i++)
            vec_push(&ids, (int32_t)(rng_uniform(7, draw++, 0) * (range + 1)) - (i % 7 == 6));
        detok *d = detok_new(t, skip);
        for (size_t i = 0; i < ids.n; i++) detok_push(d, ids.p[i], &pieces);
        tokenizer_decode(t, ids.p, ids.n, skip, &whole);
        ck_assert(str_starts(strbuf_str(&whole), strbuf_str(&pieces)));
        detok_flush(d, &pieces);
        detok_free(d);
        ck_assert(str_eq(strbuf_str(&whole), strbuf_str(&pieces)));
        strbuf_done(&whole);
        strbuf_done(&pieces);
        vec_done(&ids);
    }
    tokenizer_free(t);
}
END_TEST

START_TEST(context_keeps_the_space) {
    tokenizer *t = open_ok(DIR "spm_like.json");
    int32_t the = tokenizer_id(t, STR("\u2581plan")), byte = tokenizer_id(t, STR("<0xF0>"));
    ck_assert(the >= 0 && byte >= 0);
    strbuf out = {0};
    detok *d = detok_new(t, true);
    detok_push(d, the, &out);
    ck_assert_str_eq(out.p, "plan");
    detok_free(d);
    strbuf_clear(&out);
    d = detok_new(t, true);
    detok_context(d, &the, 1);
    detok_push(d, the, &out);
    ck_assert_str_eq(out.p, " plan");
    detok_free(d);
    /* A whole character of byte tokens at the end of the prompt is not said again. */
    int32_t smile[4];
    static const char *const names[] = {"<0xF0>", "<0x9F>", "<0x98>", "<0x80>"};
    for (int i = 0; i < 4; i++) smile[i] = tokenizer_id(t, str_z(names[i]));
    strbuf_clear(&out);
    d = detok_new(t, true);
    detok_context(d, smile, 4);
    detok_push(d, the, &out);
    detok_flush(d, &out);
    ck_assert_str_eq(out.p, " plan");
    detok_free(d);
    /* Half of one is completed. */
    strbuf_clear(&out);
    d = detok_new(t, true);
    detok_context(d, smile, 2);
    detok_push(d, smile[2], &out);
    detok_push(d, smile[3], &out);
    detok_push(d, the, &out);
    ck_assert_str_eq(out.p, "\xF0\x9F\x98\x80 plan");
    detok_free(d);
    strbuf_done(&out);
    tokenizer_free(t);
}
END_TEST

START_TEST(token_bytes) {
    tokenizer *t = open_ok(DIR "spm_like.json");
    strbuf b = {0};
    tokenizer_bytes(t, tokenizer_id(t, STR("<0x0A>")), &b);
    tokenizer_bytes(t, tokenizer_id(t, STR("\u2581plan")), &b);
    ck_assert_str_eq(b.p, "\n plan");
    tokenizer_free(t);
    t = open_ok(DIR "byte_level.json");
    strbuf_clear(&b);
    tokenizer_bytes(t, tokenizer_id(t, STR("\xC4\x8A")), &b); /* "Ċ" */
    ck_assert_str_eq(b.p, "\n");
    tokenizer_bytes(t, 1 << 20, &b);
    ck_assert(b.n == 1 && !tokenizer_piece(t, -1).p && tokenizer_id(t, STR("no such")) == -1);
    strbuf_done(&b);
    tokenizer_free(t);
}
END_TEST

static void refuse(const char *text, const char *why) {
    tokenizer *t = NULL;
    error err = {0};
    ck_assert_msg(hf_open(str_z(text), &t, &err) != OK && !t, "%s", text);
    ck_assert_msg(strstr(err.text, why) != NULL, "%s: %s", text, err.text);
}

START_TEST(damaged_files_are_refused_by_name) {
    refuse("{", "tokenizer.json");
    refuse("{}", "model");
    refuse("{\"model\":{\"type\":\"Magic\",\"vocab\":{}}}", "Magic");
    refuse("{\"model\":{\"type\":\"BPE\"}}", "vocab");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "id -1");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999},\"merges\":[]}}", "99999999");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}", "merges[0]");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", "two tokens");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", "expected");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}}",
           "unk_token");
    refuse("{\"normalizer\":{\"type\":\"Foo\"},\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", "Foo");
    refuse("{\"pre_tokenizer\":{\"type\":\"Foo\"},\"model\":{\"type\":\"BPE\",\"vocab\":{}}}",
           "Foo");
    refuse("{\"decoder\":{\"type\":\"Blur\"},\"model\":{\"type\":\"BPE\",\"vocab\":{}}}", "Blur");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\\ud800\":0},\"merges\":[]}}", "surrogate");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"dropout\":0.5}}", "dropout");
    refuse("{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
           "{\"type\":\"Metaspace\"}]},\"model\":{\"type\":\"BPE\",\"vocab\":{}}}",
           "Metaspace behind");
    refuse("{\"pre_tokenizer\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"WordLevel\","
           "\"vocab\":{\"a\":0}}}",
           "ByteLevel");
    refuse("{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"end_of_word_suffix\":"
           "\"0123456789012345678901234567890\"}}",
           "30 bytes");
    refuse("{\"x\":\"\xFF\"}", "UTF-8");
}
END_TEST

/* Odd vocabularies, with the ids of the reference (tokenizers 0.23). */
static const struct {
    const char *what, *file, *text;
    int n;
    int32_t ids[10];
} odd[] = {
    {"a string listed twice counts as last listed; two strings with one id are both known",
     "{'model':{'type':'BPE','unk_token':'?','vocab':{'?':0,'a':1,'b':2,'c':3,'ab':4,'abc':5,"
     "'':5,'z':6,'z':7},'merges':['a b','ab c']}}",
     "abcab?aabcz",
     6,
     {5, 4, 0, 1, 5, 7}},
    {"the unknown token is merged like any other",
     "{'model':{'type':'BPE','unk_token':'e','vocab':{'e':0,'0':1,'e0':2,'b':3},"
     "'merges':['e 0']}}",
     ">b>0c",
     4,
     {0, 3, 2, 0}},
    {"unknown bytes fuse",
     "{'pre_tokenizer':{'type':'ByteLevel','add_prefix_space':false},'model':{'type':'BPE',"
     "'unk_token':'?','fuse_unk':true,'vocab':{'?':0,'a':1,'\u0120':2,'b':3,'ab':4},"
     "'merges':['a b']}}",
     "ab \u00e9a?\u00e9b ab",
     9,
     {4, 2, 0, 1, 0, 0, 3, 2, 4}},
    {"white space that one added token took is not another's",
     "{'added_tokens':[{'id':2,'content':' ','lstrip':true,'rstrip':true,'special':true}],"
     "'model':{'type':'BPE','vocab':{'a':0,'b':1},'merges':[]}}",
     "a   b",
     3,
     {0, 2, 1}},
    {"prefix and suffix fall back to bytes too",
     "{'model':{'type':'BPE','unk_token':'?','byte_fallback':true,'end_of_word_suffix':'e',"
     "'continuing_subword_prefix':'#','vocab':{'?':0,'a':1,'#b':2,'abe':3,'#be':4,'<0x23>':5,"
     "'<0x7A>':6,'<0x65>':7},'merges':['a #be']}}",
     "abzzab",
     8,
     {1, 2, 5, 6, 5, 6, 0, 4}},
};

START_TEST(odd_vocabularies) {
    strbuf file = {0};
    tokenizer *t = NULL;
    vec_i32 ids = {0}, again = {0};
    token_spans spans = {0};
    error err;
    str text = str_z(odd[_i].text);
    size_t n = (size_t)odd[_i].n;
    for (const char *c = odd[_i].file; *c; c++) strbuf_addc(&file, *c == '\'' ? '"' : *c);
    ck_assert(hf_open(strbuf_str(&file), &t, &err) == OK);
    ck_assert(tokenizer_encode(t, text, 0, 0, &ids, &err) == OK);
    ck_assert(tokenizer_encode_spans(t, text, 0, 0, &again, &spans, &err) == OK);
    ck_assert_msg(ids.n == n && !memcmp(ids.p, odd[_i].ids, n * sizeof *ids.p), "%s", odd[_i].what);
    ck_assert_msg(again.n == n && !memcmp(again.p, odd[_i].ids, n * sizeof *ids.p), "%s: spans",
                  odd[_i].what);
    vec_done(&ids);
    vec_done(&again);
    vec_done(&spans);
    strbuf_done(&file);
    tokenizer_free(t);
}
END_TEST

START_TEST(rank_files) {
    char path[] = "/tmp/ranks-XXXXXX";
    int fd = mkstemp(path);
    ck_assert(fd >= 0);
    strbuf b = {0};
    static const char b64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 256; i++)
        strbuf_addf(&b, "%c%c== %d\r\n", b64[i >> 2], b64[(i & 3) << 4], i);
    strbuf_addz(&b, "YWI= 256\r\nYWJj 257\n"); /* ab, abc */
    error err;
    tokenizer *t = NULL;
    ck_assert(file_write_atomic(path, strbuf_str(&b), &err) == OK);
    ck_assert(tokenizer_open(path, NULL, &t, &err) != OK && strstr(err.text, "pre-tokenizer"));
    tokenizer_options o = {.pretokenizer = "nope"};
    ck_assert(tokenizer_open(path, &o, &t, &err) != OK && strstr(err.text, "nope"));
    o.pretokenizer = "cl100k";
    ck_assert_msg(tokenizer_open(path, &o, &t, &err) == OK, "%s", err.text);
    vec_i32 ids = {0};
    ck_assert(tokenizer_encode(t, STR("abcab <|x|>"), 0, 0, &ids, &err) == OK);
    ck_assert(ids.n == 2 + 6 && ids.p[0] == 257 && ids.p[1] == 256);
    ids.n = 0;
    tokenizer_free(t);
    close(fd);
    unlink(path);
    /* In a directory config.json chooses, and tokenizer_config.json adds tokens. */
    char dir[] = "/tmp/ranks-dir-XXXXXX", name[64];
    ck_assert(mkdtemp(dir) != NULL);
    snprintf(name, sizeof name, "%s/tokenizer.model", dir);
    ck_assert(file_write_atomic(name, strbuf_str(&b), &err) == OK);
    ck_assert(tokenizer_open(dir, NULL, &t, &err) != OK);
    snprintf(name, sizeof name, "%s/config.json", dir);
    ck_assert(file_write_atomic(name, STR("{\"model_type\":\"chatglm\"}"), &err) == OK);
    snprintf(name, sizeof name, "%s/tokenizer_config.json", dir);
    ck_assert(file_write_atomic(name,
                                STR("{\"added_tokens_decoder\":{\"300\":{\"content\":\"<|x|>\","
                                    "\"special\":true}},\"eos_token\":\"<|x|>\","
                                    "\"add_eos_token\":true}"),
                                &err) == OK);
    ck_assert_msg(tokenizer_open(dir, NULL, &t, &err) == OK, "%s", err.text);
    ck_assert(tokenizer_encode(t, STR("<|x|>abc"), ENCODE_SPECIAL, 0, &ids, &err) == OK);
    /* ChatGLM4's own tokens follow the ranks; [gMASK]<sop> goes in front */
    ck_assert(ids.n == 5 && ids.p[0] == 260 && ids.p[1] == 262);
    ck_assert(ids.p[2] == 300 && ids.p[3] == 257 && ids.p[4] == 300);
    ck_assert(tokenizer_id(t, STR("<|user|>")) == 258 + 7);
    ck_assert(tokenizer_eos(t) == 300 && tokenizer_bos(t) == -1 && tokenizer_vocab(t) == 301);
    tokenizer_free(t);
    unlink(name);
    snprintf(name, sizeof name, "%s/config.json", dir);
    unlink(name);
    snprintf(name, sizeof name, "%s/tokenizer.model", dir);
    unlink(name);
    rmdir(dir);
    vec_done(&ids);
    strbuf_done(&b);
}
END_TEST

static void *encode_many(void *arg) {
    const tokenizer *t = arg;
    uint64_t sum = 0;
    for (int i = 0; i < 3000; i++) {
        char text[64];
        vec_i32 ids = {0};
        error err;
        snprintf(text, sizeof text, "the page %d is swapped %d", i % 97, i % 31);
        if (tokenizer_encode(t, str_z(text), 0, 0, &ids, &err) != OK) return NULL;
        for (size_t k = 0; k < ids.n; k++) sum = sum * 31 + (uint64_t)ids.p[k];
        vec_done(&ids);
    }
    return (void *)(uintptr_t)(sum | 1);
}

START_TEST(threads_agree) {
    tokenizer *t = open_ok(DIR "byte_level.json");
    pthread_t th[4];
    void *got, *want = encode_many(t);
    for (int i = 0; i < 4; i++) th[i] = thread_start("encode", encode_many, t);
    for (int i = 0; i < 4; i++) {
        pthread_join(th[i], &got);
        ck_assert(got == want && got);
    }
    tokenizer_free(t);
}
END_TEST

START_TEST(normal_forms) {
    static const struct {
        unorm_form form;
        const char *in, *out;
    } cases[] = {
        {UNORM_NFC, "e\xCC\x81", "\xC3\xA9"},
        {UNORM_NFD, "\xC3\xA9", "e\xCC\x81"},
        {UNORM_NFC, "a\xCC\x81\xCC\xA3", "\xE1\xBA\xA1\xCC\x81"}, /* marks are reordered */
        {UNORM_NFKC, "\xEF\xAC\x81", "fi"},
        {UNORM_NFKD, "\xC2\xBD",
         "1\xE2\x81\x84"
         "2"},
        {UNORM_NFC, "\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"}, /* Hangul */
        {UNORM_NFC, "\xE2\x84\xAB", "\xC3\x85"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        strbuf b = {0};
        unorm(cases[i].form, str_z(cases[i].in), &b);
        ck_assert_str_eq(b.p, cases[i].out);
        strbuf_done(&b);
    }
    ck_assert(unorm_is_nfc_quick(STR("plain \xC3\xA9 \xE4\xB8\xAD")));
    ck_assert(!unorm_is_nfc_quick(STR("e\xCC\x81")));
}
END_TEST

/* NormalizationTest.txt (UAX #15): columns are source; NFC; NFD; NFKC; NFKD. */
static size_t column(str line, int n, strbuf *out) {
    size_t at = 0;
    for (int i = 0; i < n; i++) at = (size_t)str_find(line, STR(";"), at) + 1;
    strbuf_clear(out);
    while (at < line.n && line.p[at] != ';') {
        char *end;
        strbuf_addcp(out, (uint32_t)strtoul(line.p + at, &end, 16));
        at = (size_t)(end - line.p);
        while (at < line.n && line.p[at] == ' ') at++;
    }
    return at;
}

START_TEST(normalization_test_file) {
    static const char path[] = "../shared/data/corpora/unicode/NormalizationTest.txt";
    strbuf file = {0}, in = {0}, want = {0}, got = {0};
    error err;
    if (!file_exists(path)) {
        printf("SKIP: %s is absent\n", path);
        return;
    }
    ck_assert(file_read(path, (size_t)16 << 20, &file, &err) == OK);
    int n = 0;
    for (size_t at = 0; at < file.n;) {
        ptrdiff_t nl = str_find(strbuf_str(&file), STR("\n"), at);
        size_t end = nl < 0 ? file.n : (size_t)nl;
        str line = str_cut(strbuf_str(&file), at, end);
        at = end + 1;
        if (!line.n || line.p[0] == '#' || line.p[0] == '@') continue;
        for (int form = 0; form < 4; form++) {
            column(line, 0, &in);
            column(line, form + 1, &want);
            strbuf_clear(&got);
            unorm((unorm_form)form, strbuf_str(&in), &got);
            ck_assert_msg(str_eq(strbuf_str(&got), strbuf_str(&want)), "form %d: " STR_FMT, form,
                          STR_ARG(line));
            n++;
        }
    }
    ck_assert(n > 1000);
    strbuf_done(&file);
    strbuf_done(&in);
    strbuf_done(&want);
    strbuf_done(&got);
}
END_TEST

START_TEST(scanner_of_json) {
    static const char *const names[] = {"a", "b", "c"};
    str got[3];
    error err;
    ck_assert(jscan_members(STR(" {\"b\" : [1,{\"a\":\"]\\\"\"}], \"a\":\"x\", \"c\":null}"), "t",
                            names, 3, got, &err) == OK);
    ck_assert(str_eqz(got[0], "\"x\"") && str_eqz(got[1], "[1,{\"a\":\"]\\\"\"}]") && !got[2].p);
    jscan s;
    str v;
    jscan_init(&s, STR("[\"\\u00e9\\ud83d\\ude00\\n\", 12 ]"));
    int64_t i;
    ck_assert(jscan_enter(&s, '[') && jscan_more(&s, ']') && jscan_string(&s, &v));
    ck_assert(str_eqz(v, "\xC3\xA9\xF0\x9F\x98\x80\n"));
    ck_assert(jscan_more(&s, ']') && jscan_int(&s, &i) && i == 12 && !jscan_more(&s, ']'));
    ck_assert(jscan_status(&s, "list", &err) == OK);
    jscan_done(&s);
}
END_TEST

int main(void) {
    Suite *s = suite_create("tokenizer");
    TCase *c = tcase_create("all");
    tcase_set_timeout(c, 120);
    tcase_add_test(c, added_tokens_follow_their_flags);
    tcase_add_test(c, invalid_utf8_becomes_replacement);
    tcase_add_loop_test(c, stream_equals_decode, 0, ARRAY_LEN(files));
    tcase_add_test(c, context_keeps_the_space);
    tcase_add_test(c, token_bytes);
    tcase_add_test(c, damaged_files_are_refused_by_name);
    tcase_add_loop_test(c, odd_vocabularies, 0, ARRAY_LEN(odd));
    tcase_add_test(c, rank_files);
    tcase_add_test(c, threads_agree);
    tcase_add_test(c, normal_forms);
    tcase_add_test(c, normalization_test_file);
    tcase_add_test(c, scanner_of_json);
    suite_add_tcase(s, c);
    return suite_run(s);
}
