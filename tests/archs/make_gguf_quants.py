"""Writes llamas whose GGUF tensors are quantised, and what transformers computes with the same numbers.

    python make_gguf_quants.py        gguf-blocks-32 and gguf-blocks-256: blocks of 32 and of 256 weights

Needs the PyPI packages of make_archs.py and gguf. gguf's own Python code (gguf.quants) says what the blocks mean; the
types change from tensor to tensor and from layer to layer. Blocks of 32 come from random weights that it quantised,
blocks of 256, for which it has no quantiser, are random bytes with scales that are numbers.
"""
import shutil

import gguf
import numpy as np
import torch
from gguf import quants
from transformers import AutoConfig, AutoModelForCausalLM

from make_archs import BOS, DISTINCT, EOS, HERE, MARGIN, VOCAB, write, write_golden
from make_families import goldens

TYPE = gguf.GGMLQuantizationType
# Of a block of 256: bytes, where its f16 scales are, and what the second is of the first, so that the mean is near 0.
RANDOM = {TYPE.Q2_K: (84, 80, 1.5), TYPE.Q3_K: (110, 108, None), TYPE.Q4_K: (144, 0, 7.5), TYPE.Q5_K: (176, 0, 15.5),
          TYPE.Q6_K: (210, 208, None), TYPE.IQ4_XS: (136, 0, None), TYPE.TQ1_0: (54, 52, None),
          TYPE.TQ2_0: (66, 64, None)}
CASES = {
    "gguf-blocks-32": (dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                            intermediate_size=96), [TYPE.Q4_0, TYPE.Q8_0, TYPE.Q5_1, TYPE.Q4_1, TYPE.Q5_0]),
    "gguf-blocks-256": (dict(hidden_size=256, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=1,
                             intermediate_size=256), list(RANDOM)),
}
NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def random_rows(rng, kind, rows, cols, std):
    """Blocks, and the numbers that they stand for."""
    if kind not in RANDOM:
        blocks = quants.quantize(rng.normal(0, std, (rows, cols)).astype(np.float32), kind)
        return blocks, quants.dequantize(blocks, kind)
    size, at, ratio = RANDOM[kind]
    blocks = rng.integers(0, 256, (rows, cols // 256, size), dtype=np.uint8)
    for d in (1.0, None):  # once with scale 1, to see how far the values go
        scale = np.full(blocks.shape[:2], d if d else std / float(np.std(values)), np.float16)
        blocks[..., at:at + 2] = scale[..., None].view(np.uint8)
        if ratio:
            blocks[..., at + 2:at + 4] = (scale * np.float16(ratio))[..., None].view(np.uint8)
        flat = blocks.reshape(rows, -1)
        values = quants.dequantize(flat, kind)
    return flat, values


def paired(rows, heads):
    """Rows of q and k in GGUF's order: a head's halves interleaved."""
    return rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def gguf_name(name):
    fixed = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def draw(model, config, types, seed):
    """Fills the model; returns the tensors of the file: name -> (array, type)."""
    rng, tensors, n = np.random.default_rng(seed), {}, 0
    for name, p in model.named_parameters():
        if p.dim() == 1:
            values = rng.uniform(0.7, 1.3, p.shape).astype(np.float32)
            stored, kind = values, TYPE.F32
        else:
            kind = types[n % len(types)]
            n += 1
            std = 0.5 if "embed" in name or "lm_head" in name else 1.6 * p.shape[1] ** -0.5
            stored, values = random_rows(rng, kind, *p.shape, std)
            heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
            for part, count in heads.items():
                if part in name:
                    stored = paired(stored, count)
        p.data = torch.from_numpy(np.array(values, np.float32))
        tensors[gguf_name(name)] = (np.ascontiguousarray(stored), kind)
    return tensors


def write_gguf(path, config, tensors):
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(config.num_hidden_layers)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(10000.0)
    w.add_bos_token_id(BOS)
    w.add_eos_token_id(EOS)
    for name, (array, kind) in tensors.items():
        w.add_tensor(name, array, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def make(name, number):
    shape, types = CASES[name]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write(folder / "config.json", dict(
        architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=VOCAB, bos_token_id=BOS, eos_token_id=EOS,
        max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False, **shape))
    config = AutoConfig.from_pretrained(folder)
    (folder / "config.json").unlink()
    for seed in range(70000 + 100 * number, 70000 + 100 * number + 100):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
        tensors = draw(model, config, types, seed)
        cases = goldens(model, seed)
        if all(c["margin_min"] >= MARGIN and len(set(c["greedy"])) >= DISTINCT for c in cases):
            break
    else:
        raise SystemExit(f"{name}: no seed without a near tie")
    write_gguf(folder / "model.gguf", config, tensors)
    write_golden(folder / "golden.json", {"family": "gguf_llama", "dtype": "blocks", "seed": seed, "cases": cases})
    print(f"{name}: seed {seed}, {(folder / 'model.gguf').stat().st_size} bytes", flush=True)


torch.set_num_threads(1)
with torch.inference_mode():
    for i, case in enumerate(CASES):
        make(case, i)
