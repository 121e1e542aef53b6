/* Packed weights on disk: the second start computes the bits of the first; whatever happens to the
 * file (damage, cuts, other models, writers that die, disks that are full) a start is right and
 * says in one line what it found. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"
#include "tests/unit/suite.h"

#define MODEL "conf/demo-model"
#define N_IDS 4

static char root[64], dir[96], model[96];

static void run_command(const char *format, const char *a, const char *b) {
    char cmd[400];
    snprintf(cmd, sizeof cmd, format, a, b);
    ck_assert_msg(system(cmd) == 0, "%s", cmd);
}

static void setup(void) {
    snprintf(root, sizeof root, "/tmp/pagoda-packed-XXXXXX");
    ck_assert(mkdtemp(root) != NULL);
    snprintf(dir, sizeof dir, "%s/cache", root);
    snprintf(model, sizeof model, "%s/model", root);
    ck_assert(mkdir(model, 0755) == 0);
    run_command("cp " MODEL "/config.json " MODEL "/model.safetensors %s%s", model, "");
}

static void teardown(void) {
    run_command("rm -rf %s%s", root, "");
}

static void save(void *ctx, str text) {
    strbuf_add(ctx, text);
}

typedef struct start {
    status st;
    error err;
    char notes[2000];
    float logits[N_IDS * 3072];
} start;

/* A start with the cache in `where`, NULL: none. */
static void start_model(const char *where, const char *quantize, start *ret) {
    static const int32_t ids[N_IDS] = {5, 300, 17, 2000};
    strbuf notes = {0};
    engine *e = NULL;
    engine_options o = {.model_dir = model,
                        .device = "cpu",
                        .quantize = quantize,
                        .packed_cache = where,
                        .on_loaded = save,
                        .ctx = &notes,
                        .n_threads = 2,
                        .max_seqs = 4,
                        .max_batched_tokens = 32,
                        .kv_bytes = 1 << 20};
    *ret = (start){0};
    ret->st = engine_open(&o, &e, &ret->err);
    if (ret->st == OK) {
        ck_assert_int_eq(engine_info(e)->vocab * N_IDS, (int)ARRAY_LEN(ret->logits));
        ck_assert(engine_logits(e, ids, N_IDS, true, 0, ret->logits, &ret->err) == OK);
        engine_free(e);
    }
    snprintf(ret->notes, sizeof ret->notes, STR_FMT, STR_ARG(strbuf_str(&notes)));
    strbuf_done(&notes);
}

static start plain, now; /* without a cache; the last start with one */

/* A start from the cache that gives the bits of one without and says `note`. */
static void starts_with(const char *note) {
    start_model(dir, NULL, &now);
    ck_assert_msg(now.st == OK, "%s", now.err.text);
    ck_assert_msg(strstr(now.notes, note) != NULL, "\"%s\" is not in: %s", note, now.notes);
    ck_assert_mem_eq(now.logits, plain.logits, sizeof plain.logits);
}

/* Files in the cache's directory; the path of the last. */
static int count_files(char *ret, size_t n) {
    int count = 0;
    DIR *d = opendir(dir);
    struct dirent *e;
    while (d && (e = readdir(d))) {
        if (e->d_name[0] == '.') continue;
        count++;
        snprintf(ret, n, "%s/%s", dir, e->d_name);
    }
    if (d) closedir(d);
    return count;
}

static void fill_cache(char path[400]) {
    start_model(NULL, NULL, &plain);
    ck_assert_msg(plain.st == OK && !plain.notes[0], "%s", plain.err.text);
    starts_with("packed weights written to");
    ck_assert_int_eq(count_files(path, 400), 1);
}

START_TEST(the_second_start_reads) {
    char path[400];
    fill_cache(path);
    starts_with("packed weights read from");
    ck_assert_ptr_null(strstr(now.notes, "not"));
    ck_assert_int_eq(count_files(path, sizeof path), 1);
}
END_TEST

