"""Writes the tiny random checkpoints of families that transformers does not implement, with what
reference_remote.py computes of them.

    python make_remote_archs.py [NAME ...]        all of them, or only the named ones

Needs the PyPI packages torch, transformers, tokenizers, safetensors and numpy (make_archs.py, whose files and
golden.json these follow, imports them). README.md explains the cases.
"""

import json
import sys

import numpy as np
import torch
from safetensors.torch import load_file

import reference_remote as reference
from make_archs import (BOS, DISTINCT, DTYPE, EOS, HERE, KEPT, LONG, MARGIN, NEW, SHORT, VOCAB, goldens_prompt, logprobs,
                        numbers, store, tokenizer, write, write_golden)

FAMILY = {"chatglm_6b": "chatglm", "yi_first": "yi", "yi": "yi"}  # of functions or folders that are called otherwise
GMASK = 258  # ChatGLM-6B: every prompt ends with it and the start token

# ---- configurations: the keys that the families' own config.json have ------------------------------

LLAMA = dict(hidden_size=32, intermediate_size=56, num_attention_heads=4, num_hidden_layers=2, hidden_act="silu",
             rms_norm_eps=1e-6, max_position_embeddings=128, tie_word_embeddings=False)
INTERNLM = dict(LLAMA, architectures=["InternLMForCausalLM"], model_type="internlm", bias=True)
INTERNLM2 = dict(LLAMA, hidden_size=48, architectures=["InternLM2ForCausalLM"], model_type="internlm2", bias=False,
                 rms_norm_eps=1e-5, num_attention_heads=6, num_key_value_heads=2, rope_theta=1000000, rope_scaling=None)
BAICHUAN = dict(architectures=["BaichuanForCausalLM"], model_type="baichuan", hidden_size=40, intermediate_size=72,
                num_attention_heads=5, num_hidden_layers=2, hidden_act="silu", rms_norm_eps=1e-6, model_max_length=128,
                tie_word_embeddings=False)
QWEN = dict(architectures=["QWenLMHeadModel"], model_type="qwen", hidden_size=48, intermediate_size=144,
            num_attention_heads=4, num_hidden_layers=2, kv_channels=12, layer_norm_epsilon=1e-6,
            max_position_embeddings=128, seq_length=128, no_bias=True, rotary_emb_base=10000, rotary_pct=1.0,
            scale_attn_weights=True, use_dynamic_ntk=False, use_logn_attn=False, use_flash_attn="auto",
            tie_word_embeddings=False)
CHATGLM = dict(architectures=["ChatGLMModel"], model_type="chatglm", hidden_size=48, inner_hidden_size=64,
               num_attention_heads=4, num_layers=3, layernorm_epsilon=1e-5, max_sequence_length=128,
               position_encoding_2d=True, bos_token_id=BOS, eos_token_id=EOS, gmask_token_id=GMASK, mask_token_id=259,
               pad_token_id=3, vocab_size=VOCAB)
CHATGLM2 = dict(architectures=["ChatGLMModel"], model_type="chatglm", add_bias_linear=False, add_qkv_bias=True,
                apply_query_key_layer_scaling=True, apply_residual_connection_post_layernorm=False,
                attention_softmax_in_fp32=True, ffn_hidden_size=72, fp32_residual_connection=False, hidden_size=48,
                kv_channels=16, layernorm_epsilon=1e-5, multi_query_attention=True, multi_query_group_num=2,
                num_attention_heads=4, num_layers=2, original_rope=True, padded_vocab_size=VOCAB, post_layer_norm=True,
                rmsnorm=True, seq_length=128, tie_word_embeddings=False, eos_token_id=EOS, pad_token_id=0)
MOSS = dict(architectures=["MossForCausalLM"], model_type="moss", activation_function="gelu_new", n_embd=48, n_head=8,
            n_layer=2, n_inner=96, n_ctx=128, n_positions=128, rotary_dim=4, layer_norm_epsilon=1e-5,
            tie_word_embeddings=False)
MINICPM = dict({k: v for k, v in LLAMA.items() if k != "tie_word_embeddings"}, architectures=["MiniCPMForCausalLM"],
               model_type="minicpm", num_key_value_heads=2, scale_emb=12, scale_depth=1.4, dim_model_base=16,
               rms_norm_eps=1e-5)
