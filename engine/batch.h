/* One step of the engine as plain data: what the scheduler asks (batch_plan), what it gets back
 * (step_result), and the `stepper` that does it. The real engine, the mock engine and the
 * simulator's fake one are all steppers.
 *
 * A step computes, for each listed sequence, tokens [pos, pos+n_tokens) of ids, writes their keys
 * and values into the sequence's pages, and, where asked, samples the token that follows. The last
 * tokens may be guesses (drafts): then it samples after each, and what follows the right ones
 * counts.
 *
 * Steps are launched and collected apart, so that a device computes one while the host plans the
 * next. They take effect in the order of their launches, whole steps one after the other: a page
 * that a step in flight reads or writes may be given to another sequence by the next plan. */
#ifndef ENGINE_BATCH_H
#define ENGINE_BATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/base/status.h"

typedef struct logit_bias {
    int32_t id;
    float bias; /* added to the logit; -inf bans */
} logit_bias;

/* How to choose the next token. Applied in Hugging Face's order: logit_bias, repetition, frequency
 * and presence penalty, no_repeat_ngram, min_tokens bans, then (unless greedy) temperature, top_k,
 * top_p, min_p, typical_p. Borrowed arrays live as long as the request. */
typedef struct sample_params {
    float temperature;        /* 0: greedy */
    int32_t top_k;            /* 0: off */
    float top_p;              /* 1: off; (0,1] */
    float min_p;              /* 0: off; [0,1) */
    float typical_p;          /* 1: off; (0,1] */
    float repetition_penalty; /* 1: off; > 0; over prompt and output */
    float frequency_penalty;  /* 0: off; over output, as OpenAI */
    float presence_penalty;   /* 0: off; over output, as OpenAI */
    int32_t no_repeat_ngram;  /* 0: off */
    int32_t min_tokens;       /* stop_ids are banned until so many tokens are generated */
    uint64_t seed;            /* stateless: (seed, choice, position) decides the draw */
    int32_t n_logprobs;       /* -1: none; 0: the chosen token's only; k: and the k best */
    const logit_bias *bias;   /* [n_bias] */
    int32_t n_bias;
    const int32_t *stop_ids; /* [n_stop_ids]: end of sequence and stop_token_ids */
    int32_t n_stop_ids;
    const int32_t *allowed_ids; /* NULL: all; else only these may be chosen */
    int32_t n_allowed;
} sample_params;

typedef struct token_logprob {
    int32_t id;
    float logprob;
} token_logprob;

/* What is known of one chosen (or given) token. `top` holds n_top entries, best first; logprobs are
 * of the model's own distribution (log-softmax of the raw logits), before any processing. */
typedef struct sample_out {
    int32_t token;
    float logprob;
    int32_t rank; /* 1 = most likely; 0 when logprobs were not asked */
    int32_t n_top;
    token_logprob top[20]; /* LIMIT_TOP_LOGPROBS */
} sample_out;

/* A hidden state instead of tokens: that of the prompt's last token, of its first, or the mean. */
typedef enum pool_kind { POOL_LAST, POOL_FIRST, POOL_MEAN } pool_kind;

/* Ids from the vocabulary's size upwards are virtual tokens: a sequence whose adapter brings a soft
 * prompt of n tokens begins with vocab, vocab+1, ..., vocab+n-1. They take cache positions like any
 * other token, are never sampled, and prompt_out has no entry for them. */
typedef struct batch_seq {
    const int32_t *ids; /* [>= pos+n_tokens]: all known ids from position 0 */
    int32_t n_known;    /* prompt + generated so far */
    int32_t n_prompt;   /* of them: prompt */
    int32_t pos;        /* first position to compute = tokens already in the cache */
    int32_t n_tokens;   /* >= 1 */
    /* chained: the last known id, ids[pos], is what sequence `chain` of the plan launched just
     * before samples, whose results are not collected yet; n_tokens is 1. Where that one failed its
     * place is taken by any token, and the result here is worth nothing. */
    bool chained;
    int32_t chain;
    const int32_t *pages; /* [ceil((pos+n_tokens)/page_tokens)] */
    bool sample;          /* the logits of the last known id give the next token */
    /* Drafts: the last n_draft of the n_tokens are guesses, ids[n_known .. n_known+n_draft), with
     * sample and never chained. Row n_known-1+j is sampled as if the j guesses before it were
     * known; what it gives counts if they are right, each the token that the row before it gave.
     * So the text is the one without drafts. The keys and values of the others are worth nothing:
     * their positions are computed again. */
    int32_t n_draft;
    int32_t more0;   /* place of the first of n_draft results in step_result.more */
    int32_t choice;  /* index of the choice within its request: part of the random key */
    int32_t max_len; /* n_prompt + max_tokens: fixes length-dependent rope scaling */
    const sample_params *params; /* when sample or prompt_out */
    int32_t adapter;             /* 0: the base model; else an id of adapter_host.load */
    /* Logprobs of prompt tokens (echo): where not NULL, entry [p] is filled for every p in
     * (pos, pos+n_tokens] with p < n_prompt. [n_prompt], owned by the request. */
    sample_out *prompt_out;
    /* Where not NULL: the prompt's pooled hidden state after the final norm, [hidden] f32, complete
     * with the step that computes the last prompt token. Owned by the request. */
    float *pool_out;
    pool_kind pool;
} batch_seq;

