#!/usr/bin/env python3
"""Make tests/tokenizer/fixtures/offsets.jsonl: the reference library's offsets over the tokenizers of
fixtures/ and, by their paths, over those of ../shared/data/tokenizers.

Needs the PyPI package tokenizers (made with 0.23.3). Run from the project's root:

    tests/tokenizer/make_offsets.py
"""
import glob
import json
import os
import random
import sys

from tokenizers import Tokenizer

sys.path.insert(0, os.path.dirname(__file__))
from compare import text  # noqa: E402

HERE = os.path.join(os.path.dirname(__file__), "fixtures")
DATA = "../shared/data/tokenizers/"
SHARED = ["t5-small", "roberta-base", "phi-3-mini", "falcon", "derived/llama-3", "derived/gpt2",
          "derived/qwen2.5", "derived/bert-base-uncased", "derived/deepseek-llm", "gpt-neox"]
FIXED = ["", " ", "hello world", "  two  spaces\n", "e\u0301\u0323a\u0308o \ufb01ne \u1100\u1161\u11a8",
         "A\u030aB \u212b \u2460\u00bd \U0001d400x", "\u4e2d\u6587 mixed \u6587", "I\u0307STANBUL \u0130x",
         "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f642", "\u0000a\u200bb\ufeff\u00adc", "na\u00efve caf\u00e9"]


def main():
    r = random.Random(20261121)
    files = [(p, os.path.relpath(p, HERE)) for p in sorted(glob.glob(HERE + "/*.json"))]
    files = [(p, n) for p, n in files if n not in ("templates.json", "goldens_2024.json")]
    files += [(DATA + n + "/tokenizer.json", DATA + n + "/tokenizer.json") for n in SHARED]
    # a SentencePiece model counts like the tokenizer.json that is made of it
    files += [(DATA + "derived/llama-2/tokenizer.json", DATA + "llama-2/tokenizer.model")]
    with open(os.path.join(HERE, "offsets.jsonl"), "w", encoding="utf-8") as f:
        for path, name in files:
            t = Tokenizer.from_file(path)
            specials = [a.content for a in t.get_added_tokens_decoder().values()][:40]
            model = name.endswith(".model")
            for i in range(len(FIXED) + 14):
                s = FIXED[i] if i < len(FIXED) else text(r, [] if model else specials)
                while len(s) > 200:
                    s = text(r, [] if model else specials)
                if model and ("<" in s or not s.strip()):
                    continue
                e = t.encode(s, add_special_tokens=not model)
                f.write(json.dumps({"file": name, "text": s, "ids": e.ids, "special": not model,
                                    "offsets": [x for o in e.offsets for x in o]},
                                   separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
