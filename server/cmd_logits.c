/* pagoda logits: JSON array of ids -> {"logits": [...]} of the last position, or with --all a list
 * of such lists, computed through the paged engine (in chunks with --chunk). Numbers have nine
 * significant digits, which give a float back exactly; what JSON cannot say is null. */
#include <math.h>

#include "engine/base/mem.h"
#include "server/cmd.h"
#include "server/cmd_engine.h"
#include "server/cmd_lora.h"
#include "server/lines.h"

typedef struct tool {
    engine *e;
    bool all;
    int32_t chunk;
} tool;

static void add_row(strbuf *out, const float *row, int32_t vocab) {
    strbuf_addc(out, '[');
    for (int32_t v = 0; v < vocab; v++) {
        if (v) strbuf_addz(out, ", ");
        if (isfinite(row[v]))
            strbuf_addf(out, "%.9g", (double)row[v]);
        else
            strbuf_addz(out, "null");
    }
    strbuf_addc(out, ']');
}

static void add_logits(const tool *u, const float *logits, size_t n_rows, strbuf *out) {
    int32_t vocab = engine_info(u->e)->vocab;
    strbuf_addz(out, "{\"logits\": ");
    if (!u->all) {
        add_row(out, logits, vocab);
    } else {
        strbuf_addc(out, '[');
        for (size_t i = 0; i < n_rows; i++) {
            if (i) strbuf_addz(out, ", ");
            add_row(out, logits + i * (size_t)vocab, vocab);
        }
        strbuf_addc(out, ']');
    }
    strbuf_addc(out, '}');
}

static status answer(void *ctx, const json_t *in, strbuf *out, error *err) {
    const tool *u = ctx;
    const model_info *info = engine_info(u->e);
    int32_t longest = engine_stepper(u->e).max_model_len;
    vec_i32 ids = {0};
    float *logits = NULL;
    size_t rows, bytes;
    status st;
    TRY_OUT(lines_ids(in, info->vocab, &ids, err));
    if (!ids.n || ids.n > (size_t)longest) {
        st = error_set(err, ERR_INVALID, "expected 1 to %d token ids, found %zu", longest, ids.n);
        goto out;
    }
    rows = u->all ? ids.n : 1;
    if (!mul_ok(rows, (size_t)info->vocab * sizeof(float), &bytes) || !(logits = mem_map(bytes))) {
        st = error_set(err, ERR_NOMEM, "no memory for %zu rows of logits", rows);
        goto out;
    }
    st = engine_logits(u->e, ids.p, (int32_t)ids.n, u->all, u->chunk, logits, err);
    if (st == OK) add_logits(u, logits, rows, out);
    mem_unmap(logits, bytes);
out:
    vec_done(&ids);
    return st;
}

int cmd_logits(const conf *c) {
    error err;
    tool u = {.all = c->all, .chunk = (int32_t)c->chunk};
    if (!c->model) return cmd_failf("logits needs --model DIR");
    engine_options o = cmd_engine_options(c);
    o.kv_swap_bytes = 0; /* nothing is scheduled */
    if (cmd_lora_check(c, &err) != OK || engine_open(&o, &u.e, &err) != OK) return cmd_fail(&err);
    int rc = cmd_lora_use(c, u.e, &err) == OK ? lines_run(answer, &u) : cmd_fail(&err);
    engine_free(u.e);
    return rc;
}
