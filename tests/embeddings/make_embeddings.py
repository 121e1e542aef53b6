"""Writes the tiny embedding models of this folder and what sentence-transformers makes of some texts.

    python make_embeddings.py

Needs the PyPI packages torch, transformers, tokenizers, safetensors and sentence-transformers. Weights
are random, decided by the seed; vocabularies come from the words below.
"""

import json
import pathlib
import shutil

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Normalize, Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (AutoModel, BertConfig, BertModel, PreTrainedTokenizerFast, Qwen3Config, Qwen3Model,
                          XLMRobertaConfig, XLMRobertaModel)

HERE = pathlib.Path(__file__).resolve().parent
TEXTS = ["the cat sat on the mat", "a", "The Cats SAT!", "what is a good embedding of this query?", "naïve café",
         "一只猫 sat", "one two three four five six seven eight nine ten " * 4, "the cat sat on the mat."]
WORDS = "the cat sat on mat a what is good embedding of this query one two three four five six seven eight nine ten".split()
LETTERS = list("abcdefghijklmnopqrstuvwxyz!?.,'") + ["一", "只", "猫"]


def wordpiece():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = {w: i for i, w in enumerate(special + WORDS + [w for w in LETTERS if w not in WORDS]
                                        + ["##" + w for w in LETTERS if w.isalpha() and w.isascii()])}
    t = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])])
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
                                   sep_token="[SEP]", mask_token="[MASK]")


def unigram():
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces = special + [("▁" + w, -3.0 - 0.01 * i) for i, w in enumerate(WORDS)] + [("▁", -4.0)]
    pieces += [(c, -6.0 - 0.01 * i) for i, c in enumerate(LETTERS)]
    t = Tokenizer(models.Unigram(pieces, unk_id=3))
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=t, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   pad_token="<pad>", cls_token="<s>", sep_token="</s>")


def byte_level():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate(alphabet)}
    vocab["<|endoftext|>"] = 256
    t = Tokenizer(models.BPE(vocab, []))
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 256)])
    return PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<|endoftext|>", pad_token="<|endoftext|>",
                                   padding_side="left")


def bert(n):
    return BertModel(BertConfig(vocab_size=n, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                intermediate_size=48, max_position_embeddings=160), add_pooling_layer=False)


def xlmr(n):
    return XLMRobertaModel(XLMRobertaConfig(vocab_size=n, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                            intermediate_size=48, max_position_embeddings=162, pad_token_id=1,
                                            bos_token_id=0, eos_token_id=2, type_vocab_size=1, layer_norm_eps=1e-5),
                           add_pooling_layer=False)


def qwen3(n):
    return Qwen3Model(Qwen3Config(vocab_size=n, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                                  num_key_value_heads=2, head_dim=16, intermediate_size=48, max_position_embeddings=320,
                                  eos_token_id=256, tie_word_embeddings=True))


# name: (model, tokenizer, pooling mode, normalised)
CASES = {
    "bert-cls": (bert, wordpiece, "cls", True),
    "bert-mean": (bert, wordpiece, "mean", False),
    "xlmr-mean": (xlmr, unigram, "mean", True),
    "qwen3-last": (qwen3, byte_level, "lasttoken", True),
}


def make(name, seed):
    model_of, tokenizer_of, pooling, normalised = CASES[name]
    torch.manual_seed(seed)
    path = HERE / name
    shutil.rmtree(path, ignore_errors=True)
    tok = tokenizer_of()
    model = model_of(len(tok)).eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(1 + 0.1 * torch.randn_like(p) if "norm" in key.lower() and key.endswith("weight") else
                    torch.randn_like(p) * (0.3 if p.dim() > 1 else 0.1))
    raw = HERE / (name + "-raw")
    model.save_pretrained(raw)
    tok.save_pretrained(raw)
    base = Transformer(str(raw))
    modules = [base, Pooling(32, pooling_mode=pooling)] + ([Normalize()] if normalised else [])
    s = SentenceTransformer(modules=modules, device="cpu")
    s.save(str(path), create_model_card=False)
    shutil.rmtree(raw)
    vectors = [s.encode([t], convert_to_numpy=True)[0].tolist() for t in TEXTS]  # alone: no padding
    short = [s.encode([t], truncate_dim=8, normalize_embeddings=True)[0].tolist() for t in TEXTS]
    (path / "golden.json").write_text(json.dumps({"texts": TEXTS, "vectors": vectors, "short": short}, ensure_ascii=False))
    for junk in ("README.md", "config_sentence_transformers.json"):
        (path / junk).unlink(missing_ok=True)


if __name__ == "__main__":
    for i, case in enumerate(CASES):
        make(case, 40 + i)
