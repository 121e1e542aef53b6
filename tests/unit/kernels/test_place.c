/* Unit tests of places: which CPUs a team gets on machines that a made-up sysfs describes, and
 * whose node the panels of a matrix come from. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/base/mem.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/place.h"
#include "tests/unit/suite.h"

static char root[64];

static void make_root(void) {
    snprintf(root, sizeof root, "/tmp/pagoda-place-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
}

static void remove_root(void) {
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", root);
    ck_assert_int_eq(system(cmd), 0);
}

/* A file below root and the directories on its way. */
static void put(const char *path, const char *text) {
    char full[256];
    int n = snprintf(full, sizeof full, "%s/%s", root, path);
    for (int i = (int)sizeof "/tmp/"; i < n; i++) {
        if (full[i] != '/') continue;
        full[i] = 0;
        (void)mkdir(full, 0700);
        full[i] = '/';
    }
    FILE *f = fopen(full, "w");
    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    fclose(f);
}

static void put_node(int node, const char *cpus) {
    char path[128];
    snprintf(path, sizeof path, "devices/system/node/node%d/cpulist", node);
    put(path, cpus);
}

static void put_siblings(int cpu, const char *list) {
    char path[128];
    snprintf(path, sizeof path, "devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
    put(path, list);
}

/* n_cores cores in all, node by node; the second CPUs of cores are numbered after all first ones.
 */
static void put_machine(int n_nodes, int n_cores) {
    char text[64];
    int each = n_cores / n_nodes;
    snprintf(text, sizeof text, n_nodes > 1 ? "0-%d\n" : "0\n", n_nodes - 1);
    put("devices/system/node/online", text);
    for (int i = 0; i < n_nodes; i++) {
        snprintf(text, sizeof text, "%d-%d,%d-%d\n", i * each, i * each + each - 1,
                 n_cores + i * each, n_cores + i * each + each - 1);
        put_node(i, text);
    }
    for (int i = 0; i < 2 * n_cores; i++) {
        snprintf(text, sizeof text, "%d,%d\n", i % n_cores, n_cores + i % n_cores);
        put_siblings(i, text);
    }
}

static cpu_set_t first_cpus(int n) {
    cpu_set_t s;
    CPU_ZERO(&s);
    for (int i = 0; i < n; i++) CPU_SET((size_t)i, &s);
    return s;
}

/* The n members are on these CPUs and nodes. */
static void expect(const cpu_set_t *usable, int n, const int *cpus, const int *nodes) {
    int got[CPU_SETSIZE], at[CPU_SETSIZE];
    ck_assert(place_cpus(root, usable, n, got, at));
    for (int i = 0; i < n; i++) {
        ck_assert_msg(got[i] == cpus[i], "member %d on CPU %d, not %d", i, got[i], cpus[i]);
        ck_assert_msg(at[i] == nodes[i], "member %d of node %d, not %d", i, at[i], nodes[i]);
    }
}

START_TEST(two_nodes_with_siblings) {
    put_machine(2, 8);
    cpu_set_t all = first_cpus(16);
    static const int cores[] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const int of_cores[] = {0, 0, 0, 0, 1, 1, 1, 1};
    expect(&all, 8, cores, of_cores);
    expect(&all, 3, cores, of_cores); /* one node has room */
    static const int every[] = {0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15};
    static const int of_every[] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1};
    expect(&all, 16, every, of_every);
    static const int nine[] = {0, 1, 2, 3, 8, 4, 5, 6, 7}, of_nine[] = {0, 0, 0, 0, 0, 1, 1, 1, 1};
    expect(&all, 9, nine, of_nine);
    int got[32], at[32];
    ck_assert(!place_cpus(root, &all, 17, got, at));
}
END_TEST

/* A container: some CPUs of both nodes. */
START_TEST(only_usable_cpus) {
    put_machine(2, 8);
    cpu_set_t some;
    CPU_ZERO(&some);
    CPU_SET(2, &some);
    CPU_SET(6, &some);
    CPU_SET(10, &some); /* the core of 2 */
    static const int two[] = {2, 6}, of_two[] = {0, 1}, three[] = {2, 10, 6},
                     of_three[] = {0, 0, 1};
    expect(&some, 2, two, of_two);
    expect(&some, 3, three, of_three);
}
END_TEST

/* Numbers of nodes need not follow one another, and one of memory alone has no CPUs. */
START_TEST(odd_nodes) {
    put("devices/system/node/online", "0,2-3,70\n");
    put_node(0, "1,3\n");
    put_node(2, "\n");
    put_node(70, "0,2\n");
    cpu_set_t all = first_cpus(4);
    static const int cpus[] = {1, 3, 0, 2}, nodes[] = {0, 0, 70, 70};
    expect(&all, 4, cpus, nodes);
}
END_TEST

START_TEST(a_kernel_that_does_not_tell) {
    cpu_set_t all = first_cpus(4);
    static const int cpus[] = {0, 1, 2, 3}, nodes[4];
    expect(&all, 4, cpus, nodes);
    put("devices/system/node/online", "none of your business");
    put_siblings(1, "-5,9");
    put_siblings(2, "99999999999999999999-1");
    put_siblings(3, "");
    expect(&all, 4, cpus, nodes);
}
END_TEST

START_TEST(many_cores) {
    int cpus[256], nodes[256];
    put_machine(4, 64);
    cpu_set_t all = first_cpus(128);
    ck_assert(place_cpus(root, &all, 128, cpus, nodes));
    for (int i = 0; i < 128; i++) {
        ck_assert_int_eq(nodes[i], i / 32);
        ck_assert_int_eq(cpus[i] % 64 / 16, i / 32);
        for (int k = 0; k < i; k++) ck_assert_int_ne(cpus[k], cpus[i]);
    }
}
END_TEST

