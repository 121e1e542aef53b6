#!/usr/bin/env python3
"""Make tests/tokenizer/fixtures: small tokenizers that between them use every part of tokenizer.json
that we read, and cases.json with what the reference library gives for generated texts.

Needs the PyPI package tokenizers (made with 0.21.4; what newer() makes with 0.23.3). Run from the
project's root:

    tests/tokenizer/make_fixtures.py [--newer]
"""
import json
import os
import random
import sys

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers,
                        pre_tokenizers, processors, trainers)

sys.path.insert(0, os.path.dirname(__file__))
from compare import text  # noqa: E402

OUT = os.path.join(os.path.dirname(__file__), "fixtures")
CORPUS = """The pages of a sequence are found through its block table, and the kernel walks it.
A scheduler that plans by a token budget gives every running request one token first.
When memory runs out the youngest request is preempted; its pages go back to the pool.
It isn't the same as swapping: we'll compute the prefix again, and they've measured it.
def plan(state, budget):\n    for r in state.running:\n        if r.done: continue\n    return batch
Preise von 12,50 bis 1.000 Euro; ein naïver Café-Besucher zahlt für Äpfel und Öl.
Привет, мир! Страницы памяти хранят ключи и значения. 日本語の文章、漢字とかな。 한국어 문장도 있다.
{"model": "demo", "max_tokens": 128, "temperature": 0.7, "stop": ["\\n\\n"]} 3.14159 -> 42""".split("\n")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_special_tokens(["<|begin|>", "<|end|>", AddedToken("<mask>", lstrip=True, special=True)])
    t.add_tokens([AddedToken("page", single_word=True, normalized=False),
                  AddedToken("caf\u00e9", normalized=True),
                  AddedToken("<r>", rstrip=True, normalized=False), "    "])
    t.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A <|end|>",
        special_tokens=[("<|begin|>", t.token_to_id("<|begin|>")),
                        ("<|end|>", t.token_to_id("<|end|>"))])
    return t


def spm_like():
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"),
                                         normalizers.Replace(" ", "\u2581")])
    bytes_ = ["<0x%02X>" % i for i in range(256)]
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=700, special_tokens=["<unk>", "<s>", "</s>"] + bytes_, show_progress=False,
        limit_alphabet=120))
    j = json.loads(t.to_str())
    j["added_tokens"] = j["added_tokens"][:3]
    t = Tokenizer.from_str(json.dumps(j))
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                   decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return t


def metaspace(scheme, split, fuse):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(True, True)])
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    t.decoder = decoders.Metaspace(prepend_scheme=scheme, split=split)
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>"], show_progress=False))
    return t


def word_piece(lower):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=20))
    t.normalizer = normalizers.BertNormalizer(lowercase=lower)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece(cleanup=lower)
    t.train_from_iterator(CORPUS, trainers.WordPieceTrainer(
        vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False))
    t.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return t


def unigram(byte_fallback):
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(),
                                         normalizers.Replace(Regex(" {2,}"), " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    special = ["<unk>", "</s>"] + (["<0x%02X>" % i for i in range(256)] if byte_fallback else [])
    t.train_from_iterator(CORPUS, trainers.UnigramTrainer(
        vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False))
    j = json.loads(t.to_str())
    j["added_tokens"] = j["added_tokens"][:2]
    j["model"]["byte_fallback"] = byte_fallback
    return Tokenizer.from_str(json.dumps(j))


def clip_like():
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.decoder = decoders.BPEDecoder(suffix="</w>")
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<unk>"], end_of_word_suffix="</w>", show_progress=False))
    return t


def prefix_bpe():
    t = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
    t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(),
                                               pre_tokenizers.Punctuation("merged_with_previous")])
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<unk>"], continuing_subword_prefix="##",
        show_progress=False))
    return t


def splits(k):
    behaviors = ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]
    b = behaviors[k]
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[aeiou]+"), b, invert=k % 2 == 1),
        pre_tokenizers.Split(" ", behaviors[(k + 1) % 5]),
        pre_tokenizers.Punctuation(behaviors[(k + 2) % 5]),
        pre_tokenizers.CharDelimiterSplit(";") if k % 2 else pre_tokenizers.Digits(k == 0),
        pre_tokenizers.ByteLevel(add_prefix_space=k > 2, use_regex=k == 4),
        pre_tokenizers.Digits(k == 1),
        pre_tokenizers.Split(Regex(r"[0-9][0-9]|\p{Lu}"), b)])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.post_processor = processors.Sequence([
        processors.ByteLevel(), processors.TemplateProcessing(
            single="$A T", special_tokens=[("T", t.token_to_id("T"))])])
    return t


def word_level():
    t = Tokenizer(models.WordLevel(unk_token="<unk>"))
    t.normalizer = normalizers.Lowercase()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(),
                                               pre_tokenizers.FixedLength(4)])
    t.decoder = decoders.CTC(pad_token="<pad>", word_delimiter_token="|", cleanup=True)
    t.train_from_iterator(CORPUS, trainers.WordLevelTrainer(
        vocab_size=200, special_tokens=["<unk>", "<pad>", "|"], show_progress=False))
    return t


def byte_level_normal():
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.ByteLevel()])
    t.pre_tokenizer = pre_tokenizers.FixedLength(7)
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    return t


def scripts():
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.UnicodeScripts(),
                                               pre_tokenizers.Punctuation()])
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>"], show_progress=False))
    return t


def newer():
    """What the library learned later: made with 0.23.3, appended to cases.jsonl."""
    yield "word_level", word_level()
    yield "byte_level_normal", byte_level_normal()
    yield "scripts", scripts()


def make_all():
    yield "byte_level", byte_level()
    yield "spm_like", spm_like()
    for scheme, split, fuse in [("always", True, False), ("first", True, True),
                                ("never", False, True)]:
        yield "metaspace_" + scheme, metaspace(scheme, split, fuse)
    yield "word_piece_lower", word_piece(True)
    yield "word_piece_cased", word_piece(False)
    yield "unigram", unigram(False)
    yield "unigram_bytes", unigram(True)
    yield "clip_like", clip_like()
    yield "prefix_bpe", prefix_bpe()
    for k in range(5):
        yield "splits_%d" % k, splits(k)


def cases(name, t, r):
    specials = [a.content for a in t.get_added_tokens_decoder().values()]
    for i in range(24):
        s = ["", " ", "a", "page pages  <mask>  page"][i] if i < 4 else text(r, specials)
        while len(s) > 150:
            s = text(r, specials)
        ids = t.encode(s, add_special_tokens=False).ids
        yield {"file": name, "text": s, "ids": ids, "ids_special": t.encode(s).ids,
               "decoded": t.decode(ids, skip_special_tokens=False),
               "skipped": t.decode(ids, skip_special_tokens=True)}


def main():
    r = random.Random(20261120)
    os.makedirs(OUT, exist_ok=True)
    path, made = os.path.join(OUT, "cases.jsonl"), newer() if "--newer" in sys.argv else make_all()
    made, kept = list(made), []
    if "--newer" in sys.argv:
        with open(path, encoding="utf-8") as f:
            kept = [c for c in f if json.loads(c)["file"] not in dict(made)]
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(kept)
        for name, t in made:
            with open(os.path.join(OUT, name + ".json"), "w", encoding="utf-8") as g:
                json.dump(json.loads(t.to_str()), g, ensure_ascii=False, separators=(",", ":"))
                g.write("\n")
            for c in cases(name, t, r):
                f.write(json.dumps(c, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
