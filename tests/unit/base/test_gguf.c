/* GGUF headers: what they hold, and what each damage is called. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/gguf.h"
#include "engine/base/mem.h"
#include "tests/unit/suite.h"
#include "tests/golden/gguf_write.h"

static const float numbers[8] = {0.5f, -1, 2, 3, 4, 5, 6, 7};

static str bytes_of(const void *p, size_t n) {
    return str_n(p, n);
}

/* A file with a value of every kind and three tensors, the second quantised. */
static void whole(gguf_writer *w) {
    static const char *const tokens[] = {"<s>", "", "\xe2\x96\x81the"};
    static const int32_t types[] = {3, 1, -1};
    static const uint8_t block[36] = {1, 2, 3};
    gguf_write_str(w, "general.architecture", "llama");
    gguf_write_int(w, "u8", GGUF_U8, 200);
    gguf_write_int(w, "i8", GGUF_I8, 200);
    gguf_write_int(w, "u16", GGUF_U16, 65535);
    gguf_write_int(w, "i16", GGUF_I16, 65535);
    gguf_write_int(w, "u32", GGUF_U32, UINT32_MAX);
    gguf_write_int(w, "i32", GGUF_I32, UINT32_MAX);
    gguf_write_int(w, "u64", GGUF_U64, UINT64_MAX);
    gguf_write_int(w, "i64", GGUF_I64, UINT64_MAX);
    gguf_write_int(w, "bool", GGUF_BOOL, 1);
    gguf_write_f32(w, "f32", 0.25f);
    gguf_write_int(w, "f64", GGUF_F64, 0x3FE8000000000000u); /* 0.75 */
    gguf_write_strs(w, "tokens", tokens, 3);
    gguf_write_array(w, "types", GGUF_I32, 3, bytes_of(types, sizeof types));
    gguf_write_array(w, "none", GGUF_STRING, 0, STR(""));
    gguf_write_tensor(w, "a", 0, 2, (int64_t[]){4, 2}, bytes_of(numbers, sizeof numbers));
    gguf_write_tensor(w, "b", 2, 2, (int64_t[]){32, 2}, bytes_of(block, 36));
    gguf_write_tensor(w, "c", 0, 1, (int64_t[]){1}, bytes_of(numbers, 4));
}

static status parse(const strbuf *b, gguf *g, error *err) {
    *err = (error){0};
    return gguf_parse((const uint8_t *)b->p, b->n, "x.gguf", g, err);
}

/* Frees b. */
static void refuses(strbuf *b, status want, const char *a, const char *c) {
    gguf g = {0};
    error err;
    status st = parse(b, &g, &err);
    ck_assert_msg(st == want, "%s: %s", status_name(st), err.text);
    ck_assert_msg(strstr(err.text, "x.gguf") && strstr(err.text, a) && strstr(err.text, c),
                  "\"%s\" lacks \"%s\" or \"%s\"", err.text, a, c);
    strbuf_done(b);
}

START_TEST(values_of_every_kind) {
    gguf_writer w = {0};
    strbuf b = {0};
    gguf g;
    error err;
    whole(&w);
    gguf_write_end(&w, &b);
    ck_assert_msg(parse(&b, &g, &err) == OK, "%s", err.text);
    ck_assert_uint_eq(g.version, 3);
    ck_assert(str_eqz(gguf_get_str(&g, "general.architecture"), "llama"));
    ck_assert_int_eq(gguf_get_int(&g, "u8", 0), 200);
    ck_assert_int_eq(gguf_get_int(&g, "i8", 0), -56);
    ck_assert_int_eq(gguf_get_int(&g, "u16", 0), 65535);
    ck_assert_int_eq(gguf_get_int(&g, "i16", 0), -1);
    ck_assert_int_eq(gguf_get_int(&g, "u32", 0), UINT32_MAX);
    ck_assert_int_eq(gguf_get_int(&g, "i32", 0), -1);
    ck_assert_int_eq(gguf_get_int(&g, "u64", 7), 7);
    ck_assert_int_eq(gguf_get_int(&g, "i64", 7), -1);
    ck_assert(gguf_get_bool(&g, "bool", false) && !gguf_get_bool(&g, "u8", false));
    double y;
    ck_assert(gguf_f64(gguf_find(&g, "f32"), 0, &y) && y == 0.25);
    ck_assert(gguf_f64(gguf_find(&g, "f64"), 0, &y) && y == 0.75);
    ck_assert(gguf_f64(gguf_find(&g, "u8"), 0, &y) && y == 200);
    ck_assert_int_eq(gguf_get_int(&g, "types", 9), 9);
    ck_assert(gguf_get_str(&g, "tokens").p == NULL && gguf_get_str(&g, "absent").p == NULL);
    int64_t x;
    ck_assert(gguf_i64(gguf_find(&g, "types"), 2, &x) && x == -1);
    ck_assert(!gguf_i64(gguf_find(&g, "types"), 3, &x));
    gguf_strings it = gguf_strings_of(gguf_find(&g, "tokens"));
    str s;
    ck_assert(gguf_next(&it, &s) && str_eqz(s, "<s>"));
    ck_assert(gguf_next(&it, &s) && s.n == 0);
    ck_assert(gguf_next(&it, &s) && s.n == 6 && !gguf_next(&it, &s));
    it = gguf_strings_of(gguf_find(&g, "none"));
    ck_assert(!gguf_next(&it, &s));
    it = gguf_strings_of(gguf_find(&g, "u8"));
    ck_assert(!gguf_next(&it, &s));
    gguf_close(&g);
    strbuf_done(&b);
}
END_TEST

