#!/usr/bin/env python3
"""Writes quantize.json: rows of floats and what kernels/quantize.h makes of them, computed here with
NumPy from that header's words alone. Needs: numpy."""
import json
import os

import numpy as np

F = np.float32
TRIES = {
    "int4": [1, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05, 1.1, 1.15],
    "zeros": [1, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.05],
    "int8": [1, 0.92, 0.94, 0.96, 0.98],
}


def codes_of(x, scale, zero, top):
    return np.clip(np.rint(x / scale), -zero, top - zero).astype(F)


def quantize_group(x, bits, has_zeros, scale_dt):
    top, zero = F(2**bits - 1), F(2 ** (bits - 1))
    high, low = max(x.max(), F(0)), min(x.min(), F(0))
    middle = (high + low) * F(0.5)
    span = (high - low) / top if has_zeros else (low if high < -low else high) / -zero
    best = (F(0), F(0), F(0) if has_zeros else zero)
    for f in TRIES["zeros" if has_zeros else "int%d" % bits]:
        if span == 0:
            break
        s, z = span * F(f), zero
        if has_zeros:
            z = np.clip(np.rint(top / F(2) - middle / s), F(0), top)
        q = np.clip(np.rint(x * (F(1) / s)), -z, top - z).astype(F)
        a = b = F(0)
        for xi, qi in zip(x, q):
            a, b = a + xi * qi, b + qi * qi
        if b > 0 and a * (a / b) > best[0]:
            best = (a * (a / b), a / b, z)
    scale, zero = F(scale_dt(best[1])), best[2]
    q = codes_of(x, scale, zero, top) if scale != 0 else np.zeros_like(x)
    return (q + zero).astype(np.uint8), scale, np.uint8(zero)


def quantize_row(x, bits, group, has_zeros, scale_dt):
    parts = [quantize_group(x[i:i + group], bits, has_zeros, scale_dt)
             for i in range(0, len(x), group)]
    codes = np.concatenate([p[0] for p in parts])
    if bits == 4:
        codes = np.append(codes, np.uint8(0)) if len(codes) % 2 else codes
        codes = codes[0::2] | codes[1::2] << 4
    row = codes.tobytes() + np.array([p[1] for p in parts], scale_dt).tobytes()
    return row + (bytes(p[2] for p in parts) if has_zeros else b"")


def main():
    rng = np.random.default_rng(5)
    k, cases = 200, []
    kinds = {
        "normal": rng.standard_normal(k) * 0.02,
        "student": rng.standard_t(4, k) * 0.02,
        "shifted": rng.standard_normal(k) * 0.01 + 0.03,
        "sparse": rng.standard_normal(k) * (rng.random(k) < 0.1),
        "tiny": rng.standard_normal(k) * 1e-8,
        "zeros": np.zeros(k),
        "odd": rng.laplace(size=77),
    }
    for name, x in kinds.items():
        for bits, group, zeros, scale in ((4, 32, False, "f16"), (4, 32, True, "f16"),
                                          (4, 64, False, "f32"), (8, 128, False, "f16")):
            x = x.astype(F)
            row = quantize_row(x, bits, group, zeros, np.float16 if scale == "f16" else F)
            cases.append({"name": name, "bits": bits, "group": group, "zeros": zeros,
                          "scale": scale, "x": x.tobytes().hex(), "row": row.hex()})
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "quantize.json")
    with open(path, "w") as f:
        json.dump(cases, f, indent=0)
        f.write("\n")


main()
