/* The plugin is looked for in few places and never in the working directory or a search path: it
 * is code. A handle stays open until the process ends, since the CUDA runtime inside it registers
 * what it cleans up only then. */
#include "kernels/device.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "engine/base/thread.h"
#include "kernels/device_plugin.h"
#include "kernels/select.h"

#define PLUGIN_FILE "libpagoda_cuda.so"
#define PATH_BYTES  4096

typedef enum kind { AUTO, CPU, CUDA } kind;

static status parse(const char *name, kind *ret_kind, int *ret_index, error *err) {
    str s = str_z(name ? name : "auto");
    int64_t index = 0;
    bool numbered = str_starts(s, STR("cuda:"));
    if (numbered && (!str_to_i64(str_cut(s, 5, s.n), &index) || index < 0 || index > 1023 ||
                     s.p[5] == '+' || s.p[5] == '-'))
        return error_set(err, ERR_INVALID, "device \"%s\": expected a number after \"cuda:\"",
                         name);
    if (str_eqz(s, "auto"))
        *ret_kind = AUTO;
    else if (str_eqz(s, "cpu"))
        *ret_kind = CPU;
    else if (numbered || str_eqz(s, "cuda"))
        *ret_kind = CUDA;
    else
        return error_set(err, ERR_INVALID,
                         "device is \"%s\", expected auto, cpu, cuda or cuda:N (`pagoda devices` "
                         "lists what there is)",
                         name);
    *ret_index = (int)index;
    return OK;
}

/* The folder of the running program, "" if the system does not say. */
static void program_dir(char *ret, size_t n) {
    ssize_t got = readlink("/proc/self/exe", ret, n - 1);
    ret[got > 0 ? got : 0] = 0;
    char *slash = strrchr(ret, '/');
    if (slash) *slash = 0;
}

/* The plugin's path into ret; ERR_NOT_FOUND names what was tried. */
static status find_plugin(char *ret, size_t n, error *err) {
    const char *named = getenv("PAGODA_CUDA_LIBRARY");
    if (named && *named) {
        snprintf(ret, n, "%s", named);
        if (access(ret, F_OK) == 0) return OK;
        return error_set(err, ERR_NOT_FOUND,
                         "the CUDA plugin %s, named by PAGODA_CUDA_LIBRARY, is not there", named);
    }
    char dir[PATH_BYTES / 2];
    program_dir(dir, sizeof dir);
    const char *const below[] = {"", "/kernels/cuda"};
    for (size_t i = 0; i < ARRAY_LEN(below); i++) {
        snprintf(ret, n, "%s%s/" PLUGIN_FILE, dir, below[i]);
        if (*dir && access(ret, F_OK) == 0) return OK;
    }
    snprintf(ret, n, DEVICE_LIBDIR "/" PLUGIN_FILE);
    if (access(ret, F_OK) == 0) return OK;
    return error_set(err, ERR_NOT_FOUND,
                     "this build has no CUDA: there is no " PLUGIN_FILE " in %.160s, its "
                     "kernels/cuda or " DEVICE_LIBDIR,
                     *dir ? dir : "the program's folder");
}

static status load_plugin(const device_plugin **ret, error *err) {
    char path[PATH_BYTES];
    TRY(find_plugin(path, sizeof path, err));
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        return error_set(err, ERR_UNSUPPORTED, "the CUDA plugin cannot be loaded: %s", dlerror());
    const device_plugin *p = dlsym(lib, DEVICE_PLUGIN_SYMBOL);
    if (!p)
        return error_set(err, ERR_UNSUPPORTED,
                         "%s is no plugin of pagoda: it lacks the symbol " DEVICE_PLUGIN_SYMBOL,
                         path);
    if (p->abi != DEVICE_PLUGIN_ABI)
        return error_set(err, ERR_UNSUPPORTED,
                         "%s is of another build of pagoda: its interface is %#x, the program's "
                         "is %#x",
                         path, (unsigned)p->abi, (unsigned)DEVICE_PLUGIN_ABI);
    if (strcmp(p->version, PAGODA_VERSION) != 0)
        return error_set(err, ERR_UNSUPPORTED,
                         "%s is of pagoda %s, this program is pagoda " PAGODA_VERSION, path,
                         p->version);
    *ret = p;
    return OK;
}

static status open_cuda(int index, backend **ret, error *err) {
    const device_plugin *p;
    device_info info;
    int n;
    TRY(load_plugin(&p, err));
    TRY(p->count(&n, err));
    if (index >= n)
        return error_set(err, ERR_INVALID, "there is no device cuda:%d: this machine has %d (%s)",
                         index, n, n == 1 ? "cuda:0" : "counted from cuda:0");
    TRY(p->info(index, &info, err));
    return p->open(index, ret, err);
}

bool device_signs(const char *root) {
    static const char *const signs[] = {
        "/dev/nvidiactl", "/proc/driver/nvidia",      "/dev/dxg",
        "/dev/nvmap",     "/usr/bin/nvidia-modprobe", /* makes the first two when a program asks for
                                                         a device */
    };
    char path[PATH_BYTES];
    for (size_t i = 0; i < ARRAY_LEN(signs); i++) {
        snprintf(path, sizeof path, "%s%s", root, signs[i]);
        if (access(path, F_OK) == 0) return true;
    }
    return false;
}

