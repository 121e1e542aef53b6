#!/usr/bin/env python3
"""Make tests/tokenizer/fixtures/families.jsonl: model directories as their families ship them (the
vocabulary by its path under ../shared/data/tokenizers or written here, the configuration beside it)
and the ids that the family's own code gives.

That code is remote ("trust_remote_code") for most of them. What it does around the library that it
calls is written down here in a few lines each; the libraries are the real ones.

Needs the PyPI packages sentencepiece (0.2.3), tiktoken (0.14.0) and tokenizers (0.23.3). Run from the
project's root:

    tests/tokenizer/make_families.py
"""
import base64
import json
import os
import re
import sys
import unicodedata

import sentencepiece
import tiktoken
from tiktoken.load import load_tiktoken_bpe
from tokenizers import BertWordPieceTokenizer, Tokenizer, models, pre_tokenizers, trainers

DATA = "../shared/data/tokenizers/"
OUT = os.path.join(os.path.dirname(__file__), "fixtures", "families.jsonl")
TEXTS = ["", "hello world", " two  spaces   three", "line one\nline two\n\n\tindented\t\tmore",
         "x = 1;" + " " * 81 + "y" + " " * 80 + "z" + " " * 163 + "!",
         "你好，世界。ChatGLM 是一个模型 e\u0301 \ufb01", "Zoë's café costs 1234567 ₽ 🙂🙃\r\n",
         "sopping wet, eop", "a <n> b <|tab|> c <|blank_3|> d", "\u001f \u3000\u00a0end "]
GPT4 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = GPT4.replace(r"\p{N}{1,3}", r"\p{N}")
U, L = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
HEAD = r"[^\r\n\p{L}\p{N}]?"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (HEAD + U + "*" + L + "+" + SUFFIX + "|" + HEAD + U + "+" + L + "*" + SUFFIX +
         r"|\p{N}{1,3}" + TAIL)
TEKKEN = HEAD + U + "*" + L + "+|" + HEAD + U + "+" + L + r"*|\p{N}" + TAIL


def sections(text, specials):
    """What PreTrainedTokenizer does: special tokens are cut out, the rest goes to the library."""
    if not specials:
        return [(text, None)] if text else []
    names = sorted(specials, key=len, reverse=True)
    parts = re.split("(" + "|".join(re.escape(n) for n in names) + ")", text)
    return [(p, specials.get(p)) for p in parts if p]


def encode(text, specials, reference):
    ids = []
    for part, special in sections(text, specials):
        ids += reference(part) if special is None else [special]
    return ids


class Case:
    def __init__(self, name, links, files, reference, specials, before=(), after=(), extra=(),
                 decode=None):
        self.__dict__.update(locals())

    def lines(self):
        yield {"name": self.name, "links": self.links, "files": self.files}
        specials = list(self.specials)
        mixed = ["a%sb %s c" % (s, s) for s in specials[:3]] + ["".join(specials[:4])]
        for text in TEXTS + mixed + list(self.extra):
            ids = encode(text, self.specials, self.reference)
            case = {"text": text, "ids": ids,
                    "ids_special": list(self.before) + ids + list(self.after)}
            if self.decode and not any(s in text for s in specials):
                case["decoded"] = self.decode(ids)
            yield case


def chatglm_6b():
    sp = sentencepiece.SentencePieceProcessor(DATA + "chatglm-6b/ice_text.model")
    config = json.load(open(DATA + "chatglm-6b/tokenizer_config.json"))

    def prepare(text):
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        for i in range(80, 1, -1):
            text = text.replace(" " * i, "<|blank_%d|>" % i)
        return text

    def restore(text):
        text = text.replace("<n>", "\n").replace("<|tab|>", "\t")
        for i in range(2, 81):
            text = text.replace("<|blank_%d|>" % i, " " * i)
        return text

    for shift in (0, 20000):
        names = ["<sop>", "<eop>", "<unk>", "<pad>", "[MASK]"]
        yield Case("chatglm-6b-%d" % shift, {"ice_text.model": "chatglm-6b/ice_text.model"},
                   {"tokenizer_config.json": dict(config, num_image_tokens=shift),
                    "config.json": {"model_type": "chatglm"}},
                   lambda s, shift=shift: [i + shift for i in sp.encode(prepare(s))],
                   {n: sp.piece_to_id(n) + shift for n in names},
                   after=[130001 + shift, 130004 + shift],
                   decode=lambda ids, shift=shift: restore(sp.decode([i - shift for i in ids])))


