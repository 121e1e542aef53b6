/* Sampling defaults of a model directory. Values out of range are ignored rather than fatal: they
 * are the model author's, and the request may set its own. */
#include "server/server.h"

#include "conf/limits.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/mem.h"

static void take(const json_t *o, const char *name, double min, double max, float *ret) {
    double v = js_get_real(o, name, -1);
    if (v >= min && v <= max) *ret = (float)v;
}

static void take_int(const json_t *o, const char *name, int64_t max, int32_t *ret) {
    int64_t v = js_get_int(o, name, -1);
    if (v >= 0 && v <= max) *ret = (int32_t)v;
}

status server_defaults_read(const char *dir, server_defaults *ret, error *err) {
    server_defaults d = {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1};
    char *path = path_join(dir, "generation_config.json");
    json_t *o = NULL;
    status st = file_exists(path) ? js_parse_file(path, LIMIT_CONFIG_BYTES, &o, err) : OK;
    mem_free(path);
    if (st != OK) return st;
    take(o, "temperature", 0, 2, &d.temperature);
    take(o, "top_p", 1e-6, 1, &d.top_p);
    take(o, "min_p", 0, 0.999, &d.min_p);
    take(o, "typical_p", 1e-6, 1, &d.typical_p);
    take(o, "repetition_penalty", 0.01, 100, &d.repetition_penalty);
    take_int(o, "top_k", LIMIT_TOP_K, &d.top_k);
    take_int(o, "no_repeat_ngram_size", LIMIT_NGRAM, &d.no_repeat_ngram);
    take_int(o, "max_new_tokens", INT32_MAX, &d.max_new_tokens);
    json_decref(o);
    *ret = d;
    return OK;
}
