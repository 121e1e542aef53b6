"""Writes adapters of bases whose families transformers does not implement, and what tests/archs'
reference_remote.py computes with them.

    python make_remote_adapters.py [BASE ...]

Needs the PyPI packages torch, transformers, tokenizers, safetensors and numpy. The bases are checkpoints
of ../archs. LoRA is put into the packed weights (W + B A alpha / r, rows as they are stored) before the
reference runs; a prefix of keys and values (ChatGLM's P-tuning v2) goes in front of the keys and values
of every attention, seen by all rows, and no token's position is shifted. The files have the layout that
make_adapters.py writes.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).resolve().parent
ARCHS = HERE.parent / "archs"
sys.path.insert(0, str(ARCHS))
import reference_remote as reference  # noqa: E402

NEW, MARGIN, ROWS, R, ALPHA = 16, 0.01, [0, 5, 11], 3, 5

# base: (reference, modules of a layer that LoRA changes, and "glm" where there is a prefix)
CASES = {
    "chatglm-6b": ("chatglm_6b", "transformer.layers.{i}.", ["attention.query_key_value", "mlp.dense_h_to_4h"], True),
    "chatglm2": ("chatglm2", "transformer.encoder.layers.{i}.",
                 ["self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h"], True),
    "internlm2": ("internlm2", "model.layers.{i}.", ["attention.wqkv", "attention.wo", "feed_forward.w3"], False),
    "baichuan-7b": ("baichuan", "model.layers.{i}.", ["self_attn.W_pack", "self_attn.o_proj"], False),
    "qwen1": ("qwen", "transformer.h.{i}.", ["attn.c_attn", "attn.c_proj", "mlp.w1"], False),
    "moss": ("moss", "transformer.h.{i}.", ["attn.qkv_proj", "attn.out_proj"], False),
}


def layers(c):
    return c.get("num_layers") or c.get("num_hidden_layers") or c["n_layer"]


def make_lora(folder, c, t, prefix, modules, g):
    """Writes the adapter; returns the tensors with it."""
    merged, out = dict(t), {}
    for i in range(layers(c)):
        for m in modules:
            name = prefix.format(i=i) + m
            w = t[name + ".weight"]
            a = 0.35 * torch.randn(R, w.shape[1], generator=g)
            b = 0.35 * torch.randn(w.shape[0], R, generator=g)
            out[f"base_model.model.{name}.lora_A.weight"], out[f"base_model.model.{name}.lora_B.weight"] = a, b
            merged[name + ".weight"] = w + ALPHA / R * b @ a
    config = {"peft_type": "LORA", "r": R, "lora_alpha": ALPHA, "bias": "none", "task_type": "CAUSAL_LM",
              "target_modules": sorted(modules)}
    (folder / "adapter_config.json").write_text(json.dumps(config, separators=(",", ":")) + "\n")
    save_file(out, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return merged


def make_glm(folder, c, g):
    """Writes the prefix; returns (keys, values) of each layer."""
    heads = c["multi_query_group_num"] if c.get("multi_query_attention") else c["num_attention_heads"]
    width = c.get("kv_channels") or c["hidden_size"] // c["num_attention_heads"]
    x = torch.randn(5, 2 * layers(c) * heads * width, generator=g)
    save_file({"transformer.prefix_encoder.embedding.weight": x}, folder / "model.safetensors",
              metadata={"format": "pt"})
    x = x.view(5, layers(c), 2, heads, width)
    return [(x[:, i, 0], x[:, i, 1]) for i in range(layers(c))]


def with_prefix(kv, run):
    """run() with every attention seeing its layer's keys and values first."""
    calls = iter(kv)

    def attention(q, k, v, scale, prefix=0, slopes=None):
        (pk, pv), n, heads = next(calls), q.shape[0], q.shape[1]
        m = pk.shape[0]
        k, v = (torch.cat(x).repeat_interleave(heads // x[1].shape[1], 1) for x in ((pk, k), (pv, v)))
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        row, col = torch.arange(n)[:, None], torch.arange(n + m)[None, :] - m
        scores = scores.masked_fill(~((col <= row) | ((row < prefix) & (col < prefix))), float("-inf"))
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1)

    plain, reference.attention = reference.attention, attention
    try:
        return run()
    finally:
        reference.attention = plain


def golden(run, prompt):
    ids, greedy, first = list(prompt), [], None
    for _ in range(NEW):
        r = run(torch.tensor(ids))
        first = r if first is None else first
        top = r[-1].topk(2)
        if top.values[0] - top.values[1] < MARGIN:
            return None
        ids.append(int(top.indices[0]))
        greedy.append(ids[-1])
    return {"prompt": prompt, "rows": ROWS, "logits": [[float(f"{x:.8g}") for x in first[i].tolist()] for i in ROWS],
            "greedy": greedy}


def make(base, kind, folder, seed):
    name, prefix, modules, _ = CASES[base]
    c = json.loads((ARCHS / base / "config.json").read_text())
    t = {k: v.float() for k, v in load_file(ARCHS / base / "model.safetensors").items()}
    g = torch.Generator().manual_seed(seed)
    prompt = torch.randint(3, 250, (12,), generator=g).tolist()
    if base == "chatglm-6b":
        prompt[-2:] = [c["gmask_token_id"], c["bos_token_id"]]
    fn = getattr(reference, name)
    if kind == "lora":
        t = make_lora(folder, c, t, prefix, modules, g)
        return golden(lambda ids: fn(c, t, ids, len(prompt), len(prompt) + NEW), prompt)
    kv = make_glm(folder, c, g)
    return golden(lambda ids: with_prefix(kv, lambda: fn(c, t, ids, len(prompt), len(prompt) + NEW)), prompt)


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    for base in sys.argv[1:] or CASES:
        for kind in ["lora"] + ["glm"] * CASES[base][3]:
            folder = HERE / "remote" / base / kind
            folder.mkdir(parents=True, exist_ok=True)
            seed, g = 0, None
            while g is None:
                seed += 1
                g = make(base, kind, folder, seed)
            (folder / "golden.json").write_text(json.dumps({"seed": seed, **g}, separators=(",", ":")) + "\n")
            print(f"{base}/{kind}: seed {seed}", flush=True)


main()
