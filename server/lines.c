/* Line tools, see lines.h. Output is flushed after every answer, so that a program on the other
 * end of the pipes can ask and wait. */
#include "server/lines.h"

#include <stdio.h>
#include <stdlib.h>

#include "conf/limits.h"
#include "engine/base/json.h"

static void answer_error(const error *err, strbuf *out) {
    strbuf_clear(out);
    strbuf_addz(out, "{\"error\": ");
    strbuf_add_json(out, str_z(err->text));
    strbuf_addc(out, '}');
}

static void answer(line_fn fn, void *ctx, str line, strbuf *out) {
    error err = {0};
    json_t *in = NULL;
    strbuf_clear(out);
    status st = line.n > LIMIT_LINE_BYTES
                    ? error_set(&err, ERR_TOO_LARGE, "the line is longer than %zu bytes",
                                (size_t)LIMIT_LINE_BYTES)
                    : js_parse(line, &in, &err);
    if (st == OK) st = fn(ctx, in, out, &err);
    json_decref(in);
    if (st != OK) answer_error(&err, out);
}

int lines_run(line_fn fn, void *ctx) {
    char *line = NULL;
    size_t cap = 0;
    strbuf out = {0};
    bool ok = true;
    for (ssize_t n; ok && (n = getline(&line, &cap, stdin)) >= 0;) {
        str text = str_trim(str_n(line, (size_t)n));
        if (!text.n) continue;
        answer(fn, ctx, text, &out);
        strbuf_addc(&out, '\n');
        ok = fwrite(out.p, 1, out.n, stdout) == out.n && fflush(stdout) == 0;
    }
    ok = ok && !ferror(stdin);
    free(line);
    strbuf_done(&out);
    return ok ? 0 : 1;
}

status lines_ids(const json_t *in, int32_t vocab, vec_i32 *ids, error *err) {
    if (!json_is_array(in))
        return error_set(err, ERR_INVALID, "expected a JSON array of token ids");
    size_t i;
    const json_t *v;
    json_array_foreach(in, i, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= vocab)
            return error_set(err, ERR_INVALID, "[%zu] is not a token id (0 to %d)", i, vocab - 1);
        vec_push(ids, (int32_t)json_integer_value(v));
    }
    return OK;
}
