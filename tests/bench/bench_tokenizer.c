/* Tokenizer speed on one core: usage: bench_tokenizer TOKENIZER TEXT [pretokenizer [chunk bytes]].
 * Prints the time to open, and tokens and bytes per second for encoding the text in chunks (cold:
 * first pass, warm: best of five) and for decoding its ids, whole and through the incremental
 * detokeniser. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/base/clock.h"
#include "engine/base/file.h"
#include "engine/base/mem.h"
#include "tokenizer/detok.h"
#include "tokenizer/tokenizer.h"

static size_t encode_all(const tokenizer *t, str text, size_t chunk, vec_i32 *ids) {
    size_t total = 0;
    error err;
    for (size_t at = 0; at < text.n;) {
        size_t end = MIN(text.n, at + chunk);
        while (end < text.n && ((unsigned char)text.p[end] & 0xC0) == 0x80) end++;
        ids->n = 0;
        if (tokenizer_encode(t, str_cut(text, at, end), 0, 0, ids, &err) != OK) exit(1);
        total += ids->n;
        at = end;
    }
    return total;
}

static void report(const char *what, uint64_t ns, size_t tokens, size_t bytes) {
    double s = (double)ns * 1e-9;
    printf("  %-12s %8.2f ms  %7.2f Mtok/s  %7.1f MB/s\n", what, s * 1e3, (double)tokens / s * 1e-6,
           (double)bytes / s * 1e-6);
}

static void bench_decode(const tokenizer *t, const vec_i32 *ids) {
    strbuf out = {0};
    uint64_t t0 = clock_ns();
    tokenizer_decode(t, ids->p, ids->n, false, &out);
    report("decode", clock_ns() - t0, ids->n, out.n);
    strbuf_clear(&out);
    t0 = clock_ns();
    detok *d = detok_new(t, false);
    for (size_t i = 0; i < ids->n; i++) detok_push(d, ids->p[i], &out);
    detok_flush(d, &out);
    detok_free(d);
    report("stream", clock_ns() - t0, ids->n, out.n);
    strbuf_done(&out);
}

int main(int argc, char **argv) {
    tokenizer *t;
    error err;
    strbuf b = {0};
    vec_i32 ids = {0};
    tokenizer_options o = {.pretokenizer = argc > 3 && argv[3][0] != '-' ? argv[3] : NULL};
    size_t chunk = argc > 4 ? (size_t)strtoull(argv[4], NULL, 10) : (size_t)1 << 30;
    if (argc < 3 || !chunk) {
        fprintf(stderr, "usage: bench_tokenizer TOKENIZER TEXT [pretokenizer|- [chunk bytes]]\n");
        return 2;
    }
    uint64_t t0 = clock_ns();
    if (tokenizer_open(argv[1], &o, &t, &err) != OK ||
        file_read(argv[2], (size_t)1 << 30, &b, &err) != OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    str text = strbuf_str(&b);
    printf("%s (%s), %s\n  open         %8.2f ms\n", argv[1], tokenizer_kind(t), argv[2],
           (double)(clock_ns() - t0) * 1e-6);
    t0 = clock_ns();
    size_t tokens = encode_all(t, text, chunk, &ids);
    report("encode cold", clock_ns() - t0, tokens, text.n);
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 5; i++) {
        t0 = clock_ns();
        encode_all(t, text, chunk, &ids);
        best = MIN(best, clock_ns() - t0);
    }
    report("encode warm", best, tokens, text.n);
    bench_decode(t, &ids);
    vec_done(&ids);
    strbuf_done(&b);
    tokenizer_free(t);
    return 0;
}
