#!/usr/bin/env python3
"""Print the table of tokenizer/uscript.c: which characters the reference's UnicodeScripts takes for one
script. Asked of the library itself, two characters at a time, since its table is of an older Unicode
and joins Han, Hiragana and Katakana.

Needs the PyPI package tokenizers (made with 0.23.3).
"""
from tokenizers import pre_tokenizers

CUT = pre_tokenizers.UnicodeScripts().pre_tokenize_str


def script_of(ch, before, script_before, known):
    """0: any script (the library drops it when it stands alone)."""
    if not CUT(ch):
        return 0
    if script_before and len(CUT(before + ch)) == 1:
        return script_before
    for i, other in enumerate(known):
        if len(CUT(other + ch)) == 1:
            return i + 1
    known.append(ch)
    return len(known)


def main():
    known, ranges, last, before = [], [], 0, None
    for code in range(0x110000):
        if 0xD800 <= code < 0xE000:
            continue
        ch = chr(code)
        script = script_of(ch, before, last, known)
        if script != last or not ranges:
            ranges.append((code, script))
        last, before = script, ch
    for i in range(0, len(ranges), 8):
        print("    " + " ".join("0x%X," % (c << 8 | s) for c, s in ranges[i:i + 8]))


if __name__ == "__main__":
    main()