START_TEST(quantised_weights_keep_their_report) {
    char path[400];
    start first;
    start_model(NULL, "int4", &plain);
    start_model(dir, "int4", &first);
    start_model(dir, "int4", &now);
    ck_assert_mem_eq(first.logits, plain.logits, sizeof plain.logits);
    ck_assert_mem_eq(now.logits, plain.logits, sizeof plain.logits);
    const char *a = strstr(first.notes, "quantised to int4"),
               *b = strstr(now.notes, "quantised to");
    ck_assert(a && b && strstr(a, "worst") && strstr(now.notes, "read from"));
    ck_assert_str_eq(a, b);
    start_model(dir, "int8", &now); /* a file of its own */
    ck_assert_ptr_nonnull(strstr(now.notes, "packed weights written to"));
    ck_assert_int_eq(count_files(path, sizeof path), 2);
}
END_TEST

START_TEST(beside_the_model) {
    start_model(NULL, NULL, &plain);
    start_model("auto", NULL, &now);
    ck_assert_msg(strstr(now.notes, "written to") && strstr(now.notes, model), "%s", now.notes);
    start_model("auto", NULL, &now);
    ck_assert_ptr_nonnull(strstr(now.notes, "read from"));
    ck_assert_mem_eq(now.logits, plain.logits, sizeof plain.logits);
}
END_TEST

static void flip(const char *path, off_t at) {
    unsigned char c;
    int fd = open(path, O_RDWR);
    ck_assert(fd >= 0 && pread(fd, &c, 1, at) == 1);
    c ^= 0x10;
    ck_assert(pwrite(fd, &c, 1, at) == 1);
    close(fd);
}

START_TEST(a_damaged_file_is_made_anew) {
    char path[400];
    struct stat s;
    fill_cache(path);
    ck_assert(stat(path, &s) == 0);
    off_t at[] = {0, 9, 20, 44, 60, 300, 4096, s.st_size / 2, s.st_size - 1};
    for (size_t i = 0; i < ARRAY_LEN(at); i++) {
        flip(path, at[i]);
        starts_with("packed weights not used: ");
        ck_assert_msg(strstr(now.notes, path) && strstr(now.notes, "written to"), "%s", now.notes);
        starts_with("packed weights read from");
    }
}
END_TEST

START_TEST(a_cut_or_grown_file_is_made_anew) {
    char path[400];
    struct stat s;
    fill_cache(path);
    ck_assert(stat(path, &s) == 0);
    off_t bytes[] = {0, 10, 47, 100, 4096, s.st_size - 1, s.st_size + 1};
    for (size_t i = 0; i < ARRAY_LEN(bytes); i++) {
        ck_assert(truncate(path, bytes[i]) == 0);
        starts_with("packed weights not used: ");
        starts_with("packed weights read from");
    }
}
END_TEST

START_TEST(another_model_makes_it_stale) {
    char path[400], file[200];
    fill_cache(path);
    snprintf(file, sizeof file, "%s/model.safetensors", model);
    flip(file, 8000000); /* of a weight: size and places stay, the time of change does not */
    start_model(NULL, NULL, &plain);
    starts_with("of other files of the model or another build");
    starts_with("packed weights read from");
    ck_assert_int_eq(count_files(path, sizeof path), 1);
}
END_TEST

/* What lies at the place and is no file, or somebody else's. */
START_TEST(foreign_things_are_left_alone) {
    char path[400];
    fill_cache(path);
    ck_assert(unlink(path) == 0 && mkdir(path, 0755) == 0);
    starts_with("packed weights not written: ");
    ck_assert_int_eq(count_files(path, sizeof path), 1); /* no temporary file is left */
    ck_assert(rmdir(path) == 0 && mkfifo(path, 0600) == 0);
    starts_with("packed weights not used: ");
    starts_with("packed weights read from");
    ck_assert(unlink(path) == 0 && symlink("/etc/passwd", path) == 0);
    starts_with("packed weights not used: ");
    starts_with("packed weights read from");
    if (chown(path, 12345, 12345) != 0) return; /* only root can */
    starts_with("not a file of this user");
    starts_with("packed weights read from");
}
END_TEST

