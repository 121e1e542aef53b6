/* pagoda bench: `kernels` measures this machine's compute rows, `serve` a running server. */
#include "kernels/bench.h"
#include "server/cmd.h"
#include "server/cmd_bench_load.h"
#include "server/cmd_engine.h"

static int kernels(const conf *c) {
    error err;
    bench_options o = {
        .device = c->device, .isa = c->isa, .n_threads = (int)c->threads, .op = c->op};
    return bench_kernels(&o, stdout, &err) == OK ? 0 : cmd_fail(&err);
}

int cmd_bench(const conf *c) {
    if (c->print_kernels) return cmd_print_kernels(c);
    if (c->what && strcmp(c->what, "serve") == 0) return bench_load(c);
    if (c->what && strcmp(c->what, "kernels") == 0) return kernels(c);
    return cmd_failf(
        "bench needs a word: `pagoda bench kernels` or `pagoda bench serve --url URL`");
}
