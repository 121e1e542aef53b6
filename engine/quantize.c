/* The head has 8 bits beside layers of 4: its errors go to the logits as they are, not through a
 * residual stream that averages them, and it is read once a token like everything else. */
#include "engine/quantize.h"

#include <math.h>

#include "engine/base/mem.h"
#include "engine/weights.h"

static const char *const names[] = {"none", "int8", "int4"};

const char *quantize_name(quantize_kind k) {
    return names[k];
}

status quantize_parse(const char *name, quantize_kind *ret, error *err) {
    *ret = QUANTIZE_NONE;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (name && strcmp(name, names[i]) != 0) continue;
        *ret = (quantize_kind)i;
        return OK;
    }
    return error_set(err, ERR_INVALID, "quantize: \"%s\" is not one of none, int8, int4", name);
}

void quantize_choose(quantize_kind k, weight_slot slot, dtype *ret_dt, quant_spec *ret_spec) {
    bool plain = slot_infos[slot].kind != SLOT_MATRIX || slot == W_ROUTER || slot == W_SHARED_GATE;
    bool wide = k == QUANTIZE_INT8 || slot == W_HEAD || slot == W_K_UP || slot == W_V_UP;
    *ret_dt = DT_COUNT;
    *ret_spec = (quant_spec){0};
    if (k == QUANTIZE_NONE || plain) return;
    *ret_dt = wide ? DT_INT8 : DT_INT4;
    *ret_spec = (quant_spec){
        .group = wide ? 128 : 32, .scale_dt = DT_F16, .zero = wide ? 128 : 8, .scale_mul = 1};
}

/* What is told of a slot. */
typedef struct slot_error {
    quantize_error e;
    int32_t n; /* tensors */
    int32_t group;
    bool has_zeros;
    dtype dt;
} slot_error;

typedef struct report {
    slot_error slots[W_SLOT_COUNT];
    quantize_error all;
    int32_t worst; /* tensor, -1: none */
    double worst_rms;
} report;

static double relative(quantize_error e) {
    return e.sum2 > 0 ? sqrt(e.err2 / e.sum2) : 0;
}

static void add(quantize_error *to, quantize_error e) {
    to->err2 += e.err2;
    to->sum2 += e.sum2;
}

static report report_of(const weights *w) {
    report r = {.worst = -1};
    for (int32_t i = 0; i < w->a->n_tensors; i++) {
        const weight_bind *b = &w->bind[i];
        slot_error *s = &r.slots[w->a->tensors[i].slot];
        if (b->to == DT_COUNT) continue;
        add(&s->e, w->errors[i]);
        add(&r.all, w->errors[i]);
        s->n++;
        s->dt = b->to;
        s->group = b->spec.group;
        s->has_zeros = b->spec.has_zeros;
        double rms = relative(w->errors[i]);
        if (r.worst >= 0 && rms <= r.worst_rms) continue;
        r.worst = i;
        r.worst_rms = rms;
    }
    return r;
}

void quantize_report(const weights *w, strbuf *out) {
    report r = report_of(w);
    strbuf_addf(out, "quantised to %s, relative RMS error %.3f %%\n", quantize_name(w->quantize),
                100 * relative(r.all));
    for (int i = 0; i < W_SLOT_COUNT; i++) {
        const slot_error *s = &r.slots[i];
        if (!s->n) continue;
        strbuf_addf(out, "  %-12s %8.3f %%  %d tensor%s, %s in groups of %d%s\n",
                    slot_infos[i].name, 100 * relative(s->e), s->n, s->n == 1 ? "" : "s",
                    dtype_name(s->dt), s->group, s->has_zeros ? " with zeros" : "");
    }
    if (r.worst < 0) return;
    strbuf_addf(out, "  %-12s %8.3f %%  %s\n", "worst", 100 * r.worst_rms,
                w->a->tensors[r.worst].name);
}

void quantize_report_json(const weights *w, strbuf *out) {
    report r = report_of(w);
    strbuf_addf(out, "\"quantize\":{\"type\":\"%s\",\"relative_rms\":%.6g,\"kinds\":{",
                quantize_name(w->quantize), relative(r.all));
    for (int i = 0, n = 0; i < W_SLOT_COUNT; i++) {
        const slot_error *s = &r.slots[i];
        if (!s->n) continue;
        strbuf_addf(out,
                    "%s\"%s\":{\"relative_rms\":%.6g,\"tensors\":%d,\"dtype\":\"%s\",\"group\":%d,"
                    "\"zeros\":%s}",
                    n++ ? "," : "", slot_infos[i].name, relative(s->e), s->n, dtype_name(s->dt),
                    s->group, s->has_zeros ? "true" : "false");
    }
    strbuf_addz(out, "}");
    if (r.worst >= 0) {
        strbuf_addz(out, ",\"worst\":{\"name\":");
        strbuf_add_json(out, str_z(w->a->tensors[r.worst].name));
        strbuf_addf(out, ",\"relative_rms\":%.6g}", r.worst_rms);
    }
    strbuf_addz(out, "},");
}
