"""Makes quant_blocks.json: random blocks of every GGUF type and their values.

Values come from the `gguf` package's own dequantisers (needs PyPI: gguf, numpy); q8_1 and q8_K, which
it lacks, from their one-line formulas. Usage: make_quant_blocks.py > quant_blocks.json
"""
import json

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

# name: bytes of a block, offsets of its half-precision numbers
TYPES = {
    "q4_0": (18, [0]), "q4_1": (20, [0, 2]), "q5_0": (22, [0]), "q5_1": (24, [0, 2]),
    "q8_0": (34, [0]), "q8_1": (36, [0, 2]), "q2_K": (84, [80, 82]), "q3_K": (110, [108]),
    "q4_K": (144, [0, 2]), "q5_K": (176, [0, 2]), "q6_K": (210, [208]), "q8_K": (292, []),
    "iq4_nl": (18, [0]), "iq4_xs": (136, [0]), "tq1_0": (54, [52]), "tq2_0": (66, [64]),
    "mxfp4": (17, []), "nvfp4": (36, []),
}


def values(name, block):
    if name == "q8_1":
        return block[:2].view(np.float16).astype(np.float32) * block[4:].view(np.int8)
    if name == "q8_K":
        return block[:4].view(np.float32) * block[4:260].view(np.int8)
    return dequantize(block[None], T[name.upper()])[0]


def main():
    rng = np.random.default_rng(5)
    out = {}
    for name, (n, halves) in TYPES.items():
        block = rng.integers(0, 256, n, dtype=np.uint8)
        for at in halves:
            block[at:at + 2] = np.float16(rng.uniform(-0.05, 0.05)).view(np.uint16)[None].view("u1")
        if name == "q8_K":
            block[:4] = np.float32(rng.uniform(-0.05, 0.05))[None].view("u1")
        if name == "mxfp4":
            block[0] = rng.integers(110, 135)
        if name == "nvfp4":  # a small number, one below normal, the largest, NaN that counts as 0
            block[:4] = [0x31, 0x05, 0x7E, 0x7F]
        v = np.asarray(values(name, block), np.float32)
        out[name] = {"block": block.tobytes().hex(), "f32": v.astype("<f4").tobytes().hex()}
    print(json.dumps(out, indent=0))


main()
