/* rope_kv and attention. */
#include "tests/kernels/checkkern.h"

void check_attention(check_ctx *c) {
    (void)c;
}
