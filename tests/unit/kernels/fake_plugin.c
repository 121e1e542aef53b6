/* A device plugin without a device, for test_device: two GPUs, the second too old. Built in several
 * wrong ways too: FAKE_ABI, FAKE_VERSION, FAKE_SYMBOL. */
#include <stdio.h>

#include "kernels/device_plugin.h"

#ifndef FAKE_ABI
#define FAKE_ABI DEVICE_PLUGIN_ABI
#endif
#ifndef FAKE_VERSION
#define FAKE_VERSION PAGODA_VERSION
#endif
#ifndef FAKE_SYMBOL
#define FAKE_SYMBOL pagoda_cuda_plugin
#endif

/* No status.c here: the plugin fills the error itself. */
static status fail(error *err, status s, const char *text) {
    if (err) {
        err->code = s;
        err->param[0] = 0;
        snprintf(err->text, sizeof err->text, "%s", text);
    }
    return s;
}

static status count(int *ret, error *err) {
#ifdef FAKE_NONE
    return fail(err, ERR_UNAVAILABLE, "no CUDA device: a test says so");
#else
    *ret = 2;
    return OK;
#endif
}

static status info(int index, device_info *ret, error *err) {
    *ret = (device_info){.name = "fake",
                         .cc = index ? 70 : 90,
                         .free_bytes = (size_t)1 << 30,
                         .total_bytes = (size_t)2 << 30,
                         .driver = 13000,
                         .runtime = 12080};
    return index ? fail(err, ERR_UNSUPPORTED, "cuda:1 (fake) is too old") : OK;
}

static void fake_close(backend *b) {
    b->n_threads = -1;
}

static status fake_open(int index, backend **ret, error *err) {
    static const backend_vtbl vtbl = {.close = fake_close};
    static backend b = {.v = &vtbl, .name = "cuda", .device = "fake"};
    b.n_threads = index;
    *ret = &b;
    return OK;
}

extern const device_plugin FAKE_SYMBOL;
const device_plugin FAKE_SYMBOL = {FAKE_ABI, FAKE_VERSION, count, info, fake_open};