DEEPSEEK = dict(LLAMA, architectures=["DeepseekForCausalLM"], model_type="deepseek", num_hidden_layers=3,
                num_key_value_heads=4, attention_bias=False, first_k_dense_replace=1, moe_intermediate_size=16,
                moe_layer_freq=1, n_routed_experts=6, n_shared_experts=2, norm_topk_prob=False, num_experts_per_tok=3,
                rope_theta=10000.0, rope_scaling=None, scoring_func="softmax")

# name: (function of reference_remote.py, config, stored as, what to change for a result that must differ)
CASES = {
    "internlm-bias": ("internlm", INTERNLM, "bf16", None),
    "internlm-dynamic": ("internlm", dict(INTERNLM, bias=False, max_position_embeddings=64,
                                          rotary={"base": 10000, "type": "dynamic"}), "f16", {"rotary": {
                                              "base": 10000, "type": "origin"}}),
    "internlm2": ("internlm2", INTERNLM2, "bf16", None),
    "internlm2-dynamic": ("internlm2", dict(INTERNLM2, bias=True, num_key_value_heads=3, max_position_embeddings=64,
                                            rope_scaling={"type": "dynamic", "factor": 2.0}), "f16",
                          {"rope_scaling": None}),
    "baichuan-7b": ("baichuan", dict(BAICHUAN, architectures=["BaiChuanForCausalLM"], max_position_embeddings=128),
                    "f16", None),
    "baichuan-13b": ("baichuan", BAICHUAN, "bf16", {"max_position_embeddings": 128}),
    "baichuan2-7b": ("baichuan", dict(BAICHUAN, max_position_embeddings=128, z_loss_weight=0), "bf16", None),
    "baichuan2-13b": ("baichuan", dict(BAICHUAN, num_attention_heads=10, z_loss_weight=0), "f16",
                      {"max_position_embeddings": 128}),
    "qwen1": ("qwen", QWEN, "bf16", None),
    "qwen1-ntk-logn": ("qwen", dict(QWEN, seq_length=32, use_dynamic_ntk=True, use_logn_attn=True), "f16",
                       {"use_dynamic_ntk": False}),
    "chatglm-6b": ("chatglm_6b", CHATGLM, "f16", None),
    "chatglm2": ("chatglm2", CHATGLM2, "f16", None),
    "chatglm2-flags": ("chatglm2", dict(CHATGLM2, multi_query_attention=False, rmsnorm=False, add_bias_linear=True,
                                        apply_residual_connection_post_layernorm=True, post_layer_norm=False), "f16",
                       {"apply_residual_connection_post_layernorm": False}),
    "chatglm2-32k": ("chatglm2", dict(CHATGLM2, _name_or_path="THUDM/chatglm2-6b-32k", rope_ratio=16), "bf16",
                     {"_name_or_path": "THUDM/chatglm3-6b-32k"}),
    "glm4-9b": ("chatglm2", dict(CHATGLM2, rope_ratio=500, kv_channels=24, original_rope=True,
                                 layernorm_epsilon=1.5625e-07), "bf16", {"rope_ratio": 1}),
    "moss": ("moss", MOSS, "f16", None),
    "minicpm-tied": ("minicpm", MINICPM, "f16", {"scale_depth": 1}),
    "minicpm-untied": ("minicpm", dict(MINICPM, tie_word_embeddings=False), "bf16", {"scale_emb": 1}),
    "minicpm-moe": ("minicpm", dict(MINICPM, intermediate_size=24, num_experts=4, num_experts_per_tok=2), "bf16",
                    {"num_experts_per_tok": 3}),
    "deepseek-moe": ("deepseek", DEEPSEEK, "bf16", {"norm_topk_prob": True}),
    "deepseek-moe-norm": ("deepseek", dict(DEEPSEEK, norm_topk_prob=True, moe_layer_freq=2, n_shared_experts=None,
                                           num_key_value_heads=2), "f16", {"norm_topk_prob": False}),
    "xverse": ("llama", dict(LLAMA, architectures=["XverseForCausalLM"], model_type="xverse"), "bf16", None),
    "yi": ("llama", dict(LLAMA, architectures=["YiForCausalLM"], model_type="Yi", num_key_value_heads=2,
                         rope_theta=5000000.0), "bf16", {"rope_theta": 10000.0}),
    "aquila": ("llama", dict(LLAMA, architectures=["AquilaForCausalLM"], model_type="aquila"), "bf16", None),
    "yi-first": ("yi_first", dict(LLAMA, architectures=["YiForCausalLM"], model_type="Yi"), "f16", None),
}


