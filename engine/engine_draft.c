/* A second engine inside the first: a smaller model that guesses tokens, which the first one
 * checks.
 *
 * It is opened between the first one's steps of opening, so that one memory plan holds both and is
 * refused or printed as a whole. It has a page for each of the first one's, of as many tokens: so
 * the scheduler keeps one page list for a sequence, whichever of the two computes it. In the
 * host's memory both compute on one team of threads; two would take the cores from each other.
 * A device is opened again, for a stream of its own. */
#include "engine/base/check.h"
#include "engine/base/mem.h"
#include "engine/engine_internal.h"

/* The types are those of the first; it needs neither adapters nor a second tier of pages, and what
 * it computes is waited for step by step. */
static engine_options options_of(const engine_options *o) {
    engine_options d = *o;
    d.model_dir = o->draft_dir;
    d.quantize = o->draft_quantize;
    d.draft_dir = d.draft_quantize = d.merge_lora = NULL;
    d.max_drafts = d.adapters_max = 0;
    d.kv_swap_bytes = 0;
    d.max_model_len = 0;
    d.depth = 1;
    d.on_plan = NULL;
    return d;
}

static status check(const engine *d, const engine_options *o, error *err) {
    if (d->config_only) return error_set(err, ERR_NOT_FOUND, "%s has no weights", o->draft_dir);
    if (!d->a->has_head)
        return error_set(err, ERR_UNSUPPORTED,
                         "%s (%s) makes embeddings, not tokens: it cannot guess any", o->draft_dir,
                         d->info.architecture);
    if (arch_whole_prompt(d->a))
        return error_set(err, ERR_UNSUPPORTED,
                         "%s (%s) computes a prompt as a whole: it cannot guess token by token",
                         o->draft_dir, d->info.architecture);
    return OK;
}

status engine_draft_plan(engine *e, const engine_options *o, error *err) {
    engine_options own = options_of(o);
    engine *d = e->draft = mem_calloc(1, sizeof *d);
    pthread_mutex_init(&d->adapter_lock, NULL);
    d->lora_rank_max = 1;
    TRY(engine_resolve(d, &own, err));
    TRY(check(d, o, err));
    if (e->b->host_memory) {
        d->b = e->b;
        d->is_guest = true;
    }
    TRY(engine_plan_weights(d, &own, err));
    engine_plan_needs(d, &own);
    memplan *p = &e->plan;
    p->draft_weights = d->plan.weights;
    p->draft_page_bytes = d->plan.page_bytes;
    p->page_bytes += d->plan.page_bytes;
    p->activations_fixed += d->plan.activations_fixed;
    p->activations_per_len += d->plan.activations_per_len;
    p->staging = MAX(p->staging, d->plan.staging);
    return OK;
}

status engine_draft_open(engine *e, const engine_options *o, error *err) {
    engine_options own = options_of(o);
    engine *d = e->draft;
    d->plan.n_pages = e->plan.n_pages;
    d->plan.len = MIN(e->plan.len, d->a->ctx_max);
    TRY(engine_allocate(d, err));
    return engine_load(d, &own, err);
}

bool engine_draft(engine *e, stepper *ret) {
    if (!e->draft) return false;
    *ret = engine_stepper(e->draft);
    CHECK(ret->page_tokens == e->kv.page_tokens && ret->n_pages == e->plan.n_pages);
    return true;
}