/* Every panel's bytes are of its reader's node, whatever is left over at the end; all bytes once.
 */
static void check_spans(int n_members, int n_nodes, int64_t n_panels, size_t panel, size_t rest) {
    int nodes[TEAM_MAX];
    place_span spans[TEAM_MAX];
    size_t bytes = (size_t)n_panels * panel + rest;
    for (int i = 0; i < n_members; i++) nodes[i] = i * n_nodes / n_members;
    int n = place_spans(nodes, n_members, n_panels, bytes, spans);
    ck_assert(n >= 1 && n <= n_nodes);
    ck_assert_uint_eq(spans[0].from, 0);
    ck_assert_uint_eq(spans[n - 1].to, bytes);
    for (int k = 1; k < n; k++) ck_assert_uint_eq(spans[k].from, spans[k - 1].to);
    for (int i = 0; i < n_members && rest < (size_t)n_panels; i++) {
        int64_t from, to;
        team_range(n_panels, 1, i, n_members, &from, &to);
        for (int64_t p = from; p < to; p++) {
            int k = 0;
            while (spans[k].to <= (size_t)p * panel) k++;
            ck_assert_int_eq(spans[k].node, nodes[i]);
            ck_assert_uint_ge(spans[k].to, (size_t)(p + 1) * panel);
        }
    }
}

START_TEST(panels_are_near_their_readers) {
    static const int members[] = {1, 2, 3, 16, 96, 128, 256};
    for (size_t i = 0; i < ARRAY_LEN(members); i++)
        for (int n_nodes = 1; n_nodes <= MIN(members[i], 8); n_nodes++)
            for (int64_t panels = 1; panels < 500; panels += 61) {
                check_spans(members[i], n_nodes, panels, 57344, 0);
                check_spans(members[i], n_nodes, panels, 57344, 100000); /* rows' scales behind */
            }
}
END_TEST

/* Where rows are cut as well, those who share panels are neighbours, and the panels are theirs. */
START_TEST(grids_keep_panels_near) {
    for (int32_t threads = 1; threads <= 128; threads++)
        for (int32_t tiles = 1; tiles < 60; tiles += 7)
            for (int32_t panels = 1; panels < 400; panels += 37) {
                gemm_grid g = gemm_grid_choose(tiles, panels, threads);
                int64_t cells = 0, from, to;
                for (int i = 0; i < threads; i++) {
                    gemm_part p = gemm_share(&g, i, tiles, panels);
                    ck_assert(p.t0 >= 0 && p.t1 <= tiles && p.p0 >= 0 && p.p1 <= panels);
                    cells += (int64_t)(p.t1 - p.t0) * (p.p1 - p.p0);
                    if (g.m_parts * g.n_parts != threads) continue;
                    team_range(panels, 1, i, threads, &from, &to);
                    ck_assert(p.p0 <= from && to <= p.p1);
                }
                ck_assert_int_eq(cells, (int64_t)tiles * panels);
            }
}
END_TEST

/* The rule that the kernel has for an address; -1: it knows of none. */
static int rule_at(const void *p) {
    enum { OF_ADDRESS = 2 };
    int rule = -1;
    return syscall(SYS_get_mempolicy, &rule, NULL, 0ul, p, (unsigned long)OF_ADDRESS) == 0 ? rule
                                                                                           : -1;
}

/* On this machine: the kernel takes the rules (where it takes any), and the memory is there. */
START_TEST(memory_gets_rules) {
    enum { PREFERRED = 1, INTERLEAVE = 3, STEP = 2 << 20 };
    size_t bytes = (size_t)8 * STEP;
    char *p = mem_map(bytes);
    int nodes[] = {0, 0};
    ck_assert_int_ge(place_nodes(), 1);
    int before = rule_at(p);
    place_panels(nodes, 2, 1, p, 4096); /* too small */
    ck_assert_int_eq(rule_at(p), before);
    place_interleave(p, bytes);
    if (before >= 0) ck_assert_int_eq(rule_at(p), place_nodes() > 1 ? INTERLEAVE : before);
    place_panels(nodes, 2, 100, p + STEP + 64, 6 * STEP - 64);
    if (before >= 0) {
        ck_assert_int_eq(rule_at(p), place_nodes() > 1 ? INTERLEAVE : before);
        ck_assert_int_eq(rule_at(p + STEP), PREFERRED);
        ck_assert_int_eq(rule_at(p + 7 * STEP - 1), PREFERRED);
        ck_assert_int_eq(rule_at(p + 7 * STEP), rule_at(p));
    }
    place_panels(nodes, 2, 100, p + 64, bytes - 64);
    if (before >= 0) ck_assert_int_eq(rule_at(p + bytes - 1), PREFERRED);
    for (size_t i = 0; i < bytes; i += 4096) p[i] = 1;
    mem_unmap(p, bytes);
}
END_TEST

int main(void) {
    Suite *s = suite_create("place");
    TCase *tc = tcase_create("place");
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, make_root, remove_root);
    tcase_add_test(tc, two_nodes_with_siblings);
    tcase_add_test(tc, only_usable_cpus);
    tcase_add_test(tc, odd_nodes);
    tcase_add_test(tc, a_kernel_that_does_not_tell);
    tcase_add_test(tc, many_cores);
    tcase_add_test(tc, panels_are_near_their_readers);
    tcase_add_test(tc, grids_keep_panels_near);
    tcase_add_test(tc, memory_gets_rules);
    suite_add_tcase(s, tc);
    return suite_run(s);
}
