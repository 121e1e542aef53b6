"""Quantised checkpoints of families whose weights are packed, stacked, or used from both sides.

    python make_quant_families.py [NAME ...]

Needs what make_quant.py needs. A random model of the family is saved by transformers, some of its
matrices are quantised, and transformers computes the goldens with their dequantised values.
"""

import json
import pathlib
import re
import sys
import tempfile

import numpy as np
import torch
from make_quant import AT, PROMPT, awq, fp8_blocks, gptq, gptq_config
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

HERE = pathlib.Path(__file__).resolve().parent
COMMON = dict(vocab_size=48, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False, pad_token_id=None,
              max_position_embeddings=64)
SMALL = dict(COMMON, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2)


def mxfp4(w, rng):
    """[E, in, out] floats to blocks and scales [E, out, in/32(, 16)]."""
    table = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, -0., -.5, -1, -1.5, -2, -3, -4, -6], dtype=torch.float64)
    part = w.double().transpose(1, 2)
    part = part.reshape(*part.shape[:2], -1, 32)
    exponent = torch.ceil(torch.log2(part.abs().amax(-1) / 6))
    codes = (part / 2 ** exponent[..., None]).unsqueeze(-1).sub(table).abs().argmin(-1)
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
    plain = (table[codes] * 2 ** exponent[..., None]).flatten(2).transpose(1, 2).contiguous()
    return {"_blocks": blocks, "_scales": (exponent + 127).to(torch.uint8)}, plain