START_TEST(directories_that_cannot_be) {
    char file[200];
    snprintf(file, sizeof file, "%s/model.safetensors", model);
    start_model("/proc/none/here", NULL, &now);
    ck_assert_int_eq(now.st, ERR_IO);
    ck_assert_msg(strstr(now.err.text, "packed_cache: cannot make the directory /proc/none/here"),
                  "%s", now.err.text);
    start_model(file, NULL, &now);
    ck_assert_int_eq(now.st, ERR_INVALID);
    ck_assert_msg(strstr(now.err.text, "is not a directory"), "%s", now.err.text);
    start_model(NULL, NULL, &plain);
    start_model("/proc", NULL, &now); /* is there, nobody can write to it */
    ck_assert_msg(now.st == OK && strstr(now.notes, "packed weights not written: /proc/pagoda-"),
                  "%s", now.notes);
    ck_assert_mem_eq(now.logits, plain.logits, sizeof plain.logits);
}
END_TEST

/* The limit stands for a full disk: a write fails midway. */
START_TEST(a_full_disk_leaves_nothing) {
    char path[400];
    start_model(NULL, NULL, &plain);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){3 << 20, 3 << 20});
        start_model(dir, NULL, &now);
        bool right = now.st == OK && strstr(now.notes, "packed weights not written: ") &&
                     memcmp(now.logits, plain.logits, sizeof plain.logits) == 0;
        _exit(right ? 0 : 1);
    }
    int how;
    ck_assert(waitpid(child, &how, 0) == child && how == 0);
    ck_assert_int_eq(count_files(path, sizeof path), 0);
}
END_TEST

START_TEST(killed_writers_do_no_harm) {
    char path[400];
    start_model(NULL, NULL, &plain);
    for (int i = 0; i < 16; i++) {
        int how;
        pid_t child = fork();
        if (child == 0) {
            for (;;) { /* loads and writes again and again */
                start_model(dir, NULL, &now);
                if (count_files(path, sizeof path)) unlink(path);
            }
        }
        nanosleep(&(struct timespec){.tv_nsec = 20000000 + i * 3100000}, NULL);
        kill(child, SIGKILL);
        ck_assert(waitpid(child, &how, 0) == child);
        start_model(dir, NULL, &now);
        ck_assert_msg(now.st == OK &&
                          (strstr(now.notes, "written to") || strstr(now.notes, "read")),
                      "%s %s", now.err.text, now.notes);
        ck_assert_mem_eq(now.logits, plain.logits, sizeof plain.logits);
        starts_with("packed weights read from");
        ck_assert(count_files(path, sizeof path) >= 1 && unlink(path) == 0);
    }
    starts_with("packed weights written to"); /* and removes what the killed left */
    ck_assert_int_eq(count_files(path, sizeof path), 1);
}
END_TEST

START_TEST(starts_at_once_do_not_mix) {
    enum { N = 6 };
    char path[400];
    pid_t child[N];
    start_model(NULL, NULL, &plain);
    for (int i = 0; i < N; i++)
        if ((child[i] = fork()) == 0) {
            bool right = true;
            for (int k = 0; k < 4; k++) {
                start_model(dir, NULL, &now);
                right &= now.st == OK && !strstr(now.notes, "packed weights not") &&
                         memcmp(now.logits, plain.logits, sizeof plain.logits) == 0;
                if (k == 1 && i == 0 && count_files(path, sizeof path) == 1) unlink(path);
            }
            _exit(right ? 0 : 1);
        }
    for (int i = 0; i < N; i++) {
        int how;
        ck_assert(waitpid(child[i], &how, 0) == child[i]);
        ck_assert_msg(how == 0, "child %d: %x", i, how);
    }
    starts_with("packed weights");
    ck_assert_int_eq(count_files(path, sizeof path), 1);
}
END_TEST

int main(void) {
    Suite *s = suite_create("packed_cache");
    TCase *tc = tcase_create("packed_cache");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, the_second_start_reads);
    tcase_add_test(tc, quantised_weights_keep_their_report);
    tcase_add_test(tc, beside_the_model);
    tcase_add_test(tc, a_damaged_file_is_made_anew);
    tcase_add_test(tc, a_cut_or_grown_file_is_made_anew);
    tcase_add_test(tc, another_model_makes_it_stale);
    tcase_add_test(tc, foreign_things_are_left_alone);
    tcase_add_test(tc, directories_that_cannot_be);
    tcase_add_test(tc, a_full_disk_leaves_nothing);
    tcase_add_test(tc, killed_writers_do_no_harm);
    tcase_add_test(tc, starts_at_once_do_not_mix);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
