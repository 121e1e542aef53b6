"""Writes tiny random checkpoints of the families that have a class of their own in transformers.

    python make_families.py [NAME ...]        all of them, or only the named ones

Needs the PyPI packages of make_archs.py, and accelerate for gpt-oss-mxfp4. Tokenizer, prompts and goldens are those of
make_archs.py: eager attention, weights as stored, arithmetic in f32. Here the model class itself names the tensors: its
parameters are drawn from the seed, and save_pretrained writes them as published checkpoints of the family have them. config.json has the keys
that published ones have, so that defaults of absent keys are used too. A case's "off" is config keys that
switch its features off; each alone must change the logits, or the case would not test it.
"""

import json
import re
import shutil
import sys
import tempfile

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.utils import logging

from make_archs import (BOS, DISTINCT, DTYPE, EOS, HERE, KEPT, LONG, MARGIN, SHORT, VOCAB, goldens_prompt, greedy, logits,
                        logprobs, numbers, tokenizer, write, write_golden)

COMMON = dict(vocab_size=VOCAB, bos_token_id=BOS, eos_token_id=EOS)
LLAMA = dict(COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             intermediate_size=56, max_position_embeddings=128, rope_theta=10000.0)
GPT = dict(COMMON, n_embd=32, n_layer=2, n_head=4, n_positions=128)

