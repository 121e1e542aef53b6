/* Files of torch.save: whole ones of both layouts, what each damaged or hostile one is called, and
 * a model that is stored so. The files are seeds of the fuzz target, written by make_seeds.py. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "engine/pth.h"
#include "tests/unit/suite.h"
#include "tests/golden/tiny_model.h"

#define SEEDS "tests/fuzz/corpus/pth/"

static strbuf seed(const char *name) {
    char path[128];
    strbuf b = {0};
    error err;
    snprintf(path, sizeof path, SEEDS "%s", name);
    ck_assert_msg(file_read(path, 1 << 20, &b, &err) == OK, "%s", err.text);
    return b;
}

/* Bytes in a block of their own, so that a sanitizer sees a read past their end. */
static status add(const void *p, size_t n, checkpoint *c, error *err) {
    uint8_t *copy = mem_alloc(n + 1);
    memcpy(copy, p, n);
    *c = (checkpoint){0};
    *err = (error){0};
    checkpoint_add_path(c, mem_strdup("x.bin"));
    status st = pth_add(c, 0, copy, n, err);
    mem_free(copy);
    return st;
}

START_TEST(refused_by_name) {
    static const struct {
        const char *seed;
        status st;
        const char *in_error;
    } cases[] = {
        {"os_system", ERR_UNSUPPORTED, "global os.system is not allowed"},
        {"os_system_4", ERR_UNSUPPORTED, "global os.system is not allowed"},
        {"getattr", ERR_UNSUPPORTED, "global builtins.getattr is not allowed"},
        {"quantised", ERR_UNSUPPORTED, "global torch.QInt8Storage is not allowed"},
        {"instance", ERR_UNSUPPORTED, "opcode 0x69"},
        {"newobj", ERR_UNSUPPORTED, "opcode 0x81"},
        {"extension", ERR_UNSUPPORTED, "opcode 0x82"},
        {"set", ERR_UNSUPPORTED, "opcode 0x8f"},
        {"long_name", ERR_FORMAT, "a name that is too long"},
        {"call_tensor", ERR_FORMAT, "a call of what is no function"},
        {"storage_call", ERR_FORMAT, "a call of a type"},
        {"no_mark", ERR_FORMAT, "no mark"},
        {"empty_stack", ERR_FORMAT, "the stack is empty"},
        {"memo", ERR_FORMAT, "a memo index that was never set"},
        {"memo_far", ERR_FORMAT, "a memo index past the pickle's length"},
        {"long_text", ERR_FORMAT, "truncated"},
        {"big_text", ERR_FORMAT, "truncated"},
        {"odd_dict", ERR_FORMAT, "no dict"},
        {"not_a_dict", ERR_FORMAT, "no dict"},
        {"no_stop", ERR_FORMAT, "truncated"},
        {"protocol", ERR_FORMAT, "unknown protocol"},
        {"bad_id", ERR_FORMAT, "a persistent id that is no storage"},
        {"no_tensors", ERR_FORMAT, "no dict of tensors"},
        {"past_end", ERR_FORMAT, "tensor \"w\": it passes the end of its storage"},
        {"huge", ERR_FORMAT, "tensor \"w\": its dimensions overflow"},
        {"negative", ERR_FORMAT, "a tensor whose storage, shape or strides are none"},
        {"strided", ERR_UNSUPPORTED, "tensor \"w\" is not stored row by row"},
        {"short", ERR_FORMAT, "storage \"0\" has 16 bytes, its 5 elements of F32 need more"},
        {"missing", ERR_FORMAT, "storage \"7\" is missing"},
        {"view", ERR_UNSUPPORTED, "views of storages"},
        {"two_types", ERR_FORMAT, "one storage with two types"},
        {"legacy_length", ERR_FORMAT, "storage \"k\""},
        {"legacy_missing", ERR_FORMAT, "storage \"k\" is missing"},
        {"big_endian", ERR_UNSUPPORTED, "not little endian"},
        {"deflated", ERR_UNSUPPORTED, "entry \"m/data.pkl\" is compressed (method 8)"},
        {"no_pickle", ERR_FORMAT, "data.pkl"},
        {"two_pickles", ERR_FORMAT, "data.pkl"},
        {"overlap", ERR_FORMAT, "overlaps"},
        {"cut", ERR_FORMAT, "truncated"},
        {"text", ERR_FORMAT, "neither a ZIP archive nor"},
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        strbuf b = seed(cases[i].seed);
        checkpoint c;
        error err;
        status st = add(b.p, b.n, &c, &err);
        ck_assert_msg(st == cases[i].st && strstr(err.text, cases[i].in_error) &&
                          strstr(err.text, "x.bin"),
                      "%s: %s: %s", cases[i].seed, status_name(st), err.text);
        ck_assert_int_eq(c.n_tensors, 0);
        checkpoint_done(&c);
        strbuf_done(&b);
    }
}
END_TEST

