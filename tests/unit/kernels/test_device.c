/* Names to backends: what each way to fail says, and when auto is the CPU. Plugins are those of
 * fake_plugin.c, built beside this test. */
#include <check.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/json.h"
#include "kernels/device.h"
#include "kernels/select.h"

static error err;

static void plugin(const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", FAKE_DIR, name);
    setenv("PAGODA_CUDA_LIBRARY", path, 1);
}

/* Open and close; the backend's name, "" on failure. */
static const char *open_named(const char *device, strbuf *note) {
    device_options o = {.device = device, .cpu = {.n_threads = 1}, .note = note};
    backend *b = NULL;
    err = (error){0};
    status st = device_open(&o, &b, &err);
    ck_assert_msg((st == OK) == (b != NULL), "%s", device);
    if (st != OK) {
        ck_assert_int_eq(st, err.code);
        ck_assert_msg(strlen(err.text) > 20 && !strchr(err.text, '\n'), "%s", err.text);
        return "";
    }
    const char *name = b->name;
    backend_close(b);
    return name;
}

#define FAILS(device, status, part)                                                                \
    do {                                                                                           \
        ck_assert_str_eq(open_named(device, NULL), "");                                            \
        ck_assert_msg(err.code == (status) && strstr(err.text, part), "%s: %s", device, err.text); \
    } while (0)

