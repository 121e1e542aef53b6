/* Products of 16-bit weights with many rows (cu_tiles.h). */
#include "kernels/cuda/cu_tiles.h"

template <class H>
static void launch_shape(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (p->features == 128)
        tiles_launch<H, tile_shape<4, 4, 2, 4>>(c, g, p);
    else
        tiles_launch<H, tile_shape<2, 4, 2, 2>>(c, g, p);
}

void gemm_tiles_run(cuda_backend *c, const gemm_call *g, const gemm_plan *p) {
    if (g->kind == GEMM_BF16)
        launch_shape<cu_bf16>(c, g, p);
    else
        launch_shape<cu_f16>(c, g, p);
    cuda_launched(c, "gemm");
}