static const st_tensor *tensor(const checkpoint *c, const char *name) {
    for (int32_t i = 0; i < c->n_tensors; i++)
        if (strcmp(c->tensors[i].name, name) == 0) return &c->tensors[i];
    ck_abort_msg("no tensor %s", name);
}

START_TEST(whole_files) {
    static const char *const names[] = {"plain",  "ordered", "wrapped", "parameter",
                                        "shared", "legacy",  "loop",    "deep"};
    static const float want[4] = {1, 2, 3, 4};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        strbuf b = seed(names[i]);
        checkpoint c;
        error err;
        ck_assert_msg(add(b.p, b.n, &c, &err) == OK, "%s: %s", names[i], err.text);
        const st_tensor *t = &c.tensors[0];
        ck_assert(t->n_dims == 2 && t->dims[0] == 2 && t->dims[1] == 2 && t->dt == DT_F32);
        ck_assert_int_eq(memcmp(b.p + t->off, want, sizeof want), 0);
        if (strcmp(names[i], "shared") == 0)
            ck_assert_int_eq((int)(tensor(&c, "b")->off - tensor(&c, "a")->off), 8);
        checkpoint_done(&c);
        strbuf_done(&b);
    }
}
END_TEST

/* What torch itself wrote: values are multiples of a quarter, exact in every type. */
START_TEST(files_of_torch) {
    static const char *const names[] = {"torch", "torch_legacy", "torch_protocol4"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        strbuf b = seed(names[i]);
        checkpoint c;
        error err;
        ck_assert_msg(add(b.p, b.n, &c, &err) == OK, "%s: %s", names[i], err.text);
        ck_assert_int_eq(c.n_tensors, 10);
        static const char *const floats[] = {"f32", "f16", "bf16", "tied", "parameter"};
        for (size_t k = 0; k < ARRAY_LEN(floats); k++) {
            const st_tensor *t = tensor(&c, floats[k]);
            ck_assert(t->n_dims == 2 && t->dims[0] == 2 && t->dims[1] == 3);
            for (size_t e = 0; e < 6; e++)
                ck_assert(dtype_to_f32(t->dt, b.p + t->off + e * dtype_bytes(t->dt)) ==
                          0.25f * (float)e);
        }
        ck_assert(dtype_to_f32(DT_F32, b.p + tensor(&c, "row")->off) == 0.75f);
        ck_assert(dtype_to_f32(DT_F32, b.p + tensor(&c, "scalar")->off) == 2.5f);
        ck_assert_int_eq(tensor(&c, "i64")->dt, DT_I64);
        checkpoint_done(&c);
        strbuf_done(&b);
    }
}
END_TEST

START_TEST(truncated_at_every_byte) {
    static const char *const names[] = {"plain", "legacy", "torch", "torch_legacy"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        strbuf b = seed(names[i]);
        for (size_t n = 0; n < b.n; n++) {
            checkpoint c;
            error err;
            status st = add(b.p, n, &c, &err);
            ck_assert_msg(st == ERR_FORMAT, "%s, %zu bytes: %s", names[i], n, err.text);
            checkpoint_done(&c);
        }
        strbuf_done(&b);
    }
}
END_TEST

/* Any one byte changed: no crash, and what opens lies inside the file. */
START_TEST(every_byte_changed) {
    static const char *const names[] = {"plain", "legacy", "parameter"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        strbuf b = seed(names[i]);
        for (size_t n = 0; n < b.n; n++)
            for (int bit = 0; bit < 8; bit += 7) {
                checkpoint c;
                error err;
                b.p[n] = (char)(b.p[n] ^ 1 << bit);
                if (add(b.p, b.n, &c, &err) == OK)
                    for (int32_t k = 0; k < c.n_tensors; k++)
                        ck_assert(c.tensors[k].off <= b.n &&
                                  c.tensors[k].bytes <= b.n - c.tensors[k].off);
                checkpoint_done(&c);
                b.p[n] = (char)(b.p[n] ^ 1 << bit);
            }
        strbuf_done(&b);
    }
}
END_TEST

/* A model in the older layout, whose writer is short. */

static void put_int(strbuf *b, uint64_t x, int bytes) {
    for (int i = 0; i < bytes; i++) strbuf_addc(b, (char)(x >> 8 * i & 255));
}

static void put_text(strbuf *b, const char *s) {
    strbuf_addc(b, 'X');
    put_int(b, strlen(s), 4);
    strbuf_addz(b, s);
}

static void put_number(strbuf *b, int64_t x) {
    strbuf_addc(b, 'J');
    put_int(b, (uint64_t)x, 4);
}