LONGROPE = {"type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [1.2, 2.5, 3.0, 4.5]}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32, "beta_slow": 1}
MINISTRAL3 = {"rope_type": "yarn", "type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16, "beta_fast": 32.0,
              "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "rope_theta": 1000000.0}
MOE = dict(num_experts_per_tok=2, moe_intermediate_size=24)
MLA = dict(COMMON, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
           intermediate_size=56, max_position_embeddings=128, rope_theta=10000.0, kv_lora_rank=16,
           qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12)
MLA_MOE = dict(MLA, n_routed_experts=8, n_shared_experts=2, first_k_dense_replace=1, moe_layer_freq=1, **MOE)
V3 = dict(MLA_MOE, scoring_func="sigmoid", topk_method="noaux_tc", n_group=4, topk_group=2, norm_topk_prob=True,
          routed_scaling_factor=2.5, num_nextn_predict_layers=0)


def case(architecture, model_type, config, off=None, dtype="bf16", **options):
    return dict(config={"architectures": [architecture], "model_type": model_type, **config,
                        "torch_dtype": DTYPE[dtype][0]}, off=off or {}, dtype=dtype, **options)


CASES = {
    "internlm3": case("InternLM3ForCausalLM", "internlm3", dict(
        LLAMA, head_dim=8, rms_norm_eps=1e-5, qkv_bias=True, bias=True, rope_theta=50000000,
        rope_scaling={"factor": 6.0, "rope_type": "dynamic"}, max_position_embeddings=256, tie_word_embeddings=False)),
    "qwen2-moe": case("Qwen2MoeForCausalLM", "qwen2_moe", dict(
        LLAMA, **MOE, num_hidden_layers=3, num_experts=6, shared_expert_intermediate_size=40, norm_topk_prob=False,
        decoder_sparse_step=1, rope_theta=1000000.0, rms_norm_eps=1e-6, use_sliding_window=False, sliding_window=8,
        max_window_layers=2, tie_word_embeddings=False, mlp_only_layers=[1]), dict(norm_topk_prob=True)),
    "qwen2-moe-step": case("Qwen2MoeForCausalLM", "qwen2_moe", dict(
        LLAMA, **MOE, num_hidden_layers=2, num_experts=4, shared_expert_intermediate_size=40, norm_topk_prob=True,
        decoder_sparse_step=2, rms_norm_eps=1e-6, tie_word_embeddings=False), dict(norm_topk_prob=False)),
    "qwen3-moe": case("Qwen3MoeForCausalLM", "qwen3_moe", dict(
        LLAMA, **MOE, head_dim=16, num_experts=8, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[],
        attention_bias=False, rms_norm_eps=1e-6, rope_theta=1000000.0, tie_word_embeddings=False),
        dict(norm_topk_prob=False)),
    "glm": case("GlmForCausalLM", "glm", dict(
        LLAMA, head_dim=16, attention_bias=True, partial_rotary_factor=0.5, rms_norm_eps=1.5625e-07, hidden_act="silu",
        pad_token_id=0, tie_word_embeddings=False)),
    "glm4": case("Glm4ForCausalLM", "glm4", dict(
        LLAMA, head_dim=8, attention_bias=False, partial_rotary_factor=0.5, rms_norm_eps=1e-5, hidden_act="silu",
        pad_token_id=0, tie_word_embeddings=False)),
    "glm4-moe": case("Glm4MoeForCausalLM", "glm4_moe", dict(
        LLAMA, **MOE, num_hidden_layers=3, head_dim=16, attention_bias=True, partial_rotary_factor=0.5, use_qk_norm=True,
        first_k_dense_replace=1, n_routed_experts=8, n_shared_experts=1, n_group=1, topk_group=1, norm_topk_prob=True,
        routed_scaling_factor=1.5, rms_norm_eps=1e-5, num_nextn_predict_layers=1, tie_word_embeddings=False),
        dict(routed_scaling_factor=1.0, norm_topk_prob=False), mtp=True),
    "glm4-moe-air": case("Glm4MoeForCausalLM", "glm4_moe", dict(
        LLAMA, **MOE, head_dim=8, attention_bias=True, partial_rotary_factor=0.5, use_qk_norm=False,
        first_k_dense_replace=1, n_routed_experts=8, n_shared_experts=1, n_group=4, topk_group=2, norm_topk_prob=True,
        routed_scaling_factor=1.0, rms_norm_eps=1e-5, tie_word_embeddings=False), dict(topk_group=4)),
    "bloom": case("BloomForCausalLM", "bloom", dict(
        COMMON, hidden_size=48, n_layer=2, n_head=6, seq_length=128, layer_norm_epsilon=1e-5,
        apply_residual_connection_post_layernorm=False), mix=2, strip="transformer."),
    "bloom-post-residual": case("BloomForCausalLM", "bloom", dict(
        COMMON, n_embed=32, n_layer=2, num_attention_heads=4, seq_length=128, layer_norm_epsilon=1e-5,
        apply_residual_connection_post_layernorm=True), dict(apply_residual_connection_post_layernorm=False), mix=3,
        distinct=5),
    "opt": case("OPTForCausalLM", "opt", dict(
        COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=72, word_embed_proj_dim=32,
        max_position_embeddings=128, do_layer_norm_before=True, activation_function="relu", pad_token_id=1)),
    "opt-post-norm": case("OPTForCausalLM", "opt", dict(
        COMMON, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, ffn_dim=72, word_embed_proj_dim=24,
        max_position_embeddings=128, do_layer_norm_before=False, activation_function="relu", pad_token_id=1), embed=0.5),
    "opt-no-bias": case("OPTForCausalLM", "opt", dict(
        COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=72, word_embed_proj_dim=32,
        max_position_embeddings=128, do_layer_norm_before=True, _remove_final_layer_norm=True, enable_bias=False,
        activation_function="gelu", pad_token_id=1), dtype="f16", embed=0.3),
    "gpt2": case("GPT2LMHeadModel", "gpt2", dict(GPT, n_ctx=128, activation_function="gelu_new"), dtype="f32",
                 strip="transformer."),
    "gpt2-scaled": case("GPT2LMHeadModel", "gpt2", dict(
        GPT, n_ctx=128, activation_function="gelu_new", n_inner=40, scale_attn_by_inverse_layer_idx=True),
        dict(scale_attn_by_inverse_layer_idx=False)),
    "gptj": case("GPTJForCausalLM", "gptj", dict(
        GPT, n_embd=48, rotary_dim=8, activation_function="gelu_new", n_inner=None, tie_word_embeddings=False),
        dict(rotary_dim=4)),
    "codegen": case("CodeGenForCausalLM", "codegen", dict(
        GPT, n_ctx=128, n_embd=32, n_head=4, n_inner=72, rotary_dim=4, activation_function="gelu_new", tie_word_embeddings=False),
        dict(rotary_dim=8)),
    "neox": case("GPTNeoXForCausalLM", "gpt_neox", dict(
        COMMON, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=128, rotary_pct=0.25, rotary_emb_base=10000, use_parallel_residual=True,
        hidden_act="gelu", layer_norm_eps=1e-5, tie_word_embeddings=False), dict(use_parallel_residual=False)),
    "neox-sequential": case("GPTNeoXForCausalLM", "gpt_neox", dict(
        COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=128, rotary_pct=1.0, rotary_emb_base=5000, use_parallel_residual=False,
        attention_bias=False, hidden_act="gelu_fast", layer_norm_eps=1e-5, tie_word_embeddings=False),
        dict(use_parallel_residual=True)),
    "falcon-7b": case("FalconForCausalLM", "falcon", dict(
        COMMON, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, alibi=False, bias=False, multi_query=True,
        new_decoder_architecture=False, parallel_attn=True, layer_norm_epsilon=1e-5)),
    "falcon-40b": case("FalconForCausalLM", "falcon", dict(
        COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=8, num_kv_heads=2, alibi=False, bias=False,
        multi_query=True, new_decoder_architecture=True, parallel_attn=True, layer_norm_epsilon=1e-5)),
    "falcon-11b": case("FalconForCausalLM", "falcon", dict(
        COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_kv_heads=2, alibi=False, bias=False,
        multi_query=True, new_decoder_architecture=True, num_ln_in_parallel_attn=1, parallel_attn=True,
        ffn_hidden_size=72, rope_theta=500042.0, tie_word_embeddings=False, layer_norm_epsilon=1e-5)),
    "falcon-rw": case("FalconForCausalLM", "falcon", dict(
        COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=True, bias=True, multi_query=False,
        new_decoder_architecture=False, parallel_attn=False, layer_norm_epsilon=1e-5), mix=2, distinct=7,
        attention="sdpa"),  # the eager code of this version adds the bias twice: in the mask and beside it
    "phi": case("PhiForCausalLM", "phi", dict(
        LLAMA, hidden_size=40, num_key_value_heads=4, partial_rotary_factor=0.4, hidden_act="gelu_new",
        layer_norm_eps=1e-5, qk_layernorm=False, tie_word_embeddings=False)),
    "phi-qk-norm": case("PhiForCausalLM", "phi", dict(
        LLAMA, hidden_size=32, hidden_act="gelu_new", layer_norm_eps=1e-5, qk_layernorm=True,
        tie_word_embeddings=False), mix=2),
    "phi3": case("Phi3ForCausalLM", "phi3", dict(
        LLAMA, pad_token_id=0, hidden_size=32, rms_norm_eps=1e-5, sliding_window=9, rope_scaling=None,
        original_max_position_embeddings=128, tie_word_embeddings=False), dict(sliding_window=None)),
    "phi3-longrope": case("Phi3ForCausalLM", "phi3", dict(
        LLAMA, pad_token_id=0, hidden_size=32, rms_norm_eps=1e-5, sliding_window=None, rope_scaling=LONGROPE,
        max_position_embeddings=256, original_max_position_embeddings=60, tie_word_embeddings=False),
        dict(rope_scaling=None)),
    "phi4-mini": case("Phi3ForCausalLM", "phi3", dict(
        LLAMA, pad_token_id=0, hidden_size=32, num_attention_heads=2, num_key_value_heads=1, rms_norm_eps=1e-5,
        partial_rotary_factor=0.5, rope_scaling=LONGROPE, max_position_embeddings=256,
        original_max_position_embeddings=60, tie_word_embeddings=True), dict(rope_scaling=None)),
    "mixtral": case("MixtralForCausalLM", "mixtral", dict(
        LLAMA, num_local_experts=8, num_experts_per_tok=2, intermediate_size=32, rms_norm_eps=1e-5, rope_theta=1e6,
        sliding_window=None, tie_word_embeddings=False)),
    "mixtral-window": case("MixtralForCausalLM", "mixtral", dict(
        LLAMA, num_local_experts=4, num_experts_per_tok=3, intermediate_size=32, rms_norm_eps=1e-5, rope_theta=1e6,
        sliding_window=9, tie_word_embeddings=False), dict(sliding_window=None)),
    "gemma": case("GemmaForCausalLM", "gemma", dict(
        LLAMA, hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-6,
        hidden_act="gelu_pytorch_tanh"), embed=0.04, final=10),
    "gemma2": case("Gemma2ForCausalLM", "gemma2", dict(
        LLAMA, hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=16, rms_norm_eps=1e-6,
        query_pre_attn_scalar=24, sliding_window=9, attn_logit_softcapping=4.0, final_logit_softcapping=10.0,
        hidden_activation="gelu_pytorch_tanh"),
        dict(attn_logit_softcapping=None, final_logit_softcapping=None, query_pre_attn_scalar=16, sliding_window=100), embed=0.04, final=20),
    "gemma3": case("Gemma3ForCausalLM", "gemma3_text", dict(
        LLAMA, hidden_size=64, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=40, rms_norm_eps=1e-6, query_pre_attn_scalar=16, sliding_window=9, sliding_window_pattern=3,
        rope_theta=1000000.0, rope_local_base_freq=2000.0, rope_scaling={"factor": 8.0, "rope_type": "linear"},
        hidden_activation="gelu_pytorch_tanh"), dict(sliding_window=100), embed=0.04, final=10),
    "gemma3-v5": case("Gemma3ForCausalLM", "gemma3_text", dict(
        COMMON, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=40, max_position_embeddings=128, rms_norm_eps=1e-6, query_pre_attn_scalar=8, sliding_window=9,
        layer_types=["full_attention", "sliding_attention"], rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 3000.0}},
        hidden_activation="gelu_pytorch_tanh"), dict(sliding_window=100), embed=0.04, final=10),
    "deepseek-v2": case("DeepseekV2ForCausalLM", "deepseek_v2", dict(
        {**MLA_MOE, "num_experts_per_tok": 3}, q_lora_rank=24, topk_method="group_limited_greedy", n_group=4, topk_group=2, scoring_func="softmax",
        norm_topk_prob=False, routed_scaling_factor=4.0, rope_scaling={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        tie_word_embeddings=False), dict(topk_group=4, routed_scaling_factor=1.0, rope_scaling=None)),
    "deepseek-v2-lite": case("DeepseekV2ForCausalLM", "deepseek_v2", dict(
        MLA_MOE, q_lora_rank=None, topk_method="greedy", n_group=1, topk_group=1, scoring_func="softmax",
        norm_topk_prob=False, routed_scaling_factor=1.0, rope_scaling={**YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
        tie_word_embeddings=False), dict(rope_scaling=None)),
    "deepseek-v3": case("DeepseekV3ForCausalLM", "deepseek_v3", dict(
        V3, q_lora_rank=24, rope_scaling={**YARN, "mscale": 1.0, "mscale_all_dim": 1.0}, tie_word_embeddings=False),
        dict(topk_group=4, routed_scaling_factor=1.0, norm_topk_prob=False, rope_scaling=None)),
    "deepseek-v3-no-lora": case("DeepseekV3ForCausalLM", "deepseek_v3", dict(
        V3, num_hidden_layers=2, q_lora_rank=None, attention_bias=True, rope_interleave=False,
        tie_word_embeddings=False), dict(rope_interleave=True)),
    "minicpm3": case("MiniCPM3ForCausalLM", "minicpm3", dict(
        COMMON, hidden_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4, intermediate_size=56,
        max_position_embeddings=256, rms_norm_eps=1e-5, q_lora_rank=24, kv_lora_rank=16, qk_nope_head_dim=8,
        qk_rope_head_dim=8, scale_emb=3, scale_depth=1.4, dim_model_base=24, rope_scaling={
            **LONGROPE, "original_max_position_embeddings": 60}),
        dict(scale_emb=1, scale_depth=1.0, dim_model_base=48, rope_scaling=None)),
    "stablelm": case("StableLmForCausalLM", "stablelm", dict(
        LLAMA, hidden_size=64, partial_rotary_factor=0.25, layer_norm_eps=1e-5, use_qkv_bias=True, qk_layernorm=False,
        use_parallel_residual=False, hidden_act="silu", tie_word_embeddings=False)),
    "stablelm-parallel": case("StableLmForCausalLM", "stablelm", dict(
        LLAMA, num_attention_heads=2, num_key_value_heads=1, rope_pct=0.25, layer_norm_eps=1e-5, use_qkv_bias=False,
        qk_layernorm=True, use_parallel_residual=True, hidden_act="silu", tie_word_embeddings=False)),
    "cohere": case("CohereForCausalLM", "cohere", dict(
        LLAMA, num_key_value_heads=4, layer_norm_eps=1e-5, logit_scale=0.25, rope_theta=8000000.0, use_qk_norm=False,
        hidden_act="silu"), dict(logit_scale=1.0), final=16),
    "cohere-qk-norm": case("CohereForCausalLM", "cohere", dict(
        LLAMA, layer_norm_eps=1e-5, logit_scale=0.5, rope_theta=75000000.0, use_qk_norm=True, hidden_act="silu"),
        final=8),
    "cohere2": case("Cohere2ForCausalLM", "cohere2", dict(
        LLAMA, num_hidden_layers=4, head_dim=8, intermediate_size=40, layer_norm_eps=1e-5, logit_scale=0.25,
        rope_theta=50000, sliding_window=9, sliding_window_pattern=4, order_of_interleaved_layers="local_attn_first",
        rotary_pct=1.0, position_embedding_type="rope_gptj", use_qk_norm=False, hidden_act="silu"),
        dict(sliding_window=100), final=16),
    "olmo": case("OlmoForCausalLM", "olmo", dict(LLAMA, clip_qkv=0.8, tie_word_embeddings=False), dict(clip_qkv=None)),
    "olmo-tied": case("OlmoForCausalLM", "olmo", dict(LLAMA, num_key_value_heads=4, clip_qkv=None,
                                                      tie_word_embeddings=True), embed=0.4),
    "olmo2": case("Olmo2ForCausalLM", "olmo2", dict(
        LLAMA, rms_norm_eps=1e-6, rope_theta=500000, attention_bias=False, tie_word_embeddings=False)),
    "gpt-oss": case("GptOssForCausalLM", "gpt_oss", dict(
        COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=24, num_local_experts=6, num_experts_per_tok=3, experts_per_token=3, sliding_window=9,
        layer_types=["sliding_attention", "full_attention"], attention_bias=True, rms_norm_eps=1e-5,
        max_position_embeddings=128, rope_theta=150000, swiglu_limit=7.0, hidden_act="silu", initial_context_length=32,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
                      "original_max_position_embeddings": 32}, tie_word_embeddings=False), dict(sliding_window=100)),
    "ministral": case("MinistralForCausalLM", "ministral", dict(
        LLAMA, num_hidden_layers=2, head_dim=16, rms_norm_eps=1e-6, sliding_window=9,
        layer_types=["full_attention", "sliding_attention"], tie_word_embeddings=False), dict(sliding_window=100)),
    "gemma3-vision": case("Gemma3ForCausalLM", "gemma3_text", dict(
        LLAMA, hidden_size=64, num_attention_heads=2, num_key_value_heads=1, head_dim=8, intermediate_size=40,
        rms_norm_eps=1e-6, query_pre_attn_scalar=8, sliding_window=9, sliding_window_pattern=2,
        rope_scaling={"factor": 8.0, "rope_type": "linear"}, hidden_activation="gelu_pytorch_tanh"),
        embed=0.04, final=10, wrap=("Gemma3ForConditionalGeneration", "gemma3", "language_model.")),
    "qwen3-embedding": case("Qwen3ForCausalLM", "qwen3", dict(
        LLAMA, head_dim=16, attention_bias=False, rms_norm_eps=1e-6, rope_theta=1000000.0, use_sliding_window=False,
        sliding_window=None, max_window_layers=2, tie_word_embeddings=True), strip="model.", hidden=True),
    "gpt-oss-mxfp4": case("GptOssForCausalLM", "gpt_oss", dict(
        COMMON, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        intermediate_size=64, num_local_experts=4, num_experts_per_tok=2, experts_per_token=2, sliding_window=9,
        layer_types=["sliding_attention", "full_attention"], attention_bias=True, rms_norm_eps=1e-5,
        max_position_embeddings=128, rope_theta=150000, swiglu_limit=7.0, hidden_act="silu", rope_scaling={
            **YARN, "truncate": False}, tie_word_embeddings=False, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": [
            "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}), mxfp4=True),
    "granite": case("GraniteForCausalLM", "granite", dict(
        LLAMA, num_hidden_layers=2, embedding_multiplier=3.0, residual_multiplier=0.6, attention_multiplier=0.2,
        logits_scaling=2.0, rms_norm_eps=1e-5, tie_word_embeddings=False),
        dict(embedding_multiplier=1.0, residual_multiplier=1.0, attention_multiplier=0.5, logits_scaling=1.0)),
    "starcoder2": case("Starcoder2ForCausalLM", "starcoder2", dict(
        LLAMA, norm_epsilon=1e-5, use_bias=True, sliding_window=9, hidden_act="gelu_pytorch_tanh"),
        dict(sliding_window=None)),
    "smollm3": case("SmolLM3ForCausalLM", "smollm3", dict(
        LLAMA, num_hidden_layers=3, intermediate_size=40, pad_token_id=0, no_rope_layers=[1, 0, 1],
        no_rope_layer_interval=4, attention_bias=False, rms_norm_eps=1e-6, rope_theta=2000000.0,
        layer_types=["full_attention"] * 3, use_sliding_window=False, tie_word_embeddings=True),
        dict(no_rope_layers=[1, 1, 1])),
    "ernie4_5": case("Ernie4_5ForCausalLM", "ernie4_5", dict(
        LLAMA, head_dim=16, use_bias=True, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True)),
    "seed-oss": case("SeedOssForCausalLM", "seed_oss", dict(
        LLAMA, head_dim=16, attention_bias=True, attention_out_bias=False, mlp_bias=False, rms_norm_eps=1e-6,
        tie_word_embeddings=False)),
    "olmoe": case("OlmoeForCausalLM", "olmoe", dict(
        LLAMA, num_key_value_heads=4, intermediate_size=24, num_experts=6, num_experts_per_tok=3, norm_topk_prob=False,
        clip_qkv=1.5, rms_norm_eps=1e-5, pad_token_id=0, tie_word_embeddings=False),
        dict(clip_qkv=None, norm_topk_prob=True)),
    "olmo3": case("Olmo3ForCausalLM", "olmo3", dict(
        LLAMA, num_hidden_layers=4, intermediate_size=40, rms_norm_eps=1e-6, rope_theta=500000, sliding_window=9,
        rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 32.0,
                      "beta_slow": 1.0}, attention_bias=False, pad_token_id=0, tie_word_embeddings=False),
        dict(sliding_window=100)),
    "gpt-bigcode": case("GPTBigCodeForCausalLM", "gpt_bigcode", dict(
        GPT, multi_query=True, activation_function="gelu_pytorch_tanh", scale_attn_weights=True,
        attention_softmax_in_fp32=True)),
    "ministral3": case("Ministral3ForCausalLM", "ministral3", dict(
        {k: v for k, v in LLAMA.items() if k != "rope_theta"}, head_dim=16, rms_norm_eps=1e-5, sliding_window=None,
        hidden_act="silu", rope_parameters={**MINISTRAL3, "llama_4_scaling_beta": 0.9}, tie_word_embeddings=False),
        dict(rope_parameters={**MINISTRAL3, "llama_4_scaling_beta": 0.0}),
        wrap=("Mistral3ForConditionalGeneration", "mistral3", "language_model.")),
}

ENCODER = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=56, vocab_size=VOCAB,
               hidden_act="gelu", position_embedding_type="absolute")
ENCODERS = {
    "bert": case("BertModel", "bert", dict(
        ENCODER, max_position_embeddings=128, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0), dtype="f32"),
    "bert-prefix": case("BertForMaskedLM", "bert", dict(
        ENCODER, max_position_embeddings=80, type_vocab_size=2, layer_norm_eps=1e-12, pad_token_id=0,
        num_hidden_layers=1), greek=True),
    "xlm-roberta": case("XLMRobertaModel", "xlm-roberta", dict(
        ENCODER, max_position_embeddings=130, type_vocab_size=1, layer_norm_eps=1e-5, pad_token_id=1,
        bos_token_id=0, eos_token_id=2)),
}


# ---- weights ------------------------------------------------------------------------------------

def is_norm(name):
    return re.search(r"(norm|ln_\w+|norms\.\d+)\.(weight|bias)$", name.lower()) is not None


def is_final_norm(name):
    return re.search(r"^(model\.|transformer\.|gpt_neox\.|model\.decoder\.|model\.language_model\.)?"
                     r"(norm|ln_f|final_layer_?norm)\.weight$", name) is not None


def draw(rng, name, shape, options, tied):
    """One tensor: attention sharp enough to matter, logits far from uniform, norms and biases that are seen."""
    if is_norm(name) and name.endswith("weight"):
        base = rng.normal(0, 0.2, shape) + (0 if options["plus1"] else 0.3 if "embeddings_layernorm" in name else 1)
        gain = options.get("final", 4 if tied else 1) if is_final_norm(name) else 1
        return base * gain + (gain - 1 if options["plus1"] else 0)
    if "embeddings_layernorm" in name:
        return rng.normal(0, 0.05, shape)
    if name.endswith("e_score_correction_bias"):
        return rng.normal(0, 0.2, shape)
    if name.endswith("sinks"):
        return rng.normal(0.5, 1, shape)
    if len(shape) == 1 or name.endswith("_bias"):
        return rng.normal(0, 0.3, shape)
    if re.search(r"(embed_tokens|wte|word_embeddings|embed_in)\.weight$", name):
        return rng.normal(0, options.get("embed", 0.1 if tied else 0.4), shape)
    if re.search(r"(embed_positions|wpe|position_embeddings|token_type_embeddings)\.weight$", name):
        return rng.normal(0, 0.2, shape)
    conv1d = options["conv1d"] and re.search(r"(c_attn|c_proj|c_fc)\.weight$", name)
    gpt_oss = re.search(r"experts\.(gate_up_proj|down_proj)$", name) and options["model_type"] == "gpt_oss"
    width = shape[-2] if conv1d or gpt_oss else shape[-1]
    gain = 1.0
    if re.search(r"(lm_head|embed_out)\.weight$", name):
        gain = 2.5
    elif re.search(r"(q_proj|k_proj|q_b_proj|query_key_value|qkv_proj|c_attn|query|key)\.weight$", name):
        gain = 1.6
    elif re.search(r"(gate|router)\.weight$", name):
        gain = 2.0
    else:
        gain = options.get("mix", 1.0)  # what the branches add beside the embedding
    return rng.normal(0, gain / np.sqrt(width), shape)


def draw_all(model, seed, options):
    rng = np.random.default_rng(seed)
    state = model.state_dict()
    heads = [n for n in state if re.search(r"(lm_head|embed_out)\.weight$", n)]
    embeds = [n for n in state if re.search(r"(embed_tokens|wte|word_embeddings|embed_in)\.weight$", n)]
    tied = bool(heads) and state[heads[0]].data_ptr() == state[embeds[0]].data_ptr()
    with torch.no_grad():
        for name in sorted(state):
            if not (tied and name in heads):
                state[name].copy_(torch.tensor(draw(rng, name, tuple(state[name].shape), options, tied)))
    return tied


def mxfp4(stack):
    """[experts, in, out] as blocks and scales along `in`: 32 codes of E2M1, low nibble first, with 2 ** (scale - 127)."""
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    rows = stack.float().transpose(1, 2).unflatten(-1, (-1, 32))
    exponent = torch.floor(torch.log2(rows.abs().amax(-1, keepdim=True))) - 2
    scaled = rows / torch.exp2(exponent)
    codes = (scaled.abs()[..., None] - values).abs().argmin(-1) + 8 * (scaled < 0)
    blocks = (codes[..., 0::2] + 16 * codes[..., 1::2]).to(torch.uint8)
    return blocks.contiguous(), (exponent[..., 0] + 127).to(torch.uint8)


def publish(model, folder, options):
    """What save_pretrained writes, in the stored type; "strip" leaves a prefix out, as some published files do."""
    with tempfile.TemporaryDirectory() as tmp:
        model.save_pretrained(tmp)
        tensors = load_file(f"{tmp}/model.safetensors")
    dtype = DTYPE[options["dtype"]][1]
    tensors = {n: t.to(torch.float32 if n.endswith("e_score_correction_bias") else dtype).contiguous()
               for n, t in tensors.items()}
    if options.get("strip"):
        tensors = {n.removeprefix(options["strip"]): t for n, t in tensors.items()}
    if options.get("mxfp4"):
        for n in [n for n in tensors if n.endswith(("gate_up_proj", "down_proj"))]:
            tensors[n + "_blocks"], tensors[n + "_scales"] = mxfp4(tensors.pop(n))
    if options.get("mtp"):  # the extra layer for speculation, which the family file ignores
        last = len({n.split(".")[2] for n in tensors if n.startswith("model.layers.")})
        tensors[f"model.layers.{last}.eh_proj.weight"] = torch.zeros(8, 16, dtype=dtype)
    save_file(dict(sorted(tensors.items())), folder / "model.safetensors", metadata={"format": "pt"})


def load(folder, attention="eager", **changes):
    plain_rope = "rope_scaling" in changes and changes.pop("rope_scaling") is None
    config = AutoConfig.from_pretrained(folder, **changes)
    if plain_rope:
        config.rope_parameters = {"rope_type": "default", "rope_theta": config.rope_parameters["rope_theta"],
                                  "partial_rotary_factor": config.rope_parameters.get("partial_rotary_factor", 1.0)}
    model, info = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32,
                                                       attn_implementation=attention, output_loading_info=True)
    assert not info["missing_keys"], info["missing_keys"]
    return model.eval()


