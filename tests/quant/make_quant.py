"""Writes the tiny quantised checkpoints of this folder and what transformers computes with their
dequantised weights.

    python make_quant.py [NAME ...]        all of them, or only the named ones

Needs the PyPI packages torch, transformers, safetensors and numpy; compressed-tensors for the ct-*
cases and bitsandbytes for the bnb-* ones, whose own code packs and unpacks there. The others are
packed here bit by bit from the description of their format. README.md says what each case is for.
"""

import json
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

HERE = pathlib.Path(__file__).resolve().parent
VOCAB, HIDDEN, HEADS, KV, FFN = 48, 64, 4, 2, 96
PROMPT, AT = 14, [0, 5]
MODULES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "self_attn.k_proj": (HIDDEN // 2, HIDDEN),
           "self_attn.v_proj": (HIDDEN // 2, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
           "mlp.gate_proj": (FFN, HIDDEN), "mlp.up_proj": (FFN, HIDDEN), "mlp.down_proj": (HIDDEN, FFN)}


# ---- integers in groups ---------------------------------------------------------------------------

def round_to_nearest(w, bits, group, symmetric, order=None, dtype=torch.float16):
    """codes [N,K], scales [N,G] of dtype, zeros [N,G]; order[k]: the group of column k."""
    n, k = w.shape
    order = torch.arange(k) // group if order is None else order
    groups, top = int(order.max()) + 1, 2 ** bits - 1
    codes, scales, zeros = torch.zeros(n, k), torch.zeros(n, groups, dtype=dtype), torch.zeros(n, groups)
    for g in range(groups):
        part = w[:, order == g]
        if symmetric:
            scale, zero = part.abs().amax(1) / (2 ** (bits - 1) - 0.5), torch.full((n,), 2.0 ** (bits - 1))
        else:
            low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
            scale = (high - low) / top
            zero = (-low / scale).round()
        scales[:, g] = scale.to(dtype)
        zeros[:, g] = zero
        codes[:, order == g] = ((part / scales[:, g].float()[:, None]).round() + zero[:, None]).clamp(0, top)
    return codes.long(), scales, zeros.long()


def values(codes, scales, zeros, order=None):
    group = codes.shape[1] // scales.shape[1]
    order = torch.arange(codes.shape[1]) // group if order is None else order
    return (codes - zeros[:, order]).double() * scales.double()[:, order]


def words(numbers, bits):
    """[..., n] numbers to [..., ceil(n*bits/32)] words: all bits in a row, low ones first."""
    v = np.asarray(numbers, np.uint64)
    each = (v[..., None] >> np.arange(bits, dtype=np.uint64)) & np.uint64(1)
    flat = each.reshape(*v.shape[:-1], -1)
    pad = -flat.shape[-1] % 32
    flat = np.concatenate([flat, np.zeros((*flat.shape[:-1], pad), np.uint64)], -1)
    out = (flat.reshape(*flat.shape[:-1], -1, 32) << np.arange(32, dtype=np.uint64)).sum(-1)
    return torch.from_numpy(out.astype(np.uint32).view(np.int32).copy())


# ---- GPTQ, AWQ ------------------------------------------------------------------------------------

def gptq(bits, group, symmetric=True, act_order=False, version=1, g_idx=True):
    def store(w, rng):
        k = w.shape[1]
        size = k if group < 0 else group
        order = torch.arange(k) // size
        if act_order:
            order = order[torch.from_numpy(rng.permutation(k))]
        codes, scales, zeros = round_to_nearest(w, bits, size, symmetric, order)
        if version == 1:
            zeros = zeros.clamp(min=1)  # 0 would be stored as -1
        stored = zeros - 1 if version == 1 else zeros
        t = {"qweight": words(codes, bits).T.contiguous(), "scales": scales.T.contiguous(),
             "qzeros": words(stored.T, bits)}
        if g_idx:
            t["g_idx"] = order.int()
        return t, values(codes, scales, zeros, order)
    return store


def gptq_odd_zeros(w, rng):
    """Version 1 may store 15 for a zero of 16: the one is added after unpacking."""
    codes, scales, zeros = round_to_nearest(w, 4, 32, False)
    zeros[:, 0], zeros[:, 1:] = 16, zeros[:, 1:].clamp(min=1)
    t = {"qweight": words(codes, 4).T.contiguous(), "scales": scales.T.contiguous(), "qzeros": words(zeros.T - 1, 4),
         "g_idx": (torch.arange(w.shape[1]) // 32).int(), "bias": torch.zeros(w.shape[0], dtype=torch.float16)}
    return t, values(codes, scales, zeros)


def awq(w, rng):
    codes, scales, zeros = round_to_nearest(w, 4, 32, False)
    order = [0, 2, 4, 6, 1, 3, 5, 7]  # the column of each nibble

    def lines(x):  # [lines, N]
        return words(x.reshape(x.shape[0], -1, 8)[:, :, order].reshape(x.shape), 4)

    t = {"qweight": lines(codes.T), "qzeros": lines(zeros.T), "scales": scales.T.contiguous()}
    return t, values(codes, scales, zeros)


# ---- compressed-tensors, by its own compressors ---------------------------------------------------

def compressed(weights, w, params, form=None):
    from compressed_tensors.compressors.base import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))
    c = BaseCompressor.get_value_from_registry(form)
    packed = c.compress({"weight": w.float(), **params}, scheme)
    plain = c.decompress(dict(packed), scheme)["weight"]
    return {k: v.detach() for k, v in packed.items()}, plain.detach()


def signed(w, bits, group, symmetric, dtype=torch.bfloat16):
    """Scales and signed zeros as its observers leave them."""
    _, scales, zeros = round_to_nearest(w, bits, group or w.shape[1], symmetric, dtype=dtype)
    return scales, (zeros - 2 ** (bits - 1)).to(torch.int8)


def ct_packed(bits, group=None, symmetric=True, order=False):
    def store(w, rng):
        size = group or w.shape[1]
        scales, zeros = signed(w, bits, size, symmetric)
        args = dict(num_bits=bits, symmetric=symmetric, strategy="group" if group else "channel")
        if group:
            args["group_size"] = group
        params = {"weight_scale": scales.float(), "weight_zero_point": zeros}
        perm = torch.from_numpy(rng.permutation(w.shape[1])) if order else torch.arange(w.shape[1])
        t, plain = compressed(args, w[:, perm], params, "pack-quantized")
        t["weight_scale"] = scales
        if order:  # column perm[i] was stored i-th: groups follow the permutation
            from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
            inverse = torch.argsort(perm)
            t["weight_g_idx"] = (inverse // size).int()
            zero = zeros.float() if not symmetric else torch.zeros_like(scales).float()
            q = ((w / scales.float()[:, inverse // size]).round() + zero[:, inverse // size])
            q = q.clamp(-2 ** (bits - 1), 2 ** (bits - 1) - 1)
            t["weight_packed"] = pack_to_int32(q.to(torch.int8), bits)
            plain = (q - zero[:, inverse // size]) * scales.float()[:, inverse // size]
        return t, plain
    return store


def ct_bytes(kind, strategy, block=None, symmetric=True, static=None):
    def store(w, rng):
        n, k = w.shape
        top = 127 if kind == "int" else 448
        args = dict(num_bits=8, type=kind, symmetric=symmetric, strategy=strategy)
        params = {}
        if strategy == "tensor":
            scale = (w.abs().max() / top).reshape(1)
        elif strategy == "block":
            args["block_structure"] = list(block)
            scale = torch.stack([torch.stack([c.abs().max() / top for c in r.split(block[1], 1)])
                                 for r in w.split(block[0], 0)])
        elif symmetric:
            scale = w.abs().amax(1, keepdim=True) / top
        else:
            scale, zero = signed(w, 8, None, False, torch.float32)
            params["weight_zero_point"] = zero
        params["weight_scale"] = scale.float()
        t, plain = compressed(args, w, params, "naive-quantized")
        if static:
            t["input_scale"], t["input_zero_point"] = torch.tensor([static[0]]), torch.tensor([static[1]]).to(torch.int8)
        return t, plain
    return store


def nvfp4(w, rng):
    peak = 6 * 448 / w.abs().max()
    scale = (w.reshape(w.shape[0], -1, 16).abs().amax(2) / 6 * peak).to(torch.float8_e4m3fn).float()
    args = dict(num_bits=4, type="float", symmetric=True, strategy="tensor_group", group_size=16,
                scale_dtype=torch.float8_e4m3fn)
    t, _ = compressed(args, w, {"weight_scale": scale, "weight_global_scale": peak.reshape(1)}, "nvfp4-pack-quantized")
    from compressed_tensors.compressors.nvfp4.helpers import unpack_fp4_from_uint8
    codes = unpack_fp4_from_uint8(t["weight_packed"], *w.shape).double()  # its decompress() rounds to bf16
    return t, codes * t["weight_scale"].double().repeat_interleave(16, 1) / peak.double()


def mxfp4(w, rng):
    scale = 2.0 ** torch.ceil(torch.log2(w.reshape(w.shape[0], -1, 32).abs().amax(2) / 6))
    args = dict(num_bits=4, type="float", symmetric=True, strategy="group", group_size=32, scale_dtype=torch.uint8)
    return compressed(args, w, {"weight_scale": scale}, "mxfp4-pack-quantized")


# ---- FP8 ------------------------------------------------------------------------------------------

def fp8_blocks(block):
    def store(w, rng):
        rows, q = [], torch.zeros_like(w, dtype=torch.float8_e4m3fn)
        plain = torch.zeros_like(w, dtype=torch.float64)
        for i in range(0, w.shape[0], block[0]):
            row = []
            for j in range(0, w.shape[1], block[1]):
                part = w[i:i + block[0], j:j + block[1]]
                s = part.abs().max() / 448
                code = (part / s).to(torch.float8_e4m3fn)
                q[i:i + block[0], j:j + block[1]] = code
                plain[i:i + block[0], j:j + block[1]] = code.double() * s.double()
                row.append(s)
            rows.append(torch.stack(row))
        return {"weight": q, "weight_scale_inv": torch.stack(rows).float()}, plain
    return store


def fp8_tensor(w, rng):
    s = (w.abs().max() / 448).float()
    q = (w / s).to(torch.float8_e4m3fn)
    return {"weight": q, "weight_scale": s, "input_scale": torch.tensor(0.03)}, q.double() * s.double()


# ---- bitsandbytes ---------------------------------------------------------------------------------

def bnb4(kind, double):
    def store(w, rng):
        import bitsandbytes.functional as F
        q, state = F.quantize_4bit(w.float(), blocksize=64, quant_type=kind, compress_statistics=double)
        plain = F.dequantize_4bit(q, state)
        t = {"weight": q} | {"weight." + k: v for k, v in state.as_dict(packed=True).items()}
        return t, plain
    return store


def bnb8(w, rng):
    top = w.abs().amax(1).float()
    q = (w * 127 / top[:, None]).round().to(torch.int8)
    t = {"weight": q, "SCB": top, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return t, q.double() * top.double()[:, None] / 127


# ---- cases ----------------------------------------------------------------------------------------

def gptq_config(bits, group, **keys):
    return dict(quant_method="gptq", bits=bits, group_size=group, **keys)


def ct_config(form, weights, acts=None, ignore=("lm_head",), **keys):
    group = {"targets": ["Linear"], "weights": weights, "input_activations": acts, "output_activations": None}
    return dict(quant_method="compressed-tensors", format=form, config_groups={"group_0": group},
                ignore=list(ignore), quantization_status="compressed", **keys)


TOKEN = dict(num_bits=8, type="int", symmetric=True, strategy="token", dynamic=True)
STATIC = dict(num_bits=8, type="int", symmetric=False, strategy="tensor", dynamic=False)
BNB = dict(quant_method="bitsandbytes", llm_int8_skip_modules=["lm_head"])


def int_args(bits, **keys):
    return dict(num_bits=bits, type="int", **keys)


def float_args(bits, **keys):
    return dict(num_bits=bits, type="float", **keys)


# name: store, config, {keys: store of some modules}, file of the config, rounding of activations
CASES = {
    "gptq-b4-g32": (gptq(4, 32), gptq_config(4, 32, sym=True, desc_act=False)),
    "gptq-b4-v1-zeros": (gptq_odd_zeros, gptq_config(4, 32, sym=False, desc_act=False, checkpoint_format="gptq")),
    "gptq-b4-act-order": (gptq(4, 32, False, True, 2),
                          gptq_config(4, 32, sym=False, desc_act=True, checkpoint_format="gptq_v2")),
    "gptq-b3-whole": (gptq(3, -1, False), gptq_config(3, -1, sym=False, desc_act=False)),
    "gptq-b2-dynamic": (gptq(2, 16, True, g_idx=False), gptq_config(2, 16, sym=True, desc_act=False, dynamic={
        r"-:.*\.self_attn\.o_proj$": {}, r"+:.*\.(?:down|up)_proj$": {"bits": 8, "group_size": 32}})),
    "gptq-b8-beside": (gptq(8, 32, False), gptq_config(8, 32, sym=False, desc_act=False)),
    "awq-g32": (awq, dict(quant_method="awq", bits=4, group_size=32, zero_point=True, version="gemm",
                          modules_to_not_convert=["mlp.down_proj"])),
    "ct-w4": (ct_packed(4, 32), ct_config("pack-quantized", int_args(4, strategy="group", group_size=32, symmetric=True))),
    "ct-w4-zeros-order": (ct_packed(4, 32, False, True), ct_config("pack-quantized", int_args(
        4, strategy="group", group_size=32, symmetric=False, actorder="group"))),
    "ct-w8": (ct_packed(8), ct_config("pack-quantized", int_args(8, strategy="channel", symmetric=True),
                                      ignore=("re:.*lm_head", "re:.*o_proj"))),
    "ct-w3": (ct_packed(3, 32), ct_config("pack-quantized", int_args(3, strategy="group", group_size=32, symmetric=True))),
    "ct-w8a8": (ct_bytes("int", "channel"), ct_config("int-quantized", int_args(8, strategy="channel", symmetric=True),
                                                      TOKEN)),
    "ct-w8a8-static": (ct_bytes("int", "channel", symmetric=False, static=(0.04, 7)),
                       ct_config("int-quantized", int_args(8, strategy="channel", symmetric=False), STATIC)),
    "ct-fp8-tensor": (ct_bytes("float", "tensor"), ct_config("float-quantized", float_args(8, strategy="tensor"))),
    "ct-fp8-channel": (ct_bytes("float", "channel"), ct_config("float-quantized", float_args(8, strategy="channel"), dict(
        num_bits=8, type="float", strategy="token", dynamic=True, symmetric=True))),
    "ct-fp8-block": (ct_bytes("float", "block", (32, 16)), ct_config("float-quantized", float_args(
        8, strategy="block", block_structure=[32, 16]))),
    "ct-nvfp4": (nvfp4, ct_config("nvfp4-pack-quantized", float_args(4, strategy="tensor_group", group_size=16))),
    "ct-mxfp4": (mxfp4, ct_config("mxfp4-pack-quantized", float_args(4, strategy="group", group_size=32))),
    "fp8-blocks": (fp8_blocks((48, 40)), dict(quant_method="fp8", fmt="e4m3", activation_scheme="dynamic",
                                              weight_block_size=[48, 40])),
    "fp8-tensor": (fp8_tensor, dict(quant_method="fp8", activation_scheme="static",
                                    modules_to_not_convert=["lm_head", "model.layers.0.self_attn.v_proj"])),
    "bnb-nf4": (bnb4("nf4", False), dict(BNB, load_in_4bit=True, bnb_4bit_quant_type="nf4")),
    "bnb-nf4-across": (bnb4("nf4", True), dict(BNB, load_in_4bit=True, bnb_4bit_quant_type="nf4")),
    "bnb-nf4-double": (bnb4("nf4", True), dict(BNB, load_in_4bit=True, bnb_4bit_use_double_quant=True)),
    "bnb-fp4": (bnb4("fp4", False), dict(BNB, load_in_4bit=True, bnb_4bit_quant_type="fp4")),
    "bnb-int8": (bnb8, dict(BNB, load_in_8bit=True)),
}
PLAIN = {"awq-g32": "down_proj", "ct-w8": "o_proj", "gptq-b2-dynamic": "o_proj", "fp8-tensor": "v_proj"}
OTHER = {"gptq-b2-dynamic": (("down_proj", "up_proj"), gptq(8, 32, True, g_idx=False))}
BESIDE = {"gptq-b8-beside": "quantize_config.json"}
FFN_OF = {"bnb-nf4": 128, "bnb-nf4-across": 100, "bnb-nf4-double": 128, "bnb-fp4": 128}


class Rounding(torch.nn.Linear):
    """Activations as integer units get them."""
    acts = None

    def forward(self, x):
        scale, zero = self.acts if self.acts != "token" else (x.abs().amax(-1, keepdim=True) / 127, 0)
        q = ((x / scale).round() + zero).clamp(-128, 127) - zero
        return super().forward(q * scale)


def shape_of(name, ffn):
    n, k = MODULES[name]
    return (ffn if n == FFN else n), (ffn if k == FFN else k)


def base_weights(rng, ffn):
    t = {"model.embed_tokens.weight": rng.normal(0, 0.4, (VOCAB, HIDDEN)),
         "lm_head.weight": rng.normal(0, 2 / np.sqrt(HIDDEN), (VOCAB, HIDDEN)),
         "model.norm.weight": 1 + rng.normal(0, 0.2, HIDDEN)}
    for name in ("input_layernorm", "post_attention_layernorm"):
        t[f"model.layers.0.{name}.weight"] = 1 + rng.normal(0, 0.2, HIDDEN)
    for name in MODULES:
        n, k = shape_of(name, ffn)
        t[f"model.layers.0.{name}.weight"] = rng.normal(0, 1.3 / np.sqrt(k), (n, k))
    return {k: torch.tensor(v, dtype=torch.float64).to(torch.float16) for k, v in t.items()}


def config(ffn):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "num_hidden_layers": 1,
            "hidden_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": KV, "intermediate_size": ffn,
            "hidden_act": "silu", "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float16"}


def quantise(name, store, stored, rng):
    """Replaces modules in `stored`; returns the float64 weights that they stand for."""
    plain = {k: v.double() for k, v in stored.items()}
    for key in [k for k in stored if "_proj.weight" in k]:
        if PLAIN.get(name) and PLAIN[name] in key:
            continue
        others, other = OTHER.get(name, ((), None))
        use = other if any(o in key for o in others) else store
        module = key[:-len(".weight")]
        tensors, plain[key] = use(stored.pop(key).float(), rng)
        stored |= {f"{module}.{k}": v.contiguous() for k, v in tensors.items()}
    return plain


def round_acts(name, model):
    acts = "token" if name == "ct-w8a8" else (0.04, 7) if name == "ct-w8a8-static" else None
    for module in model.modules() if acts else ():
        if isinstance(module, torch.nn.Linear) and module is not model.lm_head:
            module.__class__, module.acts = Rounding, acts


@torch.no_grad()
def make(name, seed):
    store, quantization, *_ = CASES[name]
    rng = np.random.default_rng(seed)
    ffn = FFN_OF.get(name, FFN)
    stored = base_weights(rng, ffn)
    plain = quantise(name, store, stored, rng)
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    c = config(ffn)
    beside = BESIDE.get(name)
    if beside:
        (folder / beside).write_text(json.dumps(quantization, indent=1) + "\n")
    else:
        c["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(c, indent=1) + "\n")
    model = LlamaForCausalLM(LlamaConfig(**{k: v for k, v in config(ffn).items() if k not in (
        "architectures", "model_type", "torch_dtype")}, attn_implementation="eager")).double().eval()
    model.load_state_dict({k: v.double() for k, v in plain.items()})
    round_acts(name, model)
    ids = rng.integers(3, VOCAB, PROMPT).tolist()
    out = model(torch.tensor([ids])).logits[0]
    rows = [[float(f"{x:.7g}") for x in out[i].tolist()] for i in AT + [PROMPT - 1]]
    case = {"prompt": ids, "logits_at": AT, "logits": rows[:-1], "logits_last": rows[-1]}
    (folder / "golden.json").write_text(json.dumps({"cases": [case]}, separators=(",", ":")) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name}: {size // 1024} KiB, logits std {float(out.std()):.2f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    for chosen in sys.argv[1:] or CASES:
        make(chosen, 100 + list(CASES).index(chosen))
