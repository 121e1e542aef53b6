"""Writes the tiny random checkpoints of this folder and what transformers computes with them.

    python make_archs.py [NAME ...]        all of them, or only the named ones

Needs the PyPI packages torch, transformers, tokenizers, safetensors and numpy. The weights depend on
the seed in CASES alone; a seed is chosen so that greedy decoding never meets a near tie (margin below
MARGIN) and does not fall into a loop, so that token ids can be compared exactly. README.md explains the cases and golden.json.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

HERE = pathlib.Path(__file__).resolve().parent
VOCAB, BOS, EOS = 260, 256, 257
MARGIN, NEW, DISTINCT = 0.02, 32, 10  # DISTINCT: ids on a greedy path at least, so that it is no mere loop
SHORT, LONG = 16, 70
KEPT = [0, 7]  # rows of the short prompt's logits that are stored beside the last

SMALL = dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, intermediate_size=56)
MEDIUM = dict(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=72)
MHA = dict(MEDIUM, num_key_value_heads=4)

LLAMA, MISTRAL, QWEN2, QWEN3 = "llama", "mistral", "qwen2", "qwen3"
CLASS = {LLAMA: "LlamaForCausalLM", MISTRAL: "MistralForCausalLM", QWEN2: "Qwen2ForCausalLM", QWEN3: "Qwen3ForCausalLM"}

# name: (family, shape, dtype, storage, config keys). A key "style" of 5 writes config.json as transformers 5
# does (rope_parameters, dtype); otherwise the older keys are written (rope_theta, rope_scaling, torch_dtype).
CASES = {
    "llama-mha": (LLAMA, MHA, "f16", "plain", {}),
    "llama-gqa": (LLAMA, MEDIUM, "bf16", "plain", dict(style=5)),
    "llama-f32-sharded": (LLAMA, MEDIUM, "f32", "sharded", dict(tie_word_embeddings=True)),
    "llama-tied-embed": (LLAMA, SMALL, "f32", "embed", dict(tie_word_embeddings=True)),
    "llama-tied-head": (LLAMA, SMALL, "f32", "head", dict(tie_word_embeddings=True)),
    "llama-head-dim": (LLAMA, SMALL, "f16", "plain", dict(head_dim=24, num_attention_heads=4, num_key_value_heads=2)),
    "llama-bias": (LLAMA, SMALL, "bf16", "plain", dict(attention_bias=True, mlp_bias=True)),
    "llama-rope-linear": (LLAMA, SMALL, "f32", "plain", dict(rope_scaling={"type": "linear", "factor": 2.5})),
    "llama-rope-linear-v5": (LLAMA, SMALL, "bf16", "plain", dict(
        style=5, rope_scaling={"rope_type": "linear", "factor": 4.0}, rope_theta=5000.0)),
    "llama-rope-dynamic": (LLAMA, SMALL, "f32", "plain", dict(
        rope_scaling={"type": "dynamic", "factor": 2.0}, max_position_embeddings=64)),
    "llama-rope-yarn": (LLAMA, SMALL, "f32", "plain", dict(
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        max_position_embeddings=128)),
    "llama-rope-yarn-v5": (LLAMA, SMALL, "f16", "plain", dict(style=5, rope_theta=2000.0, rope_scaling={
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16, "beta_fast": 4.0, "beta_slow": 0.5,
        "attention_factor": 1.3}, max_position_embeddings=128)),
    "llama-rope-llama3": (LLAMA, SMALL, "f32", "plain", dict(rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}, max_position_embeddings=256)),
    "llama-rope-llama3-v5": (LLAMA, SMALL, "bf16", "plain", dict(style=5, rope_theta=500000.0, rope_scaling={
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}, max_position_embeddings=256)),
    "mistral-window": (MISTRAL, MEDIUM, "bf16", "plain", dict(sliding_window=8)),
    "mistral-no-window": (MISTRAL, SMALL, "f16", "plain", dict(sliding_window=None, head_dim=24, style=5)),
    "qwen2": (QWEN2, MEDIUM, "bf16", "plain", dict(rope_theta=1000000.0, use_sliding_window=False, sliding_window=8,
                                                  max_window_layers=1)),
    "qwen2-tied": (QWEN2, SMALL, "f32", "embed", dict(tie_word_embeddings=True, style=5)),
    "qwen2-window": (QWEN2, SMALL, "bf16", "plain", dict(num_hidden_layers=3, use_sliding_window=True, sliding_window=8,
                                                       max_window_layers=1)),
    "qwen3-tied": (QWEN3, MEDIUM, "bf16", "embed", dict(tie_word_embeddings=True, head_dim=24, rope_theta=1000000.0)),
    "qwen3-v5": (QWEN3, SMALL, "f32", "plain", dict(head_dim=16, style=5)),
}

DTYPE = {"f32": ("float32", torch.float32), "f16": ("float16", torch.float16), "bf16": ("bfloat16", torch.bfloat16)}


# ---- config and weights -------------------------------------------------------------------------

def config(family, shape, dtype, keys):
    keys = dict(keys)
    style, theta, scaling = keys.pop("style", 4), keys.pop("rope_theta", 10000.0), keys.pop("rope_scaling", None)
    c = {"architectures": [CLASS[family]], "model_type": family, "vocab_size": VOCAB, "num_hidden_layers": 2,
         "hidden_act": "silu", "max_position_embeddings": 128, "rms_norm_eps": 1e-5 if family == LLAMA else 1e-6,
         "tie_word_embeddings": False, "bos_token_id": BOS, "eos_token_id": EOS, **shape, **keys}
    if family == LLAMA:
        c.setdefault("attention_bias", False)
        c.setdefault("mlp_bias", False)
    if family == QWEN3:
        c |= {"attention_bias": False, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 2}
    if style == 5:
        c["rope_parameters"] = {"rope_type": "default", "rope_theta": theta, **(scaling or {})}
        c["dtype"] = DTYPE[dtype][0]
    else:
        c |= {"rope_theta": theta, "rope_scaling": scaling, "torch_dtype": DTYPE[dtype][0]}
    return c


def weights(family, c, seed):
    """Random tensors, with attention sharp enough to matter and logits far from uniform."""
    rng = np.random.default_rng(seed)
    hidden, ffn = c["hidden_size"], c["intermediate_size"]
    hd = c.get("head_dim", hidden // c["num_attention_heads"])
    q, kv = c["num_attention_heads"] * hd, c["num_key_value_heads"] * hd

    def matrix(rows, cols, gain=1.0):
        return rng.normal(0, gain / np.sqrt(cols), (rows, cols))

    def norm(n):
        return 1 + rng.normal(0, 0.2, n)

    # A tied table is kept small beside what the layers add, or each token would only predict itself.
    tied = c["tie_word_embeddings"]
    t = {"model.embed_tokens.weight": rng.normal(0, 0.1 if tied else 0.4, (VOCAB, hidden)),
         "model.norm.weight": norm(hidden) * (4 if tied else 1)}
    if not tied:
        t["lm_head.weight"] = matrix(VOCAB, hidden, 2.5)
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        t[p + "input_layernorm.weight"], t[p + "post_attention_layernorm.weight"] = norm(hidden), norm(hidden)
        for name, rows, cols, gain in (("q", q, hidden, 1.6), ("k", kv, hidden, 1.6), ("v", kv, hidden, 1.0),
                                       ("o", hidden, q, 1.0)):
            t[p + f"self_attn.{name}_proj.weight"] = matrix(rows, cols, gain)
            if c.get("attention_bias") or (family == QWEN2 and name != "o"):
                t[p + f"self_attn.{name}_proj.bias"] = rng.normal(0, 0.3, rows)
        if family == QWEN3:
            t[p + "self_attn.q_norm.weight"] = 1.3 * norm(hd)
            t[p + "self_attn.k_norm.weight"] = 1.3 * norm(hd)
        for name, rows, cols in (("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn)):
            t[p + f"mlp.{name}_proj.weight"] = matrix(rows, cols)
            if c.get("mlp_bias"):
                t[p + f"mlp.{name}_proj.bias"] = rng.normal(0, 0.3, rows)
    return t


def store(folder, tensors, dtype, storage):
    tensors = {k: torch.tensor(v, dtype=torch.float64).to(DTYPE[dtype][1]).contiguous() for k, v in tensors.items()}
    if storage == "head":
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    meta = {"format": "pt"}
    if storage != "sharded":
        save_file(tensors, folder / "model.safetensors", metadata=meta)
        return
    names, where = sorted(tensors), {}
    for n in range(3):
        file = f"model-{n + 1:05}-of-00003.safetensors"
        part = names[n::3]  # neighbours of one layer end up in different files
        save_file({k: tensors[k] for k in part}, folder / file, metadata=meta)
        where |= {k: file for k in part}
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write(folder / "model.safetensors.index.json",
          {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})


def tokenizer(folder):
    """Bytes as tokens 0..255 (in the order of the byte-level alphabet) and two special tokens."""
    vocab = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken("<|begin|>", special=True), AddedToken("<|end|>", special=True)])
    assert tok.token_to_id("<|begin|>") == BOS and tok.token_to_id("<|end|>") == EOS
    tok.save(str(folder / "tokenizer.json"))
    write(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin|>", "eos_token": "<|end|>",
        "clean_up_tokenization_spaces": False})


# ---- goldens ------------------------------------------------------------------------------------

def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def load_again(model):
    return load(model.name_or_path)


def fix_dynamic(model, c, total):
    """Dynamic scaling with the base of one total length for all positions, see README.md."""
    rope = model.model.rotary_emb
    hd = c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])
    factor, limit = c["rope_scaling"]["factor"], c["max_position_embeddings"]
    length = max(total, limit)
    base = c["rope_theta"] * (factor * length / limit - (factor - 1)) ** (hd / (hd - 2))
    rope.rope_type = "default"  # no update while running
    rope.inv_freq = 1.0 / base ** (torch.arange(0, hd, 2, dtype=torch.float32) / hd)


@torch.no_grad()
def logits(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def logprobs(out, ids):
    """Log probability of each prompt token but the first, given those before it."""
    lp = torch.log_softmax(out.double(), -1)
    return [round(float(lp[i, ids[i + 1]]), 6) for i in range(len(ids) - 1)]


def numbers(row):
    return [float(f"{x:.7g}") for x in row.tolist()]


def greedy(model, ids):
    out, margins = [], []
    while len(out) < NEW:
        top = logits(model, ids + out)[-1].topk(2)
        out.append(int(top.indices[0]))
        margins.append(float(top.values[0] - top.values[1]))
    return out, min(margins)


def goldens_prompt(seed, n):
    return np.random.default_rng(1000 * n + seed).integers(0, 256, n).tolist()


def goldens(model, c, seed):
    dynamic = (c.get("rope_scaling") or {}).get("type") == "dynamic"
    cases = []
    for name, n in (("short", SHORT), ("long", LONG)):
        ids = goldens_prompt(seed, n)
        own = logits(load_again(model), ids) if dynamic else None
        if dynamic:
            fix_dynamic(model, c, n)
        out = logits(model, ids)
        assert own is None or torch.allclose(own, out, atol=1e-4)  # at its own length transformers agrees
        case = {"name": name, "prompt": ids, "prompt_logprobs": logprobs(out, ids), "logits_last": numbers(out[-1])}
        if name == "short":
            case["logits_at"], case["logits"] = KEPT, [numbers(out[i]) for i in KEPT]
        if dynamic:
            case["rope_total_len"] = n
            cases.append(case)
            fix_dynamic(model, c, n + NEW)
            case = {"name": name + "-greedy", "prompt": ids, "rope_total_len": n + NEW,
                    "logits_last": numbers(logits(model, ids)[-1])}
        case["greedy"], margin = greedy(model, ids)
        case["margin_min"] = round(margin, 5)
        cases.append(case)
    return cases


@torch.no_grad()
def check(name, folder, model, c, ids):
    """The feature that a case is there for must change the result; tied names must mean the same."""
    other = AutoConfig.from_pretrained(folder)
    if c.get("sliding_window") and c.get("use_sliding_window", True):
        other.layer_types, other.sliding_window = ["full_attention"] * other.num_hidden_layers, None
    elif c.get("rope_scaling") or c.get("rope_parameters", {}).get("rope_type", "default") != "default":
        other.rope_parameters = {"rope_type": "default", "rope_theta": other.rope_parameters["rope_theta"]}
    elif c["tie_word_embeddings"]:
        assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr(), name
        assert model.lm_head.weight.abs().mean() > 0.05, name
        return
    else:
        return
    plain = AutoModelForCausalLM.from_pretrained(folder, config=other, dtype=torch.float32, attn_implementation="eager")
    change = float((logits(plain.eval(), ids) - logits(model, ids)).abs().max())
    assert change > 0.5, f"{name}: the feature changes the logits by {change} only"


def write(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_golden(path, value):
    """JSON with one line per list of numbers."""
    cases = ",\n".join("  {" + ",\n   ".join(
        f"{json.dumps(k)}: " + ("[" + ",\n    ".join(json.dumps(r, separators=(",", ":")) for r in v) + "]"
                                if k == "logits" else json.dumps(v, separators=(",", ":")))
        for k, v in case.items()) + "}" for case in value["cases"])
    head = {k: v for k, v in value.items() if k != "cases"}
    path.write_text(json.dumps(head)[:-1] + ', "cases": [\n' + cases + "\n]}\n")


def make(name, number):
    family, shape, dtype, storage, keys = CASES[name]
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    c = config(family, shape, dtype, keys)
    write(folder / "config.json", c)
    write(folder / "generation_config.json", {"bos_token_id": BOS, "eos_token_id": EOS})
    tokenizer(folder)
    for seed in range(number * 100, number * 100 + 100):
        store(folder, weights(family, c, seed), dtype, storage)
        model = load(folder)
        check(name, folder, model, c, goldens_prompt(seed, LONG))
        cases = goldens(model, c, seed)
        paths = [case for case in cases if "greedy" in case]
        if min(p["margin_min"] for p in paths) >= MARGIN and min(len(set(p["greedy"])) for p in paths) >= DISTINCT:
            break
    else:
        raise SystemExit(f"{name}: no seed without a near tie")
    write_golden(folder / "golden.json", {"family": family, "dtype": dtype, "seed": seed, "cases": cases})
    spread = float(np.std(cases[0]["logits_last"]))
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: seed {seed}, {size // 1024} KiB, logits std {spread:.2f}, "
          f"margins {[case['margin_min'] for case in cases if 'margin_min' in case]}, "
          f"distinct greedy ids {[len(set(case['greedy'])) for case in cases if 'greedy' in case]}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    chosen = sys.argv[1:] or list(CASES)
    for name in chosen:
        make(name, list(CASES).index(name) + 1)
