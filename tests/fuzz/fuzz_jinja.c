/* Chat templates: any source, over a fixed conversation. Small limits keep each input quick; what
 * parses is rendered twice and must say the same. */
#include <jansson.h>
#include <stdlib.h>

#include "engine/base/check.h"
#include "tokenizer/template.h"

static const char conversation[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"be nice\"},{\"role\":\"user\",\"content\":"
    "\"h\\u00e9llo <b>\"},{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":"
    "{\"name\":\"f\",\"arguments\":{\"a\":[1,2.5,null]}}}]}],\"tools\":[{\"type\":\"function\"}],"
    "\"bos_token\":\"<s>\",\"x\":[3,1,2],\"d\":{\"a\":1,\"b\":\"two\"},\"s\":\"a b c\",\"i\":7,"
    "\"f\":-0.5,\"add_generation_prompt\":true}";

static void render(const template *t, const json_t *vars) {
    template_limits limits = {
        .steps_max = 20000, .output_max = 1 << 16, .time_us_max = 500000, .unix_time = 1752148800};
    strbuf a = {0}, b = {0};
    error e;
    status first = template_render(t, vars, &limits, &a, &e);
    status again = template_render(t, vars, &limits, &b, NULL);
    CHECK(first == OK || first == ERR_INVALID || first == ERR_TOO_LARGE);
    /* time is the one limit that may strike one rendering only */
    if (first == OK && again == OK) CHECK(str_eq(strbuf_str(&a), strbuf_str(&b)));
    strbuf_done(&a);
    strbuf_done(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static json_t *vars;
    if (!vars) vars = json_loads(conversation, 0, NULL);
    template *t;
    error e;
    if (template_parse(str_n((const char *)data, size), &t, &e) != OK) return 0;
    render(t, vars);
    template_free(t);
    return 0;
}