# ---- goldens ------------------------------------------------------------------------------------

def goldens(model, seed):
    cases = []
    for name, n in (("short", SHORT), ("long", LONG)):
        ids = goldens_prompt(seed, n)
        out = logits(model, ids)
        one = {"name": name, "prompt": ids, "prompt_logprobs": logprobs(out, ids), "logits_last": numbers(out[-1])}
        if name == "short":
            one["logits_at"], one["logits"] = KEPT, [numbers(out[i]) for i in KEPT]
        one["greedy"], margin = greedy(model, ids)
        one["margin_min"] = round(margin, 5)
        cases.append(one)
    return cases


def wrap(folder, c, wrapper):
    """The same text model as part of a multimodal one: keys in text_config, names with a prefix, foreign tensors."""
    architecture, model_type, prefix = wrapper
    tensors = {prefix + n: t for n, t in load_file(folder / "model.safetensors").items()}
    tensors["vision_tower.patch_embedding.weight"] = torch.zeros(4, 3)
    save_file(dict(sorted(tensors.items())), folder / "model.safetensors", metadata={"format": "pt"})
    text = {k: v for k, v in c.items() if k not in ("architectures", "torch_dtype", "bos_token_id", "eos_token_id")}
    write(folder / "config.json", {"architectures": [architecture], "model_type": model_type, "text_config": text,
                                   "torch_dtype": c["torch_dtype"], "vision_config": {"model_type": "siglip_vision_model"}})