def chatglm_3():
    sp = sentencepiece.SentencePieceProcessor(DATA + "internlm/tokenizer.model")
    n = sp.vocab_size()
    specials = {"[gMASK]": n + 1, "<sop>": n + 3, "<eop>": n + 4}
    specials.update({"<|%s|>" % r: n + 5 + i for i, r in
                     enumerate(["system", "user", "assistant", "observation"])})
    return Case("chatglm3", {"tokenizer.model": "internlm/tokenizer.model"},
                {"tokenizer_config.json": {"tokenizer_class": "ChatGLMTokenizer",
                                           "remove_space": False, "do_lower_case": False}},
                sp.encode, specials, before=[n + 1, n + 3], extra=["<|user|>\n 你好<|assistant|>"],
                decode=sp.decode)


def ranks(name, path, link, pattern, specials, files, nfc=False, before=()):
    table = load_tiktoken_bpe(path)
    specials = {s: len(table) + i for i, s in enumerate(specials)}
    e = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=table, special_tokens={})

    def reference(s):
        return e.encode_ordinary(unicodedata.normalize("NFC", s) if nfc else s)
    return Case(name, {link: os.path.relpath(path, DATA)}, files, reference, specials,
                before=[specials[b] for b in before],
                decode=lambda ids: e.decode(ids) if ids else "")


def rank_families():
    qwen = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + ["<|extra_%d|>" % i for i in range(205)]
    config = json.load(open(DATA + "qwen/tokenizer_config.json"))
    yield ranks("qwen", DATA + "qwen/qwen.tiktoken", "qwen.tiktoken", QWEN, qwen,
                {"tokenizer_config.json": config, "config.json": {"model_type": "qwen"}}, nfc=True)
    llama = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>",
             "<|reserved_special_token_1|>", "<|finetune_right_pad_id|>", "<|step_id|>",
             "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>", "<|python_tag|>",
             "<|image|>"] + ["<|reserved_special_token_%d|>" % (2 + i) for i in range(244)]
    yield ranks("llama-3", DATA + "llama-3/tokenizer.model", "tokenizer.model", GPT4, llama,
                {"config.json": {"model_type": "llama"}}, before=["<|begin_of_text|>"])

    def reserved(kind, first, n):
        return ["<|%s_reserved_special_token_%d|>" % (kind, first + i) for i in range(n)]
    llama = (["<|begin_of_text|>", "<|end_of_text|>", "<|fim_prefix|>", "<|fim_middle|>",
              "<|fim_suffix|>", "<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>",
              "<|step|>"] + reserved("text_post_train", 0, 6) +
             ["<|python_start|>", "<|python_end|>", "<|finetune_right_pad|>"] +
             reserved("text_post_train", 8, 61) + ["<|image_start|>", "<|image_end|>"] +
             reserved("vision", 0, 2) + ["<|tile_x_separator|>", "<|tile_y_separator|>"] +
             reserved("vision", 2, 4) + ["<|image|>"] + reserved("vision", 6, 1) + ["<|patch|>"] +
             reserved("vision", 7, 1041) + reserved("reasoning", 0, 8) +
             ["<|reasoning_thinking_start|>", "<|reasoning_thinking_end|>"])
    llama += ["<|reserved_special_token_%d|>" % i for i in range(2048 - len(llama))]
    c = ranks("llama-4", DATA + "llama-4/tokenizer.model", "tokenizer.model", O200K, llama,
              {"config.json": {"model_type": "llama4"}}, before=["<|begin_of_text|>"])
    c.extra = ["<|reasoning_thinking_start|>x<|reserved_special_token_898|>"]
    yield c
    glm = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>",
           "<|user|>", "<|assistant|>", "<|observation|>", "<|begin_of_image|>",
           "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
    yield ranks("glm-4", DATA + "cl100k-phi-3-small/cl100k_base.tiktoken", "tokenizer.model", GPT4,
                glm, {"tokenizer_config.json": {"tokenizer_class": "ChatGLM4Tokenizer"},
                      "config.json": {"model_type": "chatglm"}}, before=["[gMASK]", "<sop>"])


def sentencepieces():
    sp = sentencepiece.SentencePieceProcessor(DATA + "internlm/tokenizer.model")
    n = sp.vocab_size()
    added = {"<eoh>": n, "<eoa>": n + 1}
    config = {"tokenizer_class": "InternLMTokenizer", "bos_token": "<s>", "eos_token": "</s>",
              "unk_token": "<unk>", "pad_token": "</s>"}
    specials = {"<s>": 1, "</s>": 2, "<unk>": 0}
    yield Case("internlm", {"tokenizer.model": "internlm/tokenizer.model"},
               {"tokenizer_config.json": config, "added_tokens.json": added}, sp.encode,
               dict(specials, **added), before=[1], decode=sp.decode)
    named = {str(n): {"content": "<|im_start|>", "special": True},
             str(n - 1): {"content": "<|im_end|>", "special": True}}
    yield Case("internlm2", {"tokenizer.model": "internlm/tokenizer.model"},
               {"tokenizer_config.json": dict(config, added_tokens_decoder=named)}, sp.encode,
               dict(specials, **{"<|im_start|>": n, "<|im_end|>": n - 1}), before=[1])
    yield Case("baichuan", {"tokenizer.model": "llama-2/tokenizer.model"},
               {"tokenizer_config.json": dict(config, tokenizer_class="BaichuanTokenizer",
                                              add_bos_token=False, add_eos_token=False)},
               sentencepiece.SentencePieceProcessor(DATA + "llama-2/tokenizer.model").encode,
               specials)
    sp2 = sentencepiece.SentencePieceProcessor(DATA + "sentencepiece-tests/test_model.model")
    m = sp2.vocab_size()

    def shifted(s):
        return [3 if i == 0 else i + 1 for i in sp2.encode(s)]
    yield Case("xlm-roberta",
               {"sentencepiece.bpe.model": "sentencepiece-tests/test_model.model"},
               {"tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer"}}, shifted,
               {"<mask>": m + 1}, before=[0], after=[2])