# name: config, what is quantised, store, quantization_config
CASES = {
    "fp8-deepseek-v3": (dict(
        COMMON, model_type="deepseek_v3", architectures=["DeepseekV3ForCausalLM"], hidden_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, intermediate_size=80, moe_intermediate_size=40,
        n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1, n_group=2, topk_group=1,
        q_lora_rank=24, kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16,
        routed_scaling_factor=2.5, norm_topk_prob=True, rope_interleave=True, rms_norm_eps=1e-6),
        r"(_proj|_proj_with_mqa)\.weight$", fp8_blocks((24, 20)),
        dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic", weight_block_size=[24, 20])),
    "gptq-phi3": (dict(SMALL, model_type="phi3", architectures=["Phi3ForCausalLM"], intermediate_size=96,
                       rms_norm_eps=1e-5),
                  r"(qkv|o|gate_up|down)_proj\.weight$", gptq(4, 32, False, True, 2),
                  gptq_config(4, 32, sym=False, desc_act=True, checkpoint_format="gptq_v2")),
    "awq-mixtral": (dict(SMALL, model_type="mixtral", architectures=["MixtralForCausalLM"], intermediate_size=32,
                         num_local_experts=3, num_experts_per_tok=2, rms_norm_eps=1e-5),
                    r"(_proj|\.w[123])\.weight$", awq,
                    dict(quant_method="awq", bits=4, group_size=32, zero_point=True, version="gemm",
                         modules_to_not_convert=["gate"])),
    "mxfp4-gpt-oss": (dict(SMALL, model_type="gpt_oss", architectures=["GptOssForCausalLM"], head_dim=16,
                           intermediate_size=32, num_local_experts=3, num_experts_per_tok=2, sliding_window=8,
                           layer_types=["full_attention"], attention_bias=True, rms_norm_eps=1e-5, rope_theta=10000.0,
                           rope_scaling={"rope_type": "default"}, rope_parameters={"rope_type": "default",
                                                                                   "rope_theta": 10000.0}),
                      r"experts\.(gate_up|down)_proj$", mxfp4,
                      dict(quant_method="mxfp4", modules_to_not_convert=["model.layers.*.self_attn", "lm_head"])),
    "gptq-internlm2": (dict(SMALL, model_type="llama", architectures=["LlamaForCausalLM"], intermediate_size=96,
                            rms_norm_eps=1e-5),
                       r"_proj\.weight$", gptq(4, 32, False), gptq_config(4, 32, sym=False, desc_act=False)),
}


def random_tensors(model, rng):
    for name, p in model.state_dict().items():
        if p.dim() < 2:
            value = rng.normal(0, 0.3, p.shape) + (1 if name.endswith("norm.weight") else 0)
        else:
            gain = 2.5 if "lm_head" in name else 0.4 * np.sqrt(p.shape[-1]) if "embed" in name else 1.3
            value = rng.normal(0, gain / np.sqrt(p.shape[-1]), p.shape)
        p.copy_(torch.tensor(value).to(torch.float16))


def as_internlm2(tensors):
    """The same layer with q, k and v of each group of heads in one matrix."""
    names = {"embed_tokens": "tok_embeddings", "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1",
             "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2", "input_layernorm": "attention_norm",
             "post_attention_layernorm": "ffn_norm", "lm_head": "output"}
    out = {}
    for key, t in tensors.items():
        for old, new in names.items():
            key = key.replace(old, new)
        out[key] = t
    for p in ("weight",):
        q, k, v = (out.pop(f"model.layers.0.self_attn.{x}_proj.{p}") for x in "qkv")
        groups = [torch.cat([q.view(2, 32, -1)[g], k.view(2, 16, -1)[g], v.view(2, 16, -1)[g]]) for g in range(2)]
        out[f"model.layers.0.attention.wqkv.{p}"] = torch.cat(groups)
    return out


def split_wqkv(w):
    """Back to q, k, v."""
    g = w.view(2, 64, -1)
    return g[:, :32].reshape(64, -1), g[:, 32:48].reshape(32, -1), g[:, 48:].reshape(32, -1)


def quantise(tensors, pattern, store, rng):
    plain = {k: v.float() for k, v in tensors.items()}
    for key in [k for k in tensors if re.search(pattern, k)]:
        made, value = store(tensors.pop(key).float(), rng)
        plain[key] = value.float()
        module = key.removesuffix(".weight")
        tensors |= {module + ("." if module != key else "") + k: v.contiguous() for k, v in made.items()}
    return plain


@torch.no_grad()
def make(name, seed):
    c, pattern, store, quantization = CASES[name]
    rng = np.random.default_rng(seed)
    c = dict(c)
    config = AutoConfig.for_model(c.pop("model_type"), **c)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float16)
    random_tensors(model, rng)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as tmp:
        model.save_pretrained(tmp)
        tensors = load_file(tmp + "/model.safetensors")
        if name == "gptq-internlm2":
            tensors, pattern = as_internlm2(tensors), r"\.(w\w+)\.weight$"
        plain = quantise(tensors, pattern, store, rng)
        if name == "gptq-internlm2":
            model = reference_internlm2(model, plain)
        else:
            save_file(plain, tmp + "/model.safetensors", metadata={"format": "pt"})
            model = AutoModelForCausalLM.from_pretrained(tmp, dtype=torch.float32, attn_implementation="eager")
        saved = json.loads(pathlib.Path(tmp + "/config.json").read_text())
    if name == "gptq-internlm2":
        saved |= {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": False}
    saved |= {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(saved, indent=1) + "\n")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ids = rng.integers(3, 48, PROMPT).tolist()
    out = model.eval()(torch.tensor([ids])).logits[0]
    rows = [[float(f"{x:.7g}") for x in out[i].tolist()] for i in AT + [PROMPT - 1]]
    case = {"prompt": ids, "logits_at": AT, "logits": rows[:-1], "logits_last": rows[-1]}
    (folder / "golden.json").write_text(json.dumps({"cases": [case]}, separators=(",", ":")) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: {size // 1024} KiB, logits std {float(out.std()):.2f}", flush=True)


def reference_internlm2(model, plain):
    names = {"tok_embeddings": "embed_tokens", "attention.wo": "self_attn.o_proj", "feed_forward.w1": "mlp.gate_proj",
             "feed_forward.w3": "mlp.up_proj", "feed_forward.w2": "mlp.down_proj", "attention_norm": "input_layernorm",
             "ffn_norm": "post_attention_layernorm", "output.weight": "lm_head.weight"}
    q, k, v = split_wqkv(plain.pop("model.layers.0.attention.wqkv.weight"))
    state = {}
    for key, t in plain.items():
        for old, new in names.items():
            key = key.replace(old, new)
        state[key] = t
    for x, t in zip("qkv", (q, k, v)):
        state[f"model.layers.0.self_attn.{x}_proj.weight"] = t
    model = AutoModelForCausalLM.from_config(model.config, attn_implementation="eager").float()
    model.load_state_dict(state)
    return model


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    for chosen in sys.argv[1:] or CASES:
        make(chosen, 300 + list(CASES).index(chosen))