@torch.no_grad()
def hidden(model, ids):
    """Hidden states after the last norm, [n, hidden]."""
    base = getattr(model, model.base_model_prefix, model)
    return base(input_ids=torch.tensor([ids])).last_hidden_state[0]


def write_hidden(folder, family, dtype, seed, model):
    """hidden.json: last_hidden_state of some rows, and their mean."""
    cases = []
    for name, n in (("short", SHORT), ("long", LONG)):
        pad = model.config.pad_token_id  # which would be left out of the positions
        ids = [7 if i == pad else i for i in goldens_prompt(seed, n)]
        out = hidden(model, ids)
        at = [0, n // 2, n - 1]
        cases.append({"name": name, "prompt": ids, "hidden_at": at, "hidden": [numbers(out[i]) for i in at],
                      "mean": numbers(out.mean(0))})
    text = ",\n".join("  " + json.dumps(one, separators=(",", ":")) for one in cases)
    head = json.dumps({"family": family, "dtype": dtype, "seed": seed})
    (folder / "hidden.json").write_text(head[:-1] + ', "cases": [\n' + text + "\n]}\n")


def make_encoder(name, number):
    options = {**ENCODERS[name], "plus1": False, "conv1d": False}
    c, seed = options["config"], 90000 + number
    options["model_type"] = c["model_type"]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write(folder / "config.json", c)
    tokenizer(folder)
    auto = AutoModelForMaskedLM if "MaskedLM" in c["architectures"][0] else AutoModel
    blank = auto.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    draw_all(blank, seed, options)
    publish(blank, folder, options)
    model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    write_hidden(folder, c["model_type"], options["dtype"], seed, model)
    if options.get("greek"):  # the names of the first published checkpoints
        tensors = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
                   for n, t in load_file(folder / "model.safetensors").items()}
        save_file(dict(sorted(tensors.items())), folder / "model.safetensors", metadata={"format": "pt"})
    print(f"{name}: {sum(f.stat().st_size for f in folder.iterdir()) // 1024} KiB", flush=True)


