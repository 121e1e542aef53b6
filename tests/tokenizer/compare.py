#!/usr/bin/env python3
"""Compare tok_cli with the reference libraries on generated text and random ids.

Needs the PyPI packages tokenizers and sentencepiece. A development tool: the test suite does not
run it.

    tests/tokenizer/compare.py build/tests/tokenizer/tok_cli FILE... [--n 2000] [--seed 1]

FILE is a tokenizer.json or a SentencePiece .model. Prints each difference (at most 5 a file) and a
line per file; exit status 1 if there were any.
"""
import argparse
import json
import random
import subprocess
import sys

WORDS = """the quick brown fox don't I'll WE'VE they'RE 'S isn't x's 'Tis it'ſ def main(): return {}
[INST] <s> </s> <unk> <|endoftext|> <|im_start|>user <|im_end|> <0x0A> <|eot_id|> [CLS] <mask>
http://a.b/c?d=e&f 12345 3.14159 1,000,000 ½ ² Ⅷ ٣٤٥ １２３ naïve café cafe\u0301 ﬁ ﬀ Å Å ǅ İstanbul ß ẞ
日本語 テキスト です 中文字符 測試 한국어 한글 الع ربية עִבְרִית हिन्दी ไทย ภาษา ქართული Ελληνικά ΑΣ Русский текст
😀 👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ … — “quotes” ‘single’ « » ── → ∑ √ ≠ € £ ¥ $ % ^ & * ( ) ~ ` \\ | ; : " ' < > , . ? / ! @ #
\u2581 \u2581\u2581the Ġ Ċ â\u0080 \ufffd \u200b \u200d \ufeff \u00ad \u0301 \u0308\u0323 \u3099 \u1100\u1161\u11a8 \ue000""".split()
SPACES = [" ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2003", "\u0085",
          "\u2028", " \n", "\n ", "    ", "\x0b", "\x0c", "\x1c", ""]
RANGES = [(0x20, 0x7E)] * 6 + [(0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x6FF),
          (0x900, 0xDFF), (0xE00, 0x11FF), (0x1E00, 0x20CF), (0x2100, 0x2BFF), (0x3040, 0x30FF),
          (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFF), (0x10000, 0x1FAFF),
          (0x20000, 0x323AF), (0, 0x1F), (0, 0x10FFFF)]


def char(r):
    while True:
        c = r.randint(*r.choice(RANGES))
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def text(r, specials):
    parts = []
    for _ in range(r.choice([1, 2, 3, 5, 8, 20, 60])):
        k = r.random()
        if k < 0.45:
            w = r.choice(WORDS)
        elif k < 0.6:
            w = "".join(r.choice("abcdefghijklmnopqrstuvwxyzABCDE") for _ in range(r.randint(1, 12)))
        elif k < 0.68:
            w = "".join(r.choice("0123456789") for _ in range(r.randint(1, 9)))
        elif k < 0.8:
            w = "".join(char(r) for _ in range(r.randint(1, 6)))
        elif k < 0.86 and specials:
            w = r.choice(specials)
        elif k < 0.9:
            w = r.choice(list("!?.,-_=#'\" ")) * r.randint(1, 12)
        elif k < 0.93:
            w = chr(r.choice([0x61, 0x4E2D, 0x301, 0x41F, 0x1F600])) * r.randint(1, 30)
        else:
            w = r.choice(WORDS).upper()
        parts.append(w)
        parts.append(r.choice(SPACES) if r.random() < 0.8 else "")
    return "".join(parts)


class Ours:
    def __init__(self, cli, path, pre=None):
        self.p = subprocess.Popen([cli, path] + ([pre] if pre else []), stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True, encoding="utf-8")

    def ask(self, v):
        self.p.stdin.write(json.dumps(v) + "\n")
        self.p.stdin.flush()
        return json.loads(self.p.stdout.readline())


class HF:
    def __init__(self, path):
        from tokenizers import Tokenizer
        self.t = Tokenizer.from_file(path)
        self.n = self.t.get_vocab_size()
        d = self.t.get_added_tokens_decoder()
        self.specials = [a.content for a in d.values()][:400]

    def encode(self, s):
        return self.t.encode(s, add_special_tokens=False).ids, self.t.encode(s).ids

    def offsets(self, s):
        return [list(o) for o in self.t.encode(s).offsets]

    def decode(self, ids):
        return (self.t.decode(ids, skip_special_tokens=False),
                self.t.decode(ids, skip_special_tokens=True))


class SPM:
    def __init__(self, path):
        import sentencepiece
        self.t = sentencepiece.SentencePieceProcessor(model_file=path)
        self.n = self.t.vocab_size()
        self.specials = [self.t.id_to_piece(i) for i in range(min(self.n, 400))]

    def encode(self, s):
        ids = self.t.encode(s)
        return ids, ids

    def offsets(self, s):
        return None  # the library counts the space in front and bytes differently

    def decode(self, ids):
        s = self.t.decode(ids)
        return s, s


def compare(cli, path, n, seed):
    r = random.Random(seed)
    ref = HF(path) if path.endswith(".json") else SPM(path)
    ours, bad = Ours(cli, path), 0
    for i in range(n):
        s = text(r, ref.specials)
        try:
            want = ref.encode(s)
        except BaseException as e:  # the reference itself fails on some text (a panic)
            print(f"  reference fails on {s!r}: {e}")
            continue
        got = ours.ask(s)
        if (got["ids"], got["special"]) != want:
            bad += 1
            if bad <= 5:
                k = next((j for j, (a, b) in enumerate(zip(got["ids"], want[0])) if a != b), None)
                print(f"  ids of {s!r}: differ at {k}: ours {got['ids'][k or 0:][:6]} "
                      f"want {want[0][k or 0:][:6]}")
        offsets = ref.offsets(s) if got["special"] == want[1] else None
        if not got["same"] or offsets not in (None, got["spans"]):
            bad += 1
            if bad <= 5:
                k = next((j for j, (a, b) in enumerate(zip(got["spans"], offsets or [])) if a != b),
                         None)
                print(f"  offsets of {s!r}: differ at {k}: ours {got['spans'][k or 0:][:6]} "
                      f"want {(offsets or [])[k or 0:][:6]} ids {got['special'][k or 0:][:4]}")
        ids = want[0] if i % 2 else [r.randrange(ref.n) for _ in range(r.randint(1, 30))]
        if i % 6 == 0:
            low = min(ref.n, 300)
            ids = [r.randrange(low) for _ in range(r.randint(1, 30))]
        text_, skip = ref.decode(ids)
        got = ours.ask(ids)
        if got["text"] != text_ or got["skip"] != skip or got["stream"] != text_:
            bad += 1
            if bad <= 5:
                print(f"  text of {ids}:\n    ours {got}\n    want {text_!r} {skip!r}")
    print(f"{'FAIL' if bad else 'ok  '} {path}: {bad} differences in {n} texts and {n} id lists")
    return bad


def main():
    a = argparse.ArgumentParser()
    a.add_argument("cli")
    a.add_argument("files", nargs="+")
    a.add_argument("--n", type=int, default=2000)
    a.add_argument("--seed", type=int, default=1)
    o = a.parse_args()
    sys.exit(any([compare(o.cli, f, o.n, o.seed) for f in o.files]))


if __name__ == "__main__":
    main()
