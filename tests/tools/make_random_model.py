"""Writes a model directory of a real shape with random weights, for benchmarks and memory tests.

    python make_random_model.py OUT [--shape 0.5b|1b|8b|tiny] [--dtype bf16|f16|f32] [--quant fp8|int4] [--tokenizer DIR] [--shard-bytes N]

    0.5b   Qwen2ForCausalLM:  hidden 896, 24 layers, 14 heads, 2 KV heads, FFN 4864, vocabulary 151936, tied (Qwen2-0.5B)
    1b     LlamaForCausalLM:  hidden 2048, 16 layers, 32 heads, 8 KV heads, FFN 8192, vocabulary 128256, tied, llama3 RoPE
           scaling (Llama-3.2-1B)
    8b     LlamaForCausalLM:  hidden 4096, 32 layers, 32 heads, 8 KV heads, FFN 14336, vocabulary 128256, not tied
           (Llama-3.1-8B without its RoPE scaling): 16 GB in bf16
    tiny   LlamaForCausalLM:  hidden 256, 4 layers, 8 heads, 2 KV heads, FFN 768, vocabulary 4096, tied

With --quant the layers' matrices are stored as compressed-tensors does, embeddings and head in --dtype:

    fp8    E4M3 with a scale for each row, activations rounded to E4M3 by the token (W8A8)
    int4   4 bits in groups of 128 with bf16 scales (W4A16)

Tensors are written one after another, so memory stays small. The numbers are normal, not zeros (zeros flatter a
benchmark), and scaled so that activations stay in range. The tokenizer is that of another model directory: text then
only makes ids of its smaller vocabulary, generated ids beyond it decode to nothing, and prompts given as ids may use all.
With --fill-vocab the ids beyond it get made-up words, so that a server has text to send for every token.
Needs the PyPI package numpy only.
"""

import argparse
import json
import pathlib
import shutil
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent

SHAPES = {
    "0.5b": dict(model_type="qwen2", architectures=["Qwen2ForCausalLM"], vocab_size=151936, hidden_size=896,
                 intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2,
                 max_position_embeddings=32768, rms_norm_eps=1e-6, rope_theta=1000000.0, use_sliding_window=False,
                 sliding_window=32768, max_window_layers=24),
    "1b": dict(model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=128256, hidden_size=2048,
               intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
               max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0, attention_bias=False, mlp_bias=False,
               rope_scaling={"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                             "original_max_position_embeddings": 8192}),
    "8b": dict(model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=128256, hidden_size=4096,
               intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
               max_position_embeddings=131072, rms_norm_eps=1e-5, rope_theta=500000.0, attention_bias=False, mlp_bias=False,
               tie_word_embeddings=False),
    "tiny": dict(model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=4096, hidden_size=256,
                 intermediate_size=768, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2, head_dim=32,
                 max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=10000.0, attention_bias=False, mlp_bias=False),
}
DTYPES = {"bf16": ("bfloat16", "BF16", 2), "f16": ("float16", "F16", 2), "f32": ("float32", "F32", 4)}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja",
                   "special_tokens_map.json")
CHUNK = 1 << 22  # numbers made at a time


def tensors(c):
    """(name, shape, standard deviation); deviation None means a norm weight of ones."""
    hidden, ffn, heads, kv = (c[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"))
    hd = c.get("head_dim", hidden // heads)
    yield "model.embed_tokens.weight", (c["vocab_size"], hidden), hidden ** -0.5
    for i in range(c["num_hidden_layers"]):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (hidden,), None
        for name, rows in (("q", heads * hd), ("k", kv * hd), ("v", kv * hd)):
            yield p + f"self_attn.{name}_proj.weight", (rows, hidden), hidden ** -0.5
            if c["model_type"] == "qwen2":
                yield p + f"self_attn.{name}_proj.bias", (rows,), 0.1
        yield p + "self_attn.o_proj.weight", (hidden, heads * hd), (heads * hd) ** -0.5
        yield p + "post_attention_layernorm.weight", (hidden,), None
        yield p + "mlp.gate_proj.weight", (ffn, hidden), hidden ** -0.5
        yield p + "mlp.up_proj.weight", (ffn, hidden), hidden ** -0.5
        yield p + "mlp.down_proj.weight", (hidden, ffn), ffn ** -0.5
    yield "model.norm.weight", (hidden,), None
    if not c["tie_word_embeddings"]:
        yield "lm_head.weight", (c["vocab_size"], hidden), hidden ** -0.5


# What quantisation_config says of weights and activations, by --quant.
QUANT = {
    "fp8": ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True, "dynamic": False},
            {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True, "symmetric": True}),
    "int4": ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True},
             None),
}


