/* Which kernel serves which op, for people (--print-kernels): op, storage types, kernel, and what
 * decides where there are several. Devices are alike in this but for what a line names. */
#include "kernels/cuda/cuda_backend.h"

extern const char cuda_kernels[];
const char cuda_kernels[] =
    "embed             f32 f16 bf16  embed_kernel, a warp a row\n"
    "embed             GGUF blocks   embed_blocks_kernel\n"
    "norm              f32           norm_warps to 1024 columns, else norm_blocks\n"
    "gemm              f32           lanes_kernel\n"
    "gemm              f16 bf16      splits_kernel to 32 rows, then tiles_kernel of 64, of 128\n"
    "gemm              int4, 16-bit  int4_kernel to 32 rows, then expanded for the tiles\n"
    "gemm              quantised     unpack_kernel to 16 rows, then expanded for lanes_kernel\n"
    "lora              f32 f16 bf16  down_kernel and up_kernel over all adapters' rows\n"
    "rope_kv           kv            rope_kv_kernel\n"
    "attention         kv f32        attn_f32_kernel\n"
    "attention         kv 16-bit     attn_group_kernel for few rows, attn_prefill_kernel for "
    "many;\n"
    "                                attn_merge_kernel where keys are split\n"
    "latent_kv         kv            latent_kv_kernel\n"
    "latent_attention  kv f32        attn_f32_kernel\n"
    "latent_attention  kv 16-bit     attn_group_kernel\n"
    "act               f32           cells kernel; act_codes_kernel for rows stored as codes\n"
    "add               f32           cells kernel\n"
    "scale             f32           cells kernel\n"
    "limit             f32           cells kernel\n"
    "route             f32           route_kernel\n"
    "experts           as gemm       sort_kernel, gemm's kernels over runs of rows, "
    "combine_kernel\n"
    "chain             ids           chain_kernel\n"
    "copy_pages        bytes         copy_kernel\n"
    "logsumexp         f32           pieces_kernel, merge_kernel\n"
    "sample            f32           sample_apply to sample_restore, as the rows' parameters "
    "need\n";