def check(name, folder, model, off, ids):
    for key, value in off.items():
        change = float((logits(load(folder, **{key: value}), ids) - logits(model, ids)).abs().max())
        assert change > 0.2, f"{name}: {key} changes the logits by {change} only"


def make(name, number):
    options = CASES[name]
    c = options["config"]
    options = {**options, "plus1": c["model_type"].startswith("gemma"), "conv1d": c["model_type"] == "gpt2",
               "model_type": c["model_type"]}
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write(folder / "config.json", c)
    write(folder / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS})
    tokenizer(folder)
    for seed in range(50000 + number * 100, 50000 + number * 100 + 400):
        config = AutoConfig.from_pretrained(folder)
        if options.get("mxfp4"):
            del config.quantization_config
        blank = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        tied = draw_all(blank, seed, options)
        assert tied == blank.config.tie_word_embeddings, name
        publish(blank, folder, options)
        model = load(folder, options.get("attention", "eager"))
        cases = goldens(model, seed)
        paths = [(p["margin_min"], len(set(p["greedy"]))) for p in cases]
        if min(p[0] for p in paths) >= MARGIN and min(p[1] for p in paths) >= options.get("distinct", DISTINCT):
            break
        print(seed, paths) if "-v" in sys.argv else None
    else:
        raise SystemExit(f"{name}: no seed without a near tie")
    check(name, folder, model, options["off"], goldens_prompt(seed, LONG))
    write_golden(folder / "golden.json",
                 {"family": c["model_type"], "dtype": options["dtype"], "seed": seed, "cases": cases})
    if options.get("hidden"):
        write_hidden(folder, c["model_type"], options["dtype"], seed, model)
    if "wrap" in options:
        wrap(folder, c, options["wrap"])
    spread = float(np.std(cases[0]["logits_last"]))
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: seed {seed}, {size // 1024} KiB, logits std {spread:.2f}, (margin, distinct ids) {paths}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for name in [a for a in sys.argv[1:] if a != "-v"] or [*CASES, *ENCODERS]:
        if name in ENCODERS:
            make_encoder(name, list(ENCODERS).index(name))
        else:
            make(name, list(CASES).index(name) + 1)