static void put_tensor(strbuf *b, const tiny_tensor *t) {
    put_text(b, t->name);
    strbuf_addz(b, "ctorch._utils\n_rebuild_tensor_v2\n((");
    put_text(b, "storage");
    strbuf_addz(b, "ctorch\nFloatStorage\n");
    put_text(b, t->name);
    put_text(b, "cpu");
    put_number(b, (int64_t)(t->to - t->from) / 4);
    strbuf_addz(b, "tQ");
    put_number(b, 0);
    strbuf_addc(b, '(');
    for (int32_t i = 0; i < t->n_dims; i++) put_number(b, t->dims[i]);
    strbuf_addz(b, "t(");
    for (int32_t i = 0; i < t->n_dims; i++)
        put_number(b, i == 0 && t->n_dims == 2 ? t->dims[1] : 1);
    strbuf_addz(b, "tNNtR");
}

static void write_legacy(tiny_model *m, const char *file, int32_t from, int32_t to) {
    static const char magic[] = "\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    strbuf b = {0};
    strbuf_add(&b, str_n(magic, sizeof magic - 1));
    strbuf_addz(&b, "K\1.}.}("); /* version, system, the dict */
    for (int32_t i = from; i < to; i++) put_tensor(&b, &m->t[i]);
    strbuf_addz(&b, "u.](");
    for (int32_t i = from; i < to; i++) put_text(&b, m->t[i].name);
    strbuf_addz(&b, "e.");
    for (int32_t i = from; i < to; i++) {
        put_int(&b, (m->t[i].to - m->t[i].from) / 4, 8);
        strbuf_add(&b, str_n(m->data.p + m->t[i].from, m->t[i].to - m->t[i].from));
    }
    tiny_put(m, file, b.p, b.n);
    strbuf_done(&b);
}

static float *logits_of(const tiny_model *m) {
    static const int32_t ids[6] = {1, 5, 9, 30, 0, 7};
    engine_options o = {.model_dir = m->dir, .n_threads = 2, .max_seqs = 4, .kv_bytes = 1 << 20};
    engine *e = NULL;
    error err;
    ck_assert_msg(engine_open(&o, &e, &err) == OK, "%s", err.text);
    float *x = mem_alloc(6 * 32 * sizeof *x);
    ck_assert_msg(engine_logits(e, ids, 6, true, 0, x, &err) == OK, "%s", err.text);
    engine_free(e);
    return x;
}

static void forget(const tiny_model *m, const char *name) {
    char *path = path_join(m->dir, name);
    unlink(path);
    mem_free(path);
}

START_TEST(model_gives_the_same_bits) {
    tiny_model m;
    tiny_init(&m);
    tiny_write(&m, "model.safetensors", 0, m.n, NULL);
    float *want = logits_of(&m);
    forget(&m, "model.safetensors");
    write_legacy(&m, "pytorch_model.bin", 0, m.n);
    float *got = logits_of(&m);
    ck_assert_int_eq(memcmp(want, got, 6 * 32 * sizeof *got), 0);
    mem_free(got);
    forget(&m, "pytorch_model.bin");
    strbuf index = {0};
    strbuf_addz(&index, "{\"weight_map\":{");
    for (int32_t i = 0; i < m.n; i++)
        strbuf_addf(&index, "%s\"%s\":\"part-%d.bin\"", i ? "," : "", m.t[i].name, i >= 7);
    strbuf_addz(&index, "}}");
    write_legacy(&m, "part-0.bin", 0, 7);
    write_legacy(&m, "part-1.bin", 7, m.n);
    tiny_put(&m, "pytorch_model.bin.index.json", index.p, index.n);
    got = logits_of(&m);
    ck_assert_int_eq(memcmp(want, got, 6 * 32 * sizeof *got), 0);
    mem_free(got);
    mem_free(want);
    strbuf_done(&index);
    tiny_done(&m);
}
END_TEST

START_TEST(pointers) {
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\n";
    static const char annex[] = "/annex/objects/SHA256E-s4--00.bin\n";
    checkpoint c;
    error err;
    ck_assert_int_eq(add(lfs, sizeof lfs - 1, &c, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "Git LFS pointer"));
    checkpoint_done(&c);
    ck_assert_int_eq(add(annex, sizeof annex - 1, &c, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "git-annex pointer"));
    checkpoint_done(&c);
    ck_assert_int_eq(checkpoint_open_file("/no/such.bin", &c, &err), ERR_NOT_FOUND);
    char twice[] = SEEDS "twice";
    ck_assert_int_eq(checkpoint_open_file(twice, &c, &err), ERR_FORMAT);
    ck_assert_ptr_nonnull(strstr(err.text, "tensor \"w\" is also in"));
}
END_TEST

int main(void) {
    Suite *s = suite_create("pth");
    TCase *t = tcase_create("all");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, refused_by_name);
    tcase_add_test(t, whole_files);
    tcase_add_test(t, files_of_torch);
    tcase_add_test(t, truncated_at_every_byte);
    tcase_add_test(t, every_byte_changed);
    tcase_add_test(t, model_gives_the_same_bits);
    tcase_add_test(t, pointers);
    suite_add_tcase(s, t);
    return suite_run(s);
}
