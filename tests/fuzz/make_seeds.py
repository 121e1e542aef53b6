"""Writes seeds of the targets that read weight and vocabulary files: tests/fuzz/make_seeds.py [TARGET...]

Needs Python 3 alone; the target pth_torch, which writes real files of torch.save into pth's corpus,
needs PyPI's torch. A seed is a small whole file or one with one damage; the fuzzer finds the rest.
tests/unit/engine/test_pth.c reads those of pth by name.
"""
import base64
import io
import json
import os
import struct
import sys
import zipfile

CORPUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
KINDS = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"),
         "i32": (5, "i"), "f32": (6, "f"), "bool": (7, "?"), "u64": (10, "Q"), "i64": (11, "q"),
         "f64": (12, "d")}


def text(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def value(kind, x):
    """Type and bytes of a value: ("u32", 5), ("str", "a"), ("u32[]", [1, 2]), ("str[]", [])."""
    if kind == "str":
        return struct.pack("<I", 8) + text(x)
    if kind == "str[]":
        return struct.pack("<IIQ", 9, 8, len(x)) + b"".join(map(text, x))
    if kind.endswith("[]"):
        number, code = KINDS[kind[:-2]]
        return struct.pack("<IIQ", 9, number, len(x)) + struct.pack(f"<{len(x)}{code}", *x)
    number, code = KINDS[kind]
    return struct.pack("<I" + code, number, x)


def gguf(values, tensors, version=3, n_tensors=None):
    """values: (key, kind, x); tensors: (name, ne, type, bytes)."""
    head = struct.pack("<4sIQQ", b"GGUF", version, n_tensors or len(tensors), len(values))
    head += b"".join(text(k) + value(kind, x) for k, kind, x in values)
    data = b""
    for name, ne, kind, raw in tensors:
        data += b"\0" * (-len(data) % 32)
        head += text(name) + struct.pack(f"<I{len(ne)}QIQ", len(ne), *ne, kind, len(data))
        data += raw
    return head + b"\0" * (-len(head) % 32) + data


def gguf_seeds():
    every = [(k, k, 1) for k in KINDS]
    dims = [("general.architecture", "str", "llama"), ("llama.block_count", "u32", 4),
            ("llama.embedding_length", "u32", 8), ("llama.attention.head_count", "u32", 2),
            ("llama.attention.head_count_kv", "i32[]", [1] * 4),
            ("llama.attention.sliding_window_pattern", "bool[]", [1, 0] * 2),
            ("llama.rope.scaling.type", "str", "yarn"), ("llama.rope.scaling.factor", "f32", 4),
            ("tokenizer.ggml.tokens", "str[]", ["<s>", "", "\u2581the"]),
            ("tokenizer.ggml.eos_token_id", "u32", 2)]
    factors = ("rope_factors_long.weight", [2], 0, b"\0" * 8)
    tables = [("token_embd.weight", [8, 3], 0, b"\1" * 96), ("q", [32, 2], 2, b"\2" * 36)]
    return {"values": gguf(every, []), "model": gguf(dims, tables + [factors]),
            "aligned": gguf([("general.alignment", "u32", 64)], []),
            "twice": gguf([], tables + tables), "many": gguf([], [], n_tensors=1 << 60),
            "pattern": gguf(dims[:2] + [("llama.attention.sliding_window_pattern", "u32", 2)], []),
            "old": gguf([], [], version=1), "cut": gguf(every, tables)[:-20]}


def gguf_vocab_seeds():
    def key(name):
        return "tokenizer.ggml." + name

    def vocabulary(model, tokens, types, *more):
        return gguf([(key("model"), "str", model), (key("tokens"), "str[]", tokens),
                     (key("token_type"), "i32[]", types), *more],
                    [("t", [8], 0, b"the page  <s> abc".ljust(32))])
    spm = ["<unk>", "<s>", "</s>", "<0x0A>", "\u2581", "t", "h", "e", "th", "the", "\u2581the", "[P]"]
    scores = (key("scores"), "f32[]", [-float(i) for i in range(len(spm))])
    spm_types = [2, 3, 3, 6] + [1] * 7 + [5]
    bpe = ["t", "h", "e", "\u0120", "th", "the", "<s>", "\u0120the"]
    merges = (key("merges"), "str[]", ["t h", "th e", "\u0120 the"])
    bert = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u2581the", "\u2581p", "age", "\u2581a"]
    ends = [(key("bos_token_id"), "u32", 1), (key("eos_token_id"), "u32", 2)]
    blob = (key("precompiled_charsmap"), "u8[]", [4, 0, 0, 0, 0, 2, 0, 0, 97, 0])
    return {
        "llama": vocabulary("llama", spm, spm_types, scores, *ends),
        "llama_plain": vocabulary("llama", spm, spm_types, scores,
                                  (key("add_space_prefix"), "bool", 0)),
        "t5": vocabulary("t5", spm, spm_types, scores, blob, *ends),
        "gpt2": vocabulary("gpt2", bpe, [1] * 6 + [3, 1], merges, (key("pre"), "str", "llama-bpe"),
                           (key("add_bos_token"), "bool", 1), (key("bos_token_id"), "u32", 6)),
        "gpt2_default": vocabulary("gpt2", bpe, [1] * 6 + [4, 1], merges),
        "gpt2_falcon": vocabulary("gpt2", bpe, [1] * 8, merges, (key("pre"), "str", "falcon")),
        "bert": vocabulary("bert", bert, [3] * 4 + [1] * 4, (key("unknown_token_id"), "u32", 1)),
        "rwkv": vocabulary("rwkv", bpe, [1] * 8),
        "unknown_pre": vocabulary("gpt2", bpe, [1] * 8, merges, (key("pre"), "str", "nobody")),
        "lengths": vocabulary("llama", spm, [1], scores),
        "no_scores": vocabulary("llama", spm, spm_types),
        "bad_merge": vocabulary("gpt2", bpe, [1] * 8, (key("merges"), "str[]", ["t x", "th"])),
        "no_tokens": gguf([(key("model"), "str", "llama")], []),
        "empty": vocabulary("llama", ["", ""], [1, 1]),
    }


def tekken_seeds():
    entries = [{"rank": b, "token_bytes": base64.b64encode(bytes([b])).decode(), "token_str": None}
               for b in range(256)]
    entries += [{"rank": 256, "token_bytes": "dGg=", "token_str": "th"},
                {"rank": 257, "token_bytes": "dGhl", "token_str": "the"}]

    def content(vocab=entries, special=None, **config):
        config = {"pattern": "\\p{L}+|\\s+|[^\\p{L}\\s]+", "default_vocab_size": 262,
                  "default_num_special_tokens": 4, **config}
        if special is None:
            special = [{"rank": i, "token_str": s} for i, s in enumerate(["<unk>", "<s>", "</s>"])]
        text = json.dumps({"config": config, "vocab": vocab, "special_tokens": special})
        return (text + "\n====the <s> page<SPECIAL_3>").encode()
    return {"plain": content(), "implied": content(special=[], default_num_special_tokens=30,
                                                   default_vocab_size=288),
            "sizes": content(default_vocab_size=-1), "many": content(default_vocab_size=1 << 40),
            "pattern": content(pattern="("), "nul": content(pattern="a\0b"),
            "rank": content(special=[{"rank": 9, "token_str": "x"}]),
            "bytes": content(vocab=[{"rank": 0, "token_bytes": "*"}]), "few": content(vocab=[])}


def word_lists_seeds():
    rwkv = "1 'a' 1\n2 b'\\xff' 1\n3 ' the' 4\n4 '\\u4f60' 3\n5 '\\'' 1\n6 \"'\" 1\n7 '\\n' 1\n"
    return {
        "rwkv": (rwkv + "====a the\n\u4f60'").encode(), "rwkv_length": b"1 'ab' 1\n",
        "rwkv_escape": b"1 '\\x4' 1\n2 '\\UFFFFFFFF' 1\n", "rwkv_open": b"1 'ab 3\n1 b'' 0",
        "bert": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\n##s\r\np\n##age\n====the pages [MASK]",
        "gpt2": b'{"t": 0, "h": 1, "e": 2, "th": 3, "the": 4, "<|endoftext|>": 5}\n----\n'
                b"#version: 0.2\nt h\nth e\n====the the<|endoftext|>",
        "gpt2_merge": b'{"t": 0}\n----\nt t\n',
    }


# Pickles, opcode by opcode, so that hostile ones need no Python that would write them.

def short(s):
    return b"X" + struct.pack("<I", len(s)) + s.encode()


def number(x):
    return b"J" + struct.pack("<i", x) if -2**31 <= x < 2**31 else b"\x8a\x08" + struct.pack("<q", x)


def tuple_of(*parts):
    return b"(" + b"".join(parts) + b"t"


def world(module, name):
    return b"c" + f"{module}\n{name}\n".encode()


def storage(key, numel, kind="FloatStorage", *view):
    return tuple_of(short("storage"), world("torch", kind), short(key), short("cpu"),
                    number(numel), *view) + b"Q"


def tensor(stored, dims, strides=None, first=0, call="_rebuild_tensor_v2", tail=b""):
    if strides is None:
        strides = [1] * len(dims)
        for i in range(len(dims) - 2, -1, -1):
            strides[i] = strides[i + 1] * dims[i + 1]
    sizes = tuple_of(*map(number, dims)) + tuple_of(*map(number, strides))
    hooks = world("collections", "OrderedDict") + b")R"
    return (world("torch._utils", call) + b"(" + stored + number(first) + sizes + b"\x89" + hooks +
            tail + b"tR")


def items(pairs):
    return b"(" + b"".join(short(k) + v for k, v in pairs) + b"u"


def dict_of(*pairs):
    return b"}" + items(pairs)


def pickled(body):
    return b"\x80\x02" + body + b"."


def archive(pickle, data, method=zipfile.ZIP_STORED, byteorder=b"little", name="m"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        for entry, raw in [("data.pkl", pickle), ("byteorder", byteorder), *data, ("version", b"3\n")]:
            z.writestr(zipfile.ZipInfo(f"{name}/{entry}"), raw, compress_type=method)
    return out.getvalue()


def four(n=4):
    return struct.pack(f"<{n}f", *range(1, n + 1))


def simple(body, data=None):
    return archive(pickled(body), data or [("data/0", four())])


def legacy(body, keys, data):
    magic = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
    listed = b"](" + b"".join(map(short, keys)) + b"e"
    blocks = b"".join(struct.pack("<Q", len(raw) // 4) + raw for raw in data)
    return (magic + pickled(b"M" + struct.pack("<H", 1001)) + pickled(b"}") + pickled(body) +
            pickled(listed) + blocks)


def pth_seeds():
    t = tensor(storage("0", 4), [2, 2])
    one = dict_of(("w", t))
    ordered = world("collections", "OrderedDict") + b")R" + items([("w", t)]) + b"}b"
    wide = tensor(storage("0", 4, "UntypedStorage"), [4], call="_rebuild_tensor_v3",
                  tail=world("torch", "float8_e4m3fn") + b"}")
    system = world("os", "system") + b"(" + short("true") + b"tR"
    loop = b"]q\x00h\x00a"  # a list that holds itself
    deep = b"]" * 4096 + b"a" * 4095
    return {
        "plain": simple(one),
        "ordered": simple(ordered),
        "wrapped": simple(dict_of(("epoch", number(3)), ("state_dict", one))),
        "parameter": simple(dict_of(("w", world("torch._utils", "_rebuild_parameter") + b"(" + t +
                                     b"\x89}tR"))),
        "shared": simple(dict_of(("a", t), ("b", tensor(storage("0", 4), [2], first=2)))),
        "float8": archive(pickled(dict_of(("w", wide))), [("data/0", b"\x38" * 4)]),
        "scalar": simple(dict_of(("w", tensor(storage("0", 4), [], first=3)))),
        "legacy": legacy(dict_of(("w", tensor(storage("k", 4, "FloatStorage", b"N"), [2, 2]))),
                         ["k"], [four()]),
        "legacy_length": legacy(dict_of(("w", tensor(storage("k", 4), [4]))), ["k"], [four(3)]),
        "legacy_missing": legacy(dict_of(("w", tensor(storage("k", 4), [4]))), [], []),
        "os_system": simple(dict_of(("w", system))),
        "os_system_4": simple(dict_of(("w", short("os") + short("system") + b"\x93" + b")R"))),
        "getattr": simple(world("builtins", "getattr") + b"."),
        "long_name": simple(b"c" + b"a" * 300 + b"\nb\n"),
        "instance": simple(b"(iposix\nsystem\n"),
        "newobj": simple(world("collections", "OrderedDict") + b")\x81"),
        "extension": simple(b"\x82\x01"),
        "call_tensor": simple(dict_of(("w", t[:-1] + b"R)R"))),
        "storage_call": simple(world("torch", "FloatStorage") + b")R"),
        "no_mark": simple(b"t"),
        "empty_stack": simple(b"0"),
        "memo": simple(b"h\x07"),
        "memo_far": simple(b"Nr\xff\xff\xff\xff"),
        "loop": simple(dict_of(("l", loop), ("w", t))),
        "deep": simple(dict_of(("l", deep), ("w", t))),
        "long_text": simple(b"X\xff\xff\xff\xffabc"),
        "big_text": simple(b"\x8d" + b"\xff" * 8 + b"abc"),
        "odd_dict": simple(b"}(Nu"),
        "not_a_dict": simple(b"]N" + b"N" + b"s"),
        "set": simple(b"\x8f"),
        "no_stop": archive(b"\x80\x02N", []),
        "protocol": archive(b"\x80\x09N.", []),
        "no_tensors": simple(dict_of(("epoch", number(3)))),
        "twice": simple(dict_of(("w", t), ("w", t))),
        "past_end": simple(dict_of(("w", tensor(storage("0", 4), [4], first=1)))),
        "huge": simple(dict_of(("w", tensor(storage("0", 4), [1 << 30] * 3, [1 << 60, 1 << 30, 1])))),
        "negative": simple(dict_of(("w", tensor(storage("0", 4), [-4])))),
        "strided": simple(dict_of(("w", tensor(storage("0", 4), [2, 2], [1, 2])))),
        "short": simple(dict_of(("w", tensor(storage("0", 5), [5])))),
        "missing": simple(dict_of(("w", tensor(storage("7", 4), [4])))),
        "view": simple(dict_of(("w", tensor(storage("0", 4, "FloatStorage", b")"), [4])))),
        "two_types": simple(dict_of(("a", t), ("b", tensor(storage("0", 4, "HalfStorage"), [4])))),
        "quantised": simple(dict_of(("w", tensor(storage("0", 4, "QInt8Storage"), [4])))),
        "bad_id": simple(tuple_of(short("storage")) + b"Q"),
        "big_endian": archive(pickled(one), [("data/0", four())], byteorder=b"big"),
        "deflated": archive(pickled(one), [("data/0", four())], method=zipfile.ZIP_DEFLATED),
        "no_pickle": zip_of([("m/version", b"3")]),
        "two_pickles": zip_of([("a/data.pkl", pickled(one)), ("b/data.pkl", pickled(one))]),
        "overlap": overlapping(),
        "cut": simple(one)[:-30],
        "text": b"neither of them",
    }


def zip_of(entries):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, raw in entries:
            z.writestr(zipfile.ZipInfo(name), raw)
    return out.getvalue()


def overlapping():
    """The first entry's record claims 60 bytes more: it reaches into the second entry."""
    raw = bytearray(zip_of([("data.pkl", pickled(b"}")), ("data/0", four(16))]))
    at = raw.index(b"PK\1\2")
    size = struct.unpack_from("<I", raw, at + 20)[0] + 60
    struct.pack_into("<II", raw, at + 20, size, size)
    return bytes(raw)


def pth_torch_seeds():
    import torch
    w = torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4
    state = {"f32": w, "f16": w.half(), "bf16": w.bfloat16(), "i64": torch.arange(3),
             "tied": w, "row": w[1], "parameter": torch.nn.Parameter(w.clone()),
             "scalar": torch.tensor(2.5)}
    seeds = {}
    for name, options in (("torch", {}), ("torch_legacy", {"_use_new_zipfile_serialization": False}),
                          ("torch_protocol4", {"pickle_protocol": 4})):
        out = io.BytesIO()
        torch.save(torch.nn.Module.state_dict(torch.nn.Linear(2, 2)) | state, out, **options)
        seeds[name] = out.getvalue()
    return seeds


def quant_seed(n, k, config, *tensors):
    """A module of n rows and k columns (fuzz_quant.c); tensors: (suffix, type, bytes each, shape)."""
    header, at = {}, 0
    for suffix, kind, size, shape in tensors:
        for d in shape:
            size *= d
        header["x" + suffix] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return bytes([n // 4 - 1, k - 1]) + json.dumps(config).encode() + b"\0" + json.dumps(header).encode()


def quant_seeds():
    def ct(form, **weights):
        acts = {"num_bits": 8, "type": "int", "dynamic": False}
        return {"format": form, "ignore": ["re:.*lm_head", "y"], "config_groups": {"g": {
            "targets": ["Linear"], "weights": weights, "input_activations": acts}}}

    gptq = {"quant_method": "gptq", "bits": 4, "group_size": 32}
    g_tensors = [(".qweight", "I32", 4, [8, 16]), (".qzeros", "I32", 4, [2, 2]), (".scales", "F16", 2, [2, 16])]
    b3 = [(".qweight", "I32", 4, [6, 32]), (".qzeros", "I32", 4, [1, 3]), (".scales", "F32", 4, [1, 32])]
    pad = ("_pad", "U8", 1, [40000])  # past the zeros
    state = [(".weight.quant_state.bitsandbytes__nf4", "U8", 1, [34])]
    return {
        "gptq": quant_seed(16, 64, gptq, *g_tensors, (".bias", "F16", 2, [16])),
        "gptq_order": quant_seed(16, 64, gptq, *g_tensors, (".g_idx", "I32", 4, [64])),
        "gptq_3": quant_seed(32, 64, {"quant_method": "gptq", "bits": 3, "group_size": -1, "dynamic": {
            "-:.*y$": {}, "+:z\\d": {"bits": 8}}}, *b3),
        "awq": quant_seed(16, 64, {"quant_method": "awq", "bits": 4, "group_size": 32}, (".qweight", "I32", 4, [64, 2]),
                          (".qzeros", "I32", 4, [2, 2]), (".scales", "F16", 2, [2, 16])),
        "packed": quant_seed(16, 64, ct("pack-quantized", num_bits=4, type="int", group_size=32, symmetric=False),
                             (".weight_packed", "I32", 4, [16, 8]), (".weight_scale", "BF16", 2, [16, 2]),
                             (".weight_zero_point", "I32", 4, [2, 2]), (".weight_g_idx", "I32", 4, [64])),
        "shape": quant_seed(16, 64, ct("pack-quantized", num_bits=4, type="int"), (".weight_packed", "I32", 4, [16, 8]),
                            (".weight_scale", "BF16", 2, [16, 1]), (".weight_shape", "I64", 8, [2])),
        "int8": quant_seed(16, 64, ct("int-quantized", num_bits=8, type="int", symmetric=False),
                           (".weight", "I8", 1, [16, 64]), (".weight_scale", "F32", 4, [16, 1]),
                           (".weight_zero_point", "I8", 1, [16, 1]), pad, (".input_scale", "F32", 4, [1])),
        "fp8": quant_seed(16, 64, {"quant_method": "fp8", "weight_block_size": [12, 20]},
                          (".weight", "F8_E4M3", 1, [16, 64]), (".weight_scale_inv", "F32", 4, [2, 4])),
        "nvfp4": quant_seed(16, 64, ct("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16),
                            (".weight_packed", "U8", 1, [16, 32]), (".weight_scale", "F8_E4M3", 1, [16, 4]),
                            pad, (".weight_global_scale", "F32", 4, [1]), (".input_scale", "F32", 4, [])),
        "mxfp4": quant_seed(16, 64, {"quant_method": "mxfp4"}, ("_blocks", "U8", 1, [2, 16, 2, 16]),
                            ("_scales", "U8", 1, [2, 16, 2])),
        "bnb4": quant_seed(16, 64, {"quant_method": "bitsandbytes"}, *state, (".weight", "U8", 1, [512, 1]),
                           (".weight.absmax", "U8", 1, [16]), (".weight.quant_map", "F32", 4, [16]),
                           (".weight.nested_absmax", "F32", 4, [1]), (".weight.nested_quant_map", "F32", 4, [256])),
        "bnb8": quant_seed(16, 64, {"quant_method": "bitsandbytes"}, (".weight", "I8", 1, [16, 64]),
                           (".SCB", "F32", 4, [16]), (".weight_format", "U8", 1, [])),
        "refused": quant_seed(16, 64, {"quant_method": "gptq", "bits": 4, "dynamic": {"(?!x)": {}}}),
    }


SEEDS = {"gguf": gguf_seeds, "pth": pth_seeds, "pth_torch": pth_torch_seeds, "quant": quant_seeds,
         "gguf_vocab": gguf_vocab_seeds, "tekken": tekken_seeds,
         "word_lists": word_lists_seeds}


def main():
    for target in sys.argv[1:] or [name for name in SEEDS if name != "pth_torch"]:
        folder = os.path.join(CORPUS, target.removesuffix("_torch"))
        os.makedirs(folder, exist_ok=True)
        for name, raw in SEEDS[target]().items():
            with open(os.path.join(folder, name), "wb") as f:
                f.write(raw)


main()