START_TEST(tensors_and_their_places) {
    gguf_writer w = {0};
    strbuf b = {0};
    gguf g;
    error err;
    whole(&w);
    gguf_write_end(&w, &b);
    ck_assert_msg(parse(&b, &g, &err) == OK, "%s", err.text);
    ck_assert_int_eq((int)g.n_tensors, 3);
    const gguf_tensor *t = gguf_find_tensor(&g, "a");
    ck_assert(t && t->n_dims == 2 && t->ne[0] == 4 && t->ne[1] == 2 && t->bytes == 32);
    ck_assert_int_eq(memcmp(b.p + t->off, numbers, 32), 0);
    t = gguf_find_tensor(&g, "b");
    ck_assert_str_eq(gguf_type_of(t->type)->name, "Q4_0");
    ck_assert_int_eq((int)t->bytes, 36);
    ck_assert_int_eq(memcmp(b.p + t->off, "\1\2\3", 4), 0);
    ck_assert_int_eq(memcmp(b.p + gguf_find_tensor(&g, "c")->off, numbers, 4), 0);
    ck_assert(!gguf_find_tensor(&g, "d"));
    gguf_close(&g);
    strbuf_done(&b);
}
END_TEST

START_TEST(truncated_at_every_byte) {
    gguf_writer w = {0};
    strbuf b = {0};
    gguf g;
    error err;
    whole(&w);
    gguf_write_end(&w, &b);
    for (size_t n = 0; n < b.n; n++) {
        uint8_t *copy = mem_alloc(n + 1); /* a sanitizer then sees a read past the end */
        memcpy(copy, b.p, n);
        status st = gguf_parse(copy, n, "x.gguf", &g, &err);
        ck_assert_msg(st == ERR_FORMAT, "%zu: %s", n, status_name(st));
        ck_assert_msg(strstr(err.text, "truncated") || strstr(err.text, "do not fit"), "%zu: %s", n,
                      err.text);
        mem_free(copy);
    }
    strbuf_done(&b);
}
END_TEST

/* The header with these counts and nothing behind. */
static strbuf head(uint32_t version, uint64_t n_tensors, uint64_t n_values) {
    strbuf b = {0};
    strbuf_addz(&b, "GGUF");
    strbuf_add(&b, bytes_of(&version, 4));
    strbuf_add(&b, bytes_of(&n_tensors, 8));
    strbuf_add(&b, bytes_of(&n_values, 8));
    return b;
}

START_TEST(counts_beyond_the_file) {
    strbuf b = head(3, 0, UINT64_MAX);
    refuses(&b, ERR_FORMAT, "18446744073709551615 keys", "do not fit");
    b = head(3, (uint64_t)1 << 63, 0);
    refuses(&b, ERR_FORMAT, "9223372036854775808 tensors", "do not fit");
    b = head(1, 0, 0);
    refuses(&b, ERR_UNSUPPORTED, "version 1", "not supported");
    b = head(0x03000000, 0, 0);
    refuses(&b, ERR_UNSUPPORTED, "version 3", "big endian");
    static const uint64_t lengths[] = {UINT64_MAX, (uint64_t)1 << 61, 4};
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        gguf_writer w = {0};
        b = (strbuf){0};
        gguf_write_array(&w, "deep", GGUF_F64, lengths[i], STR("12345678"));
        gguf_write_end(&w, &b);
        refuses(&b, ERR_FORMAT, "\"deep\"", "passes the end");
    }
    gguf_writer w = {0};
    b = (strbuf){0};
    gguf_write_array(&w, "deep", GGUF_STRING, 1, bytes_of(&lengths[0], 8));
    gguf_write_end(&w, &b);
    refuses(&b, ERR_FORMAT, "\"deep\"", "passes the end");
}
END_TEST