START_TEST(test_names) {
    plugin("libfake_good.so");
    ck_assert_str_eq(open_named("cpu", NULL), "cpu");
    ck_assert_str_eq(open_named("cuda", NULL), "cuda");
    ck_assert_str_eq(open_named("cuda:0", NULL), "cuda");
    static const char *const wrong[] = {"gpu", "", "CUDA", "cuda0", "cpu:0", "auto:0", "cuda "};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        FAILS(wrong[i], ERR_INVALID, "expected auto, cpu, cuda or cuda:N");
    static const char *const numbers[] = {"cuda:",   "cuda:x",    "cuda:-1", "cuda:+1",
                                          "cuda:1x", "cuda:1024", "cuda: 1"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        FAILS(numbers[i], ERR_INVALID, "expected a number");
    FAILS("cuda:7", ERR_INVALID, "no device cuda:7: this machine has 2");
    FAILS("cuda:1", ERR_UNSUPPORTED, "too old");
}
END_TEST

START_TEST(test_no_plugin) {
    setenv("PAGODA_CUDA_LIBRARY", "/nowhere/lib.so", 1);
    FAILS("cuda", ERR_NOT_FOUND, "/nowhere/lib.so, named by PAGODA_CUDA_LIBRARY, is not there");
    unsetenv("PAGODA_CUDA_LIBRARY"); /* this test's own folder has none */
    if (!file_exists(DEVICE_LIBDIR "/libpagoda_cuda.so"))
        FAILS("cuda", ERR_NOT_FOUND, "there is no libpagoda_cuda.so in ");
    setenv("PAGODA_CUDA_LIBRARY", "meson.build", 1);
    FAILS("cuda", ERR_UNSUPPORTED, "cannot be loaded");
}
END_TEST

START_TEST(test_other_builds) {
    plugin("libfake_abi.so");
    FAILS("cuda", ERR_UNSUPPORTED, "is of another build of pagoda");
    plugin("libfake_version.so");
    FAILS("cuda", ERR_UNSUPPORTED, "is of pagoda 0.0.0-other");
    plugin("libfake_symbol.so");
    FAILS("cuda", ERR_UNSUPPORTED, "lacks the symbol pagoda_cuda_plugin");
    plugin("libfake_none.so");
    FAILS("cuda", ERR_UNAVAILABLE, "no CUDA device: a test says so");
}
END_TEST

START_TEST(test_auto) {
    strbuf note = {0};
    plugin("libfake_good.so");
    ck_assert_str_eq(open_named("auto", &note), "cuda");
    ck_assert_str_eq(open_named(NULL, &note), "cuda");
    ck_assert_uint_eq(note.n, 0);
    plugin("libfake_abi.so");
    ck_assert_str_eq(open_named("auto", &note), "cpu");
    ck_assert_ptr_nonnull(strstr(note.p, "running on the CPU: "));
    ck_assert_ptr_nonnull(strstr(note.p, "is of another build of pagoda"));
    ck_assert_str_eq(open_named(NULL, NULL), "cpu");
    strbuf_clear(&note);

    plugin("libfake_good.so"); /* who names kernels of the CPU means the CPU */
    device_options o = {.device = "auto", .cpu = {.isa = "ref"}, .note = &note};
    backend *b = NULL;
    ck_assert_int_eq(device_open(&o, &b, &err), OK);
    ck_assert_str_eq(b->name, "cpu");
    ck_assert_uint_eq(note.n, 0);
    backend_close(b);
    strbuf_done(&note);
}
END_TEST

/* A directory with an empty file of that path below it. */
static bool signs_of(const char *folder, const char *file) {
    char root[] = "/tmp/pagoda-signs-XXXXXX", path[4096];
    ck_assert_ptr_nonnull(mkdtemp(root));
    bool before = device_signs(root);
    for (const char *end = folder; *end; end++) { /* its folders, one by one */
        if (end[1] != '/' && end[1] != 0) continue;
        snprintf(path, sizeof path, "%s%.*s", root, (int)(end + 1 - folder), folder);
        ck_assert_int_eq(mkdir(path, 0700), 0);
    }
    snprintf(path, sizeof path, "%s%s/%s", root, folder, file);
    fclose(fopen(path, "w"));
    bool after = device_signs(root);
    unlink(path);
    for (int depth = (int)strlen(folder); depth > 0; depth--) {
        if (folder[depth] != '/' && folder[depth] != 0) continue;
        snprintf(path, sizeof path, "%s%.*s", root, depth, folder);
        rmdir(path);
    }
    rmdir(root);
    ck_assert(!before);
    return after;
}

START_TEST(test_signs) {
    ck_assert(signs_of("/dev", "nvidiactl"));
    ck_assert(signs_of("/dev", "dxg"));
    ck_assert(signs_of("/dev", "nvmap"));
    ck_assert(signs_of("/proc/driver", "nvidia"));
    ck_assert(signs_of("/usr/bin", "nvidia-modprobe"));
    ck_assert(!signs_of("/dev", "null"));
    ck_assert(!signs_of("/proc/driver", "rtc"));
}
END_TEST

START_TEST(test_list) {
    strbuf out = {0};
    plugin("libfake_good.so");
    device_list(&out, false);
    ck_assert_ptr_nonnull(strstr(out.p, "cpu "));
    ck_assert_ptr_nonnull(strstr(out.p, "cuda:0   fake, compute capability 9.0, 2.0 GiB memory, "
                                        "1.0 GiB free, driver for CUDA 13.0, built with 12.8\n"));
    ck_assert_ptr_nonnull(strstr(out.p, "not usable: cuda:1 (fake) is too old\n"));
    strbuf_clear(&out);
    device_list(&out, true);
    json_t *root;
    ck_assert_msg(js_parse(strbuf_str(&out), &root, &err) == OK, "%s", err.text);
    json_t *list = js_get(root, "devices");
    ck_assert_uint_eq(json_array_size(list), 3);
    static const bool usable[] = {true, true, false};
    for (size_t i = 0; i < 3; i++)
        ck_assert(js_get_bool(json_array_get(list, i), "usable", !usable[i]) == usable[i]);
    ck_assert(js_get_int(json_array_get(list, 1), "memory_bytes", 0) == (int64_t)2 << 30);
    json_decref(root);
    strbuf_clear(&out);
    plugin("libfake_none.so");
    device_list(&out, true);
    ck_assert_msg(js_parse(strbuf_str(&out), &root, &err) == OK, "%s", err.text);
    ck_assert_uint_eq(json_array_size(js_get(root, "devices")), 2);
    json_decref(root);
    strbuf_done(&out);
}
END_TEST

int main(void) {
    Suite *s = suite_create("device");
    TCase *t = tcase_create("device");
    tcase_add_test(t, test_names);
    tcase_add_test(t, test_no_plugin);
    tcase_add_test(t, test_other_builds);
    tcase_add_test(t, test_auto);
    tcase_add_test(t, test_signs);
    tcase_add_test(t, test_list);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? 1 : 0;
}