# ---- weights ----------------------------------------------------------------------------------------

class Weights(dict):
    """Random tensors, with attention sharp enough to matter and logits far from uniform."""

    def __init__(self, seed):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def matrix(self, name, rows, cols, gain=1.0, bias=False):
        self[name + ".weight"] = self.rng.normal(0, gain / np.sqrt(cols), (rows, cols))
        if bias:
            self[name + ".bias"] = self.rng.normal(0, 0.3, rows)

    def norm(self, name, n, bias=False, scale=1.0):
        self[name + ".weight"] = scale * (1 + self.rng.normal(0, 0.2, n))
        if bias:
            self[name + ".bias"] = self.rng.normal(0, 0.2, n)

    def table(self, name, cols, scale=0.4):
        self[name + ".weight"] = self.rng.normal(0, scale, (VOCAB, cols))


def llama_weights(c, w, attention=None, mlp=None, bias=False, tied=False, final=1.0):
    h, ff = c["hidden_size"], c["intermediate_size"]
    d = h // c["num_attention_heads"]
    kv = d * c.get("num_key_value_heads", c["num_attention_heads"])

    def separate(p):
        for m, rows, gain in (("q", h, 1.6), ("k", kv, 1.6), ("v", kv, 1.0), ("o", h, 1.0)):
            w.matrix(f"{p}self_attn.{m}_proj", rows, h, gain, bias)
    w.table("model.embed_tokens", h, 0.1 if tied else 0.4)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        w.norm(p + "input_layernorm", h)
        w.norm(p + "post_attention_layernorm", h)
        (attention or separate)(p)
        (mlp or (lambda i, p: glu_weights(w, p, h, ff)))(i, p + "mlp.")
    w.norm("model.norm", h, scale=final)
    if not tied:
        w.matrix("lm_head", VOCAB, h, 2.5)


def yi_first_weights(c, w):
    llama_weights(c, w)
    for i in range(c["num_hidden_layers"]):
        for was, now in (("input_layernorm", "ln1"), ("post_attention_layernorm", "ln2")):
            w[f"model.layers.{i}.{now}.weight"] = w.pop(f"model.layers.{i}.{was}.weight")


def glu_weights(w, p, h, ff, names=("gate_proj", "up_proj", "down_proj")):
    gate, up, down = names
    w.matrix(p + gate, ff, h)
    w.matrix(p + up, ff, h)
    w.matrix(p + down, h, ff)


