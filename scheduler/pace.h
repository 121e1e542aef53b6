/* How long a step takes, learned from the steps themselves, and how many tokens the next one may
 * have so that those who decode are not kept waiting by those whose prompts are computed.
 *
 * One thread. No clock of its own: times come from the caller. */
#ifndef SCHEDULER_PACE_H
#define SCHEDULER_PACE_H

#include <stdbool.h>
#include <stdint.h>

/* Sizes of steps that are told apart: 1..8 each, then four tokens apart, then four an octave. */
enum { PACE_SIZES = 64 };

/* Targets of a step's time, in microseconds, beside a plain number of them. */
#define PACE_OFF  0
#define PACE_AUTO UINT64_MAX

/* Steps of about one size: means, the recent ones counting most. */
typedef struct pace_size {
    double weight; /* of the means; 0: there was none */
    double tokens, reads, us;
} pace_size;

/* Steps of from .. to tokens take us microseconds. */
typedef struct pace_point {
    double from, to, us, weight;
} pace_point;

typedef struct pace {
    uint64_t target_us;
    pace_size sizes[PACE_SIZES];
    double xx, xy;  /* of changes of reads and of time, among steps of one size */
    double read_us; /* what one read adds: xy / xx */
    bool was_late;  /* the last step took far longer than thought */
    pace_point curve[PACE_SIZES];
    int32_t n_curve;
} pace;

/* What a step holds that its time depends on. */
typedef struct pace_step {
    int32_t n_tokens;
    double n_reads; /* positions that its tokens attend to, summed over tokens */
} pace_step;

/* n tokens from position pos on. */
static inline double pace_reads(int32_t pos, int32_t n) {
    return n * (pos + n / 2.0);
}

/* What the next step is to be made of. */
typedef struct pace_load {
    pace_step decoding; /* what those that decode need */
    int32_t n_prompts;  /* sequences whose prompt is being computed or could be admitted */
    int32_t at, fresh;  /* of the first: where it stands, tokens that it has or had to compute */
    int32_t most;       /* tokens in any step */
} pace_load;

/* Steps of size i have up to so many tokens. */
int32_t pace_size_tokens(int32_t i);
/* A step took us microseconds. */
void pace_add(pace *p, pace_step step, double us);
/* What a step would take; 0 while nothing is known. */
double pace_us(const pace *p, pace_step step);
/* Tokens that the next step may have, what decodes included: more than that, and at most `most`.
 * Where nobody decodes: most. With a target: what takes no longer than that. With PACE_AUTO: what
 * takes no longer than so many times what decoding alone would:
 *
 *   6     where a few such steps (3) compute the first prompt
 *   1.9   else, for one prompt: those that decode wait at most twice as long as without it
 *   + 0.8 for each prompt more, up to 6: what waits behind a long one must come on as well
 *
 * Measured with a 0.5B model on two cores, 16 in flight, 128 tokens in and 64 out, bf16 / int8:
 * prompts first gives a TTFT p50 of 1162 / 648 ms, an ITL p99 of 593 / 263 ms and 124.9 / 275
 * tok/s; short ones at 4 times 528 / 254 ms, 231 / 116 ms and 121 / 248 tok/s; at 6 times 457 / 275
 * ms, 317 / 154 ms and 124.4 / 260 tok/s. As long ones do they would queue up. */
int32_t pace_budget(const pace *p, const pace_load *load);

#endif
