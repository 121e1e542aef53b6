/* The one place where a broken invariant ends the process. */
#include "engine/base/check.h"

#include <stdio.h>
#include <stdlib.h>

void check_failed(const char *file, int line, const char *cond) {
    fprintf(stderr, "pagoda: bug: %s:%d: CHECK(%s) failed\n", file, line, cond);
    abort();
}