START_TEST(bad_keys) {
    gguf_writer w = {0};
    strbuf b = {0};
    gguf_write_array(&w, "nested", GGUF_ARRAY, 1, STR("....12345678"));
    gguf_write_end(&w, &b);
    refuses(&b, ERR_FORMAT, "\"nested\"", "array whose elements are of type 9");
    gguf_write_array(&w, "odd", (gguf_kind)13, 1, STR("."));
    gguf_write_end(&w, &b);
    refuses(&b, ERR_FORMAT, "\"odd\"", "type 13");
    gguf_write_int(&w, "twice", GGUF_U8, 1);
    gguf_write_int(&w, "twice", GGUF_U8, 1); /* the same again is let pass */
    gguf_write_int(&w, "twice", GGUF_U8, 2);
    gguf_write_end(&w, &b);
    refuses(&b, ERR_FORMAT, "\"twice\"", "there twice");
    static const uint64_t alignments[] = {0, 24, (uint64_t)1 << 40};
    for (size_t i = 0; i < ARRAY_LEN(alignments); i++) {
        gguf_write_int(&w, "general.alignment", GGUF_U64, alignments[i]);
        gguf_write_end(&w, &b);
        refuses(&b, ERR_FORMAT, "general.alignment", "power of two");
    }
}
END_TEST

START_TEST(bad_tensors) {
    static const struct {
        uint32_t type;
        int n_dims;
        int64_t ne[5];
        status st;
        const char *in_error;
    } cases[] = {
        {16, 1, {256}, ERR_UNSUPPORTED, "type IQ2_XXS is not supported"},
        {99, 1, {256}, ERR_UNSUPPORTED, "unknown type 99"},
        {0, 5, {1, 1, 1, 1, 1}, ERR_FORMAT, "more than 4 dimensions"},
        {0, 2, {1, -1}, ERR_FORMAT, "negative"},
        {0, 2, {(int64_t)1 << 40, (int64_t)1 << 40}, ERR_FORMAT, "overflow"},
        {0, 1, {INT64_MAX}, ERR_FORMAT, "overflow"},
        {2, 1, {31}, ERR_FORMAT, "no whole blocks of Q4_0 (32 elements)"},
        {0, 1, {9}, ERR_FORMAT, "truncated: tensor \"t\" takes 36 bytes at 0 of the data"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        gguf_writer w = {0};
        strbuf b = {0};
        gguf_write_tensor(&w, "t", cases[i].type, cases[i].n_dims, cases[i].ne,
                          bytes_of(numbers, 32));
        gguf_write_end(&w, &b);
        refuses(&b, cases[i].st, "\"t\"", cases[i].in_error);
    }
    gguf_writer w = {0};
    strbuf b = {0};
    gguf_write_tensor(&w, "t", 0, 1, (int64_t[]){8}, bytes_of(numbers, 32));
    gguf_write_tensor(&w, "t", 0, 1, (int64_t[]){8}, bytes_of(numbers, 32));
    gguf_write_end(&w, &b);
    refuses(&b, ERR_FORMAT, "\"t\"", "there twice");
}
END_TEST

/* The offset of the last tensor is the last 8 bytes before the data's padding. */
static void offset_is(uint64_t off, status want, const char *in_error) {
    gguf_writer w = {0};
    strbuf b = {0};
    gguf_write_tensor(&w, "t", 0, 1, (int64_t[]){8}, bytes_of(numbers, 32));
    gguf_write_tensor(&w, "u", 0, 1, (int64_t[]){8}, bytes_of(numbers, 32));
    memcpy(w.tensors.p + w.tensors.n - 8, &off, 8);
    gguf_write_end(&w, &b);
    refuses(&b, want, "\"u\"", in_error);
}

START_TEST(bad_offsets) {
    offset_is(0, ERR_FORMAT, "overlaps tensor \"t\"");
    offset_is(33, ERR_FORMAT, "not aligned to 32");
    offset_is(64, ERR_FORMAT, "truncated");
    offset_is(UINT64_MAX - 31, ERR_FORMAT, "truncated");
}
END_TEST

START_TEST(not_a_gguf_file) {
    strbuf b = {0};
    strbuf_addz(&b, "version https://git-lfs.github.com/spec/v1\noid sha256:00\n");
    refuses(&b, ERR_FORMAT, "Git LFS pointer", "");
    strbuf_addz(&b, "PK\3\4");
    refuses(&b, ERR_FORMAT, "not a GGUF file", "50 4b 03 04");
    gguf g;
    error err;
    ck_assert_int_eq(gguf_open("/no/such.gguf", &g, &err), ERR_NOT_FOUND);
    char path[] = "/tmp/pagoda-test-XXXXXX";
    int fd = mkstemp(path);
    ck_assert(fd >= 0);
    close(fd);
    ck_assert_int_eq(gguf_open(path, &g, &err), ERR_FORMAT); /* an empty file */
    unlink(path);
}
END_TEST

int main(void) {
    Suite *s = suite_create("gguf");
    TCase *t = tcase_create("all");
    tcase_add_test(t, values_of_every_kind);
    tcase_add_test(t, tensors_and_their_places);
    tcase_add_test(t, truncated_at_every_byte);
    tcase_add_test(t, counts_beyond_the_file);
    tcase_add_test(t, bad_keys);
    tcase_add_test(t, bad_tensors);
    tcase_add_test(t, bad_offsets);
    tcase_add_test(t, not_a_gguf_file);
    suite_add_tcase(s, t);
    return suite_run(s);
}
