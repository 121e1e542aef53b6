/* One rendering a line: {"template": "...", "vars": {...}} on stdin, {"text": "..."} or
 * {"error": "..."} on stdout. What tests/tokenizer/gen/compare_jinja.py drives. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/json.h"
#include "tokenizer/template.h"

enum { FIXED_TIME = 1752148800 }; /* 2025-07-10 12:00, the goldens' clock */

static status render(const json_t *job, strbuf *out, error *err) {
    template *t;
    template_limits limits = {.unix_time = FIXED_TIME};
    TRY(template_parse(js_get_str(job, "template"), &t, err));
    status st = template_render(t, json_object_get(job, "vars"), &limits, out, err);
    template_free(t);
    return st;
}

int main(void) {
    char *line = NULL;
    size_t cap = 0;
    for (ssize_t n; (n = getline(&line, &cap, stdin)) > 0;) {
        json_t *job = NULL;
        error err;
        strbuf out = {0}, text = {0};
        status st = js_parse(str_n(line, (size_t)n), &job, &err);
        if (st == OK) st = render(job, &text, &err);
        strbuf_addz(&out, st == OK ? "{\"text\": " : "{\"error\": ");
        strbuf_add_json(&out, st == OK ? strbuf_str(&text) : str_z(err.text));
        strbuf_addc(&out, '}');
        puts(out.p);
        fflush(stdout);
        json_decref(job);
        strbuf_done(&out);
        strbuf_done(&text);
    }
    free(line);
    return 0;
}