def internlm2_weights(c, w):
    h, ff, n, g = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"], c["num_key_value_heads"]
    w.table("model.tok_embeddings", h)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        w.norm(p + "attention_norm", h)
        w.norm(p + "ffn_norm", h)
        w.matrix(p + "attention.wqkv", (n + 2 * g) * (h // n), h, 1.4, c["bias"])
        w.matrix(p + "attention.wo", h, h, 1.0, c["bias"])
        w.matrix(p + "feed_forward.w1", ff, h)
        w.matrix(p + "feed_forward.w3", ff, h)
        w.matrix(p + "feed_forward.w2", h, ff)
    w.norm("model.norm", h)
    w.matrix("output", VOCAB, h, 2.5)


def baichuan_weights(c, w):
    h = c["hidden_size"]

    def packed(p):
        w.matrix(p + "self_attn.W_pack", 3 * h, h, 1.5)
        w.matrix(p + "self_attn.o_proj", h, h)
    llama_weights(c, w, packed, final=3.0 if "z_loss_weight" in c else 1.0)


def qwen_weights(c, w):
    h, ff, width = c["hidden_size"], c["intermediate_size"] // 2, c["kv_channels"] * c["num_attention_heads"]
    w.table("transformer.wte", h)
    for i in range(c["num_hidden_layers"]):
        p = f"transformer.h.{i}."
        w.norm(p + "ln_1", h)
        w.norm(p + "ln_2", h)
        w.matrix(p + "attn.c_attn", 3 * width, h, 1.5, bias=True)
        w.matrix(p + "attn.c_proj", h, width)
        w.matrix(p + "mlp.w1", ff, h)
        w.matrix(p + "mlp.w2", ff, h)
        w.matrix(p + "mlp.c_proj", h, ff)
    w.norm("transformer.ln_f", h)
    w.matrix("lm_head", VOCAB, h, 2.5)


def chatglm_6b_weights(c, w):
    h, ff = c["hidden_size"], c["inner_hidden_size"]
    w.matrix("lm_head", VOCAB, h, 2.5)
    w["transformer.word_embeddings.weight"] = w["lm_head.weight"]  # stored twice, as published
    for i in range(c["num_layers"]):
        p = f"transformer.layers.{i}."
        w.norm(p + "input_layernorm", h, bias=True)
        w.norm(p + "post_attention_layernorm", h, bias=True)
        w.matrix(p + "attention.query_key_value", 3 * h, h, 2.0, bias=True)
        w.matrix(p + "attention.dense", h, h, 4.0, bias=True)
        w.matrix(p + "mlp.dense_h_to_4h", ff, h, 1.5, bias=True)
        w.matrix(p + "mlp.dense_4h_to_h", h, ff, 2.0, bias=True)
        w[p + "attention.rotary_emb.inv_freq"] = np.ones(h // c["num_attention_heads"] // 4)  # not to be read
    w.norm("transformer.final_layernorm", h, bias=True)
    w["transformer.final_layernorm.weight"] = w.rng.normal(0, 1.2, h)  # or each token would only predict itself


def chatglm2_weights(c, w):
    h, ff, d, n = c["hidden_size"], c["ffn_hidden_size"], c["kv_channels"], c["num_attention_heads"]
    g = c["multi_query_group_num"] if c["multi_query_attention"] else n
    plain, layer = c["add_bias_linear"], not c["rmsnorm"]
    w.table("transformer.embedding.word_embeddings", h)
    for i in range(c["num_layers"]):
        p = f"transformer.encoder.layers.{i}."
        w.norm(p + "input_layernorm", h, layer)
        w.norm(p + "post_attention_layernorm", h, layer)
        w.matrix(p + "self_attention.query_key_value", (n + 2 * g) * d, h, 1.5, plain or c["add_qkv_bias"])
        w.matrix(p + "self_attention.dense", h, n * d, 1.0, plain)
        w.matrix(p + "mlp.dense_h_to_4h", 2 * ff, h, 1.0, plain)
        w.matrix(p + "mlp.dense_4h_to_h", h, ff, 1.0, plain)
    if c["post_layer_norm"]:
        w.norm("transformer.encoder.final_layernorm", h, layer)
    w.matrix("transformer.output_layer", VOCAB, h, 2.5)
    w["transformer.rotary_pos_emb.inv_freq"] = np.ones(d // 4)  # not to be read


def moss_weights(c, w):
    h, ff = c["n_embd"], c["n_inner"]
    w.table("transformer.wte", h)
    for i in range(c["n_layer"]):
        p = f"transformer.h.{i}."
        w.norm(p + "ln_1", h, bias=True)
        w.matrix(p + "attn.qkv_proj", 3 * h, h, 1.5)
        w.matrix(p + "attn.out_proj", h, h)
        w.matrix(p + "mlp.fc_in", ff, h, bias=True)
        w.matrix(p + "mlp.fc_out", h, ff, bias=True)
    w.norm("transformer.ln_f", h, bias=True)
    w.matrix("lm_head", VOCAB, h, 2.5, bias=True)


def minicpm_weights(c, w):
    tied = c.get("tie_word_embeddings", True)

    def experts(i, p):
        w.matrix(p + "gate", c["num_experts"], c["hidden_size"], 2.0)
        for e in range(c["num_experts"]):
            glu_weights(w, f"{p}experts.{e}.", c["hidden_size"], c["intermediate_size"], ("w1", "w3", "w2"))
    llama_weights(c, w, tied=tied, final=3.0, mlp=experts if c.get("num_experts") else None)
    if tied:  # or each token would only predict itself
        w["model.norm.weight"] = w.rng.normal(0, 8.0, c["hidden_size"])


def deepseek_weights(c, w):
    h, ff = c["hidden_size"], c["moe_intermediate_size"]

    def mlp(i, p):
        if i < c["first_k_dense_replace"] or i % c["moe_layer_freq"]:
            return glu_weights(w, p, h, c["intermediate_size"])
        w.matrix(p + "gate", c["n_routed_experts"], h, 2.0)
        for e in range(c["n_routed_experts"]):
            glu_weights(w, f"{p}experts.{e}.", h, ff)
        if c["n_shared_experts"]:
            glu_weights(w, p + "shared_experts.", h, ff * c["n_shared_experts"])
    llama_weights(c, w, mlp=mlp)


WEIGHTS = {"llama": llama_weights, "yi_first": yi_first_weights,
           "internlm": lambda c, w: llama_weights(c, w, bias=c["bias"]),
           "internlm2": internlm2_weights, "baichuan": baichuan_weights, "qwen": qwen_weights,
           "chatglm_6b": chatglm_6b_weights, "chatglm2": chatglm2_weights, "moss": moss_weights,
           "minicpm": minicpm_weights, "deepseek": deepseek_weights}


# ---- goldens ------------------------------------------------------------------------------------------

def prompt_of(family, seed, n):
    ids = goldens_prompt(seed, n)
    return ids[:-2] + [GMASK, BOS] if family == "chatglm_6b" else ids


def greedy(run, ids, total):
    out, margins = [], []
    while len(out) < NEW:
        top = run(ids + out, len(ids), total)[-1].topk(2)
        out.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
    return out, min(margins)


def is_dynamic(c):
    return "dynamic" in ((c.get("rope_scaling") or {}).get("type"), (c.get("rotary") or {}).get("type"))


def goldens(run, family, c, seed):
    cases = []
    for name, n in (("short", SHORT), ("long", LONG)):
        ids = prompt_of(family, seed, n)
        out = run(ids, n, n)
        case = {"name": name, "prompt": ids, "prompt_logprobs": logprobs(out, ids), "logits_last": numbers(out[-1])}
        if name == "short":
            case["logits_at"], case["logits"] = KEPT, [numbers(out[i]) for i in KEPT]
        if is_dynamic(c):
            case["rope_total_len"] = n
            cases.append(case)
            case = {"name": name + "-greedy", "prompt": ids, "rope_total_len": n + NEW,
                    "logits_last": numbers(run(ids, n, n + NEW)[-1])}
        case["greedy"], margin = greedy(run, ids, n + NEW)
        case["margin_min"] = round(margin, 5)
        cases.append(case)
    return cases


@torch.no_grad()
def make(name, number):
    family, c, dtype, without = CASES[name]
    c = {**c, "torch_dtype": DTYPE[dtype][0]}
    c.setdefault("vocab_size", VOCAB)
    c.setdefault("bos_token_id", BOS)
    c.setdefault("eos_token_id", EOS)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    write(folder / "config.json", c)
    write(folder / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS})
    tokenizer(folder)
    for seed in range(number * 100, number * 100 + 100):
        w = Weights(seed)
        WEIGHTS[family](c, w)
        store(folder, w, dtype, "plain")
        t = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}

        def run(ids, n_prompt, total, config=c):
            return getattr(reference, family)(config, t, torch.tensor(ids), n_prompt, total)
        ids = prompt_of(family, seed, LONG)
        if without:
            change = float((run(ids, LONG, LONG) - run(ids, LONG, LONG, {**c, **without})).abs().max())
            assert change > 0.3, f"{name}: the feature changes the logits by {change} only"
        cases = goldens(run, family, c, seed)
        paths = [case for case in cases if "greedy" in case]
        if min(p["margin_min"] for p in paths) >= MARGIN and min(len(set(p["greedy"])) for p in paths) >= DISTINCT:
            break
    else:
        raise SystemExit(f"{name}: no seed without a near tie")
    write_golden(folder / "golden.json", {
        "family": FAMILY.get(name, FAMILY.get(family, family)), "reference": "reference_remote.py", "dtype": dtype,
        "seed": seed, "cases": cases})
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: seed {seed}, {size // 1024} KiB, logits std {np.std(cases[0]['logits_last']):.2f}, "
          f"margins {[p['margin_min'] for p in paths]}, distinct greedy ids {[len(set(p['greedy'])) for p in paths]}",
          flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in sys.argv[1:] or list(CASES):
        make(name, 100 + list(CASES).index(name))