def gpt2_added():
    t = Tokenizer(models.BPE.from_file(DATA + "gpt2/vocab.json", DATA + "gpt2/merges.txt"))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    added = {"<eoh>": 50257, "<eom>": 50258, "\t\t\t": 50259}
    return Case("moss", {"vocab.json": "gpt2/vocab.json", "merges.txt": "gpt2/merges.txt"},
                {"added_tokens.json": added, "config.json": {"model_type": "moss"},
                 "special_tokens_map.json": {"eos_token": "<|endoftext|>",
                                             "additional_special_tokens": ["<eoh>"]}},
                lambda s: t.encode(s).ids, dict(added, **{"<|endoftext|>": 50256}),
                extra=["tabs\t\t\t\tend"])


def bert():
    t = BertWordPieceTokenizer(DATA + "bert-base-cased/vocab.txt", lowercase=False)
    specials = {s: t.token_to_id(s) for s in ["[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]"]}
    return Case("bert", {"vocab.txt": "bert-base-cased/vocab.txt"},
                {"tokenizer_config.json": {"do_lower_case": False}},
                lambda s: t.encode(s, add_special_tokens=False).ids, specials,
                before=[specials["[CLS]"]], after=[specials["[SEP]"]])


def small_ranks():
    """Ranks that training made: bytes first, then merges in order."""
    from make_fixtures import CORPUS
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    back = {c: b for b, c in _byte_chars().items()}
    table = {bytes([b]): b for b in range(256)}
    for merge in json.loads(t.to_str())["model"]["merges"]:
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        table.setdefault(bytes(back[c] for c in left + right), len(table))
    return table


def _byte_chars():
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b]
    rest = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def tekken():
    table = small_ranks()
    used = dict(list(table.items())[:320])
    e = tiktoken.Encoding("tekken", pat_str=TEKKEN, mergeable_ranks=used, special_tokens={})
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    vocab = [{"rank": r, "token_bytes": base64.b64encode(b).decode(), "token_str": None}
             for b, r in table.items()]
    content = {"config": {"pattern": TEKKEN, "num_vocab_tokens": len(table),
                          "default_vocab_size": 330, "default_num_special_tokens": 10,
                          "version": "v11"},
               "vocab": vocab,
               "special_tokens": [{"rank": i, "token_str": n, "is_control": True}
                                  for i, n in enumerate(names)]}
    specials = {n: i for i, n in enumerate(names)}
    specials.update({"<SPECIAL_%d>" % i: i for i in range(5, 10)})
    return Case("tekken", {}, {"tekken.json": content},
                lambda s: [i + 10 for i in e.encode_ordinary(s)], specials, before=[1],
                extra=["[INST] Hi [/INST]<SPECIAL_9>"])


def rwkv():
    words = {b: i + 1 for i, b in enumerate(
        [bytes([b]) for b in range(256)] +
        [s.encode() for s in ["he", "hello", " wor", " world", "\n\n", "'", '"x', "你好", "你",
                              "\\", "🙂"]] + [b"\xf0\x9f", b"\xe4\xbd"])}

    def reference(s):
        data, ids, at = s.encode(), [], 0
        while at < len(data):
            n = max(k for k in range(1, 12) if data[at:at + k] in words)
            ids.append(words[data[at:at + n]])
            at += n
        return ids

    def literal(b):
        try:
            return repr(b.decode())
        except UnicodeDecodeError:
            return repr(b)
    text = "".join("%d %s %d\n" % (i, literal(b), len(b)) for b, i in words.items())
    return Case("rwkv", {}, {"rwkv_vocab_v20230424.txt": text}, reference, {},
                extra=["hello world\n\n'it' \"x\\ 你好你"])


def main():
    sys.path.insert(0, os.path.dirname(__file__))
    cases = [*chatglm_6b(), chatglm_3(), *rank_families(), *sentencepieces(), gpt2_added(), bert(),
             tekken(), rwkv()]
    with open(OUT, "w", encoding="utf-8") as f:
        for c in cases:
            for line in c.lines():
                f.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
