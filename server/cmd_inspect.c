/* pagoda inspect: reads the headers of a model and plans its memory; loads nothing. */
#include <stdio.h>

#include "server/cmd.h"
#include "server/cmd_engine.h"

int cmd_inspect(const conf *c) {
    engine *e;
    error err;
    if (!c->model) return cmd_failf("inspect needs a model directory");
    if (cmd_engine_check(c, &err) != OK) return cmd_fail(&err);
    engine_options o = cmd_engine_options(c);
    o.plan_only = true;
    if (engine_open(&o, &e, &err) != OK) return cmd_fail(&err);
    strbuf out = {0};
    engine_describe(e, c->json, &out);
    if (!str_ends(strbuf_str(&out), STR("\n"))) strbuf_addc(&out, '\n');
    bool ok = fwrite(out.p, 1, out.n, stdout) == out.n;
    strbuf_done(&out);
    engine_free(e);
    return ok ? 0 : 1;
}