/* The first GPU where nobody asked for one: the plugin is opened, and the driver inside it, only
 * where a device may be. What says so first costs microseconds, the driver much more. */
static status open_any(backend **ret, error *err) {
    char path[PATH_BYTES];
    const char *named = getenv("PAGODA_CUDA_LIBRARY");
    TRY(find_plugin(path, sizeof path, err));
    if (!(named && *named) && !device_signs(""))
        return error_set(err, ERR_UNAVAILABLE,
                         "no CUDA device: there is no /dev/nvidiactl, nor any other sign of an "
                         "NVIDIA driver");
    return open_cuda(0, ret, err);
}

status device_open(const device_options *o, backend **ret, error *err) {
    kind k = AUTO;
    int index = 0;
    error why;
    TRY(parse(o->device, &k, &index, err));
    if (k == CUDA) return open_cuda(index, ret, err);
    bool isa_named = o->cpu.isa && strcmp(o->cpu.isa, "auto") != 0;
    if (k == AUTO && !isa_named) {
        if (open_any(ret, &why) == OK) return OK;
        if (o->note) strbuf_addf(o->note, "running on the CPU: %s", why.text);
    }
    return backend_cpu_open(&o->cpu, ret, err);
}

/* A line of the list: what is known of one device, and why it cannot be used ("" if it can). */
typedef struct line {
    char id[24];
    char about[256];
    const device_info *info; /* NULL: not a GPU that is known */
    char problem[sizeof(((error *)0)->text)];
} line;

static void line_text(strbuf *out, const line *l) {
    strbuf_addf(out, "%-8s %s", l->id, l->about);
    if (*l->problem) strbuf_addf(out, "%snot usable: %s", *l->about ? "; " : "", l->problem);
    strbuf_addc(out, '\n');
}

static void line_json(strbuf *out, const line *l) {
    strbuf_addz(out, out->p && strbuf_str(out).p[out->n - 1] == '}' ? ", {" : "{");
    strbuf_addz(out, "\"device\": ");
    strbuf_add_json(out, str_z(l->id));
    strbuf_addf(out, ", \"usable\": %s", *l->problem ? "false" : "true");
    if (*l->problem) {
        strbuf_addz(out, ", \"why\": ");
        strbuf_add_json(out, str_z(l->problem));
    }
    if (*l->about) {
        strbuf_addz(out, ", \"about\": ");
        strbuf_add_json(out, str_z(l->about));
    }
    if (l->info) {
        strbuf_addz(out, ", \"name\": ");
        strbuf_add_json(out, str_z(l->info->name));
        strbuf_addf(out,
                    ", \"compute_capability\": \"%d.%d\", \"memory_bytes\": %zu, "
                    "\"free_bytes\": %zu, \"driver\": \"%d.%d\", \"runtime\": \"%d.%d\"",
                    l->info->cc / 10, l->info->cc % 10, l->info->total_bytes, l->info->free_bytes,
                    l->info->driver / 1000, l->info->driver % 1000 / 10, l->info->runtime / 1000,
                    l->info->runtime % 1000 / 10);
    }
    strbuf_addc(out, '}');
}

static void add_line(strbuf *out, bool json, const line *l) {
    if (json)
        line_json(out, l);
    else
        line_text(out, l);
}

static void list_cpu(strbuf *out, bool json) {
    line l = {.id = "cpu"};
    double gib = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / 0x1p30;
    int n = cpu_count();
    snprintf(l.about, sizeof l.about, "%d thread%s, %s, %.1f GiB memory", n, n == 1 ? "" : "s",
             isa_name(isa_best()), gib);
    add_line(out, json, &l);
}

static void list_gpu(strbuf *out, bool json, const device_plugin *p, int index) {
    device_info info = {0};
    error err;
    line l = {.info = &info};
    snprintf(l.id, sizeof l.id, "cuda:%d", index);
    if (p->info(index, &info, &err) != OK) snprintf(l.problem, sizeof l.problem, "%s", err.text);
    snprintf(l.about, sizeof l.about,
             "%s, compute capability %d.%d, %.1f GiB memory, %.1f GiB free, driver for CUDA %d.%d, "
             "built with %d.%d",
             info.name, info.cc / 10, info.cc % 10, (double)info.total_bytes / 0x1p30,
             (double)info.free_bytes / 0x1p30, info.driver / 1000, info.driver % 1000 / 10,
             info.runtime / 1000, info.runtime % 1000 / 10);
    if (!*info.name) l.about[0] = 0, l.info = NULL;
    add_line(out, json, &l);
}

static void list_gpus(strbuf *out, bool json) {
    const device_plugin *p;
    error err;
    int n = 0;
    status st = load_plugin(&p, &err);
    if (st == OK) st = p->count(&n, &err);
    if (st != OK) {
        line l = {.id = "cuda"};
        snprintf(l.problem, sizeof l.problem, "%s", err.text);
        add_line(out, json, &l);
        return;
    }
    for (int i = 0; i < n; i++) list_gpu(out, json, p, i);
}

void device_list(strbuf *out, bool json) {
    if (json) strbuf_addz(out, "{\"devices\": [");
    list_cpu(out, json);
    list_gpus(out, json);
    if (json) strbuf_addz(out, "]}\n");
}