def quant_config(kind):
    form, weights, acts = QUANT[kind]
    group = {"targets": ["Linear"], "weights": weights, "input_activations": acts, "output_activations": None}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group},
            "ignore": ["lm_head"], "quantization_status": "compressed"}


def stored(items, quant):
    """The tensors that a file has for those of the model: (name, shape, how), how a deviation, None for ones, or
    (type, what to fill with: "codes", or the array itself)."""
    for name, shape, std in items:
        if not quant or not name.startswith("model.layers.") or len(shape) == 1:
            yield name, shape, std
            continue
        base, (rows, cols) = name.removesuffix(".weight"), shape
        if quant == "fp8":  # codes of 0.5 to 1.9, of either sign
            yield name, shape, ("F8_E4M3", "codes")
            yield base + ".weight_scale", (rows, 1), ("F32", np.full(rows, std / 1.1, "<f4"))
        else:  # 0 .. 15 less 8
            yield base + ".weight_packed", (rows, cols // 8), ("I32", "codes")
            scales = np.full(rows * cols // 128, std / 4.6, np.float32)
            yield base + ".weight_scale", (rows, cols // 128), ("BF16", encode(scales, "bf16"))
            yield base + ".weight_shape", (2,), ("I64", np.array(shape, "<i8"))


SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I32": 4, "I64": 8}


def type_of(how, dtype):
    return how[0] if isinstance(how, tuple) else DTYPES[dtype][1]


def encode(x, dtype):
    """f32 numbers as little-endian bytes of dtype; bf16 rounds to nearest, ties to even."""
    if dtype == "f32":
        return x.astype("<f4").tobytes()
    if dtype == "f16":
        return x.astype("<f2").tobytes()
    bits = x.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


class Normals:
    """Windows into one pool of normal numbers, encoded once for each deviation: as fast as copying, and no two tensors
    are alike."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.pool = self.rng.standard_normal(CHUNK + 65521, dtype=np.float32)
        self.encoded = {}

    def codes(self, n, kind):
        """n elements of random codes: any 4-bit ones, and of E4M3 those without NaN."""
        if kind not in self.encoded:
            raw = self.rng.integers(0, 256, len(self.pool) * SIZES[kind], dtype=np.uint8)
            self.encoded[kind] = memoryview((raw & 0x8F | 0x30 if kind == "F8_E4M3" else raw).tobytes())
        start, size = int(self.rng.integers(0, len(self.pool) - n + 1)), SIZES[kind]
        return self.encoded[kind][start * size:(start + n) * size]

    def take(self, n, std, dtype):
        """n numbers of that deviation as bytes of dtype; None: ones."""
        if std is None:
            return encode(np.ones(n, np.float32), dtype)
        if std not in self.encoded:
            self.encoded[std] = memoryview(encode(self.pool * np.float32(std), dtype))
        start, size = int(self.rng.integers(0, len(self.pool) - n + 1)), DTYPES[dtype][2]
        return self.encoded[std][start * size:(start + n) * size]


def write_file(path, items, dtype, normals):
    """One safetensors file: 8 bytes header length, JSON header padded to 8 bytes, then the data."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, how in items:
        size = int(np.prod(shape)) * SIZES[type_of(how, dtype)]
        header[name] = {"dtype": type_of(how, dtype), "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for _, shape, how in items:
            if isinstance(how, tuple) and not isinstance(how[1], str):
                f.write(how[1])
                continue
            left = int(np.prod(shape))
            while left:
                n = min(left, CHUNK)
                f.write(normals.codes(n, how[0]) if isinstance(how, tuple) else normals.take(n, how, dtype))
                left -= n
    return offset


def fill_vocab(path, size):
    """Words for the ids that a tokenizer.json lacks; no merge leads to them, so prompts do not change."""
    if not path.exists():
        return
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    have = set(vocab.values()) | {t["id"] for t in tokenizer.get("added_tokens", [])}
    vocab.update({f"\u0120w{i}": i for i in range(size) if i not in have})  # byte-level BPE's blank before each
    path.write_text(json.dumps(tokenizer, ensure_ascii=False))


def split(items, dtype, shard_bytes):
    shards, size = [[]], 0
    for item in items:
        n = int(np.prod(item[1])) * SIZES[type_of(item[2], dtype)]
        if shards[-1] and shard_bytes and size + n > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(item)
        size += n
    return shards


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out")
    ap.add_argument("--shape", choices=SHAPES, default="0.5b")
    ap.add_argument("--dtype", choices=DTYPES, default="bf16")
    ap.add_argument("--quant", choices=QUANT, help="how the layers' matrices are stored")
    ap.add_argument("--tokenizer", default=str(HERE.parent.parent / "conf" / "demo-model"),
                    help="model directory whose tokenizer files are copied")
    ap.add_argument("--shard-bytes", type=int, default=0, help="begin a new file beyond this size (0: one file)")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--fill-vocab", action="store_true", help="give every id of the model a text")
    args = ap.parse_args()

    started, out, source = time.time(), pathlib.Path(args.out), pathlib.Path(args.tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("model*.safetensors*"):
        old.unlink()
    c = dict(tie_word_embeddings=True, hidden_act="silu", torch_dtype=DTYPES[args.dtype][0]) | SHAPES[args.shape]
    if args.quant:
        c["quantization_config"] = quant_config(args.quant)
    try:  # the tokenizer's own ids for the beginning and the end of a text
        given = json.loads((source / "generation_config.json").read_text())
        c |= {k: given[k] for k in ("bos_token_id", "eos_token_id") if k in given}
    except FileNotFoundError:
        c |= {"bos_token_id": 0, "eos_token_id": 0}
    (out / "config.json").write_text(json.dumps(c, indent=2) + "\n")
    (out / "generation_config.json").write_text(
        json.dumps({k: c[k] for k in ("bos_token_id", "eos_token_id") if k in c}, indent=2) + "\n")
    copied = [n for n in TOKENIZER_FILES if (source / n).exists() and shutil.copy(source / n, out / n)]

    if args.fill_vocab:
        fill_vocab(out / "tokenizer.json", c["vocab_size"])
    items = list(stored(tensors(c), args.quant))
    normals = Normals(args.seed)
    shards, total, where = split(items, args.dtype, args.shard_bytes), 0, {}
    for i, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{i:05}-of-{len(shards):05}.safetensors"
        total += write_file(out / name, shard, args.dtype, normals)
        where |= {item[0]: name for item in shard}
    if len(shards) > 1:
        (out / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2) + "\n")
    count = sum(int(np.prod(shape)) for _, shape, _ in tensors(c))
    print(f"{out}: {args.shape} {args.quant or args.dtype}, {count / 1e6:.1f}M parameters, {total / 1e6:.0f} MB in {len(shards)} file(s), "
          f"tokenizer files: {', '.join(copied) or 'none'}, {time.time() - started:.1f} s")


if __name__ == "__main__":
    main()
