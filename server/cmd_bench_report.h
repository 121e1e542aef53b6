/* What `pagoda bench serve` prints of a load: a table, a line of a sweep, or JSON. */
#ifndef SERVER_CMD_BENCH_REPORT_H
#define SERVER_CMD_BENCH_REPORT_H

#include "server/cmd_bench_run.h"

typedef enum bench_format {
    BENCH_TABLE, /* one load at length */
    BENCH_LINE,  /* one line of a sweep; bench_add_heading goes before the first */
    BENCH_JSON,  /* one object on one line */
} bench_format;

void bench_add_heading(strbuf *out);
/* Sorts the vectors of r. */
void bench_add_result(const bench_load_options *o, bench_result *r, bench_format f, strbuf *out);

#endif