typedef struct page_copy {
    int32_t src, dst;
} page_copy;

/* The content of a page to the second tier of the cache, or back from there. */
typedef struct page_move {
    int32_t page, slot;
    bool out; /* page -> slot; else slot -> page */
    /* May be done beside the rest of the step, which touches neither page nor slot after it:
     * before any later step begins. All such moves come last. */
    bool aside;
} page_move;

typedef struct batch_plan {
    uint64_t step;
    int32_t n_seqs, n_tokens; /* n_tokens = sum over seqs */
    int32_t n_drafts;         /* of them: guesses */
    batch_seq *seqs;
    int32_t n_moves; /* done before anything else of the step, in order, unless aside */
    page_move *moves;
    int32_t n_copies; /* done after the moves and before the rest, in order */
    page_copy *copies;
} batch_plan;

typedef struct step_result {
    sample_out *out; /* [n_seqs]: valid where seqs[i].sample */
    /* One of the sequences may fail alone (logits not finite): its status here, else OK. */
    status *seq_status; /* [n_seqs] */
    /* Where seqs[i].n_draft > 0, and else untouched: so many of its drafts are right. Entry more0 +
     * j of more, j < n_right[i], is what was chosen after draft j; out[i] comes before. */
    int32_t *n_right; /* [n_seqs] */
    sample_out *more; /* [n_drafts] */
} step_result;

typedef struct stepper {
    void *self;
    int32_t depth; /* most steps in flight: launched, not yet collected; >= 1 */
    /* Start a step, after those in flight. The plan, and all that it points to, stays as it is
     * until the step is collected, but for the ids of chained tokens: the caller writes them when
     * it has collected the step that sampled them, before it calls launch or collect again. collect
     * waits for the oldest step in flight and gives its results; the arrays are the caller's. A
     * failure of either is the device's, for good: all sequences of all steps are lost. A step
     * whose launch failed is not in flight; the others still have to be collected (which may fail,
     * too). Called from one thread. */
    status (*launch)(void *self, const batch_plan *plan, error *err);
    status (*collect)(void *self, step_result *ret, error *err);
    void (*enter)(void *self); /* the calling thread will be that one; NULL: need not be told */
    int32_t page_tokens;       /* S */
    int32_t n_pages;           /* P: ids 0 .. P-1 */
    int32_t n_host_pages;  /* slots 0 .. H-1 of the second tier, for page_move; 0: there is none */
    float page_move_us;    /* what moving one page takes, measured; 0: as good as nothing */
    int32_t max_tokens;    /* most tokens in one step */
    int32_t max_seqs;      /* most sequences in one step */
    int32_t max_model_len; /* most tokens of one sequence, prompt and output */
    int32_t vocab;
    bool on_cpu; /* computed by the CPUs of this program, so a token more costs its arithmetic */
    bool whole_prompt; /* prompt tokens see later ones: a prompt is computed in one step, and its
                        * pages are not shared with other prompts */
    /* Sequences of different class may not share pages even where their tokens agree (keys that
     * depend on the lengths by rope scaling, or on the adapter, also on one that was loaded
     * later under an old id). NULL: one class. Any thread; the adapter stays loaded meanwhile. */
    uint64_t (*kv_class)(void *self, int32_t n_prompt, int32_t max_len, int32_t adapter);
} stepper;

/* One step by itself, with nothing in flight before and after. */
NODISCARD static inline status stepper_run(const stepper *s, const batch_plan *plan,
                                           step_result *ret, error *err) {
    TRY(s->launch(s->self, plan, err));
    return s->collect(s->self, ret, err);
}

/* What a loaded adapter tells of itself. */
typedef struct adapter_info {
    int32_t id;        /* batch_seq.adapter, from 1 to adapter_host.max */
    int32_t n_virtual; /* virtual tokens that its sequences begin with */
    int32_t rank;      /* the largest of its modules; 0 without low-rank parts */
    char kind[24];     /* "lora", "prompt_tuning", ... */
} adapter_info;

/* Adapters beside a running stepper. Any thread: the last request of an adapter unloads it from the
 * engine thread while another thread loads; steps go on meanwhile. */
typedef struct adapter_host {
    void *self;
    int32_t max; /* most adapters at once; 0: the stepper takes none */
    /* Read a directory. Errors name the file and the key or tensor at fault. */
    status (*load)(void *self, const char *dir, adapter_info *ret, error *err);
    /* No sequence of any later step uses it. The id may be given to another afterwards. */
    void (*unload)(void *self, int32_t id);
} adapter_host;

#endif
