"""Writes seeds of the targets that read weight files: tests/fuzz/make_seeds.py [TARGET...]

Run from the project's root; needs Python 3 alone. A seed is a small whole file or one
with one damage; the fuzzer finds the rest.
"""
import os
import struct
import sys

CORPUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
KINDS = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"),
         "i32": (5, "i"), "f32": (6, "f"), "bool": (7, "?"), "u64": (10, "Q"), "i64": (11, "q"),
         "f64": (12, "d")}


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


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


SEEDS = {"gguf": gguf_seeds}


def main():
    for target in sys.argv[1:] or SEEDS:
        folder = os.path.join(CORPUS, target)
        os.makedirs(folder, exist_ok=True)
        for name, raw in SEEDS[target]().items():
            with open(os.path.join(folder, name), "wb") as f:
                f.write(raw)


main()
