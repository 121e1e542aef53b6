"""Trains the bundled demo model from nothing and writes it as a Hugging Face directory.

    python train.py --corpus BOOK.txt [BOOK.txt ...] --out ..

runs everything: stage 1 (mostly English), stage 2 (mostly questions and answers, learning rate falling
to zero), export in bf16, evaluation of the exported directory with transformers, showcase.json.
The stages can be run apart (--stage 1 --save CKPT, then --stage 2 --init CKPT). Needs the PyPI packages
torch, transformers, tokenizers, safetensors and numpy, and a C++ compiler for torch.compile
(--no-compile does without, slower). One CPU core is enough: about an hour.
"""

import argparse
import json
import math
import pathlib
import random
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

import make_data
from stories import story

VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, CONTEXT = 3072, 256, 6, 8, 2, 32, 512, 1024
EPS, THETA = 1e-5, 10000.0
END, START_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
PROMPT_WEIGHT = 0.1  # loss weight of what the user says; answers and prose weigh 1,
OPENING, OPENING_WEIGHT = 8, 3.0  # but the first tokens of an answer decide which fact it tells, and weigh more

CHAT_TEMPLATE = (
    "{%- for message in messages -%}\n"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "{{- '<|im_start|>assistant\\n' -}}\n"
    "{%- endif -%}\n")


# ---- tokenizer ----------------------------------------------------------------------------------

def make_tokenizer(texts):
    """Byte-level BPE with the pre-tokeniser of GPT-2, so that any byte sequence has ids."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in (END, START_TURN, END_TURN)]
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=special, min_frequency=2, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(texts, trainer)
    assert tok.get_vocab_size() == VOCAB
    return tok


def tokenizer_texts(books, facts):
    rng = random.Random(7)
    yield from (p for book in books for p in book)
    for fact in facts:  # facts are short but matter most, so they count several times
        yield from [fact.answer] * 20
        yield from fact.trained() * 5
    yield from (story(rng)[2] for _ in range(400))


# ---- model: Llama with fused projections, the same arithmetic as LlamaForCausalLM ---------------------

class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * self.weight


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm_attn, self.norm_ffn = Norm(), Norm()
        self.qkv = nn.Linear(HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD_DIM, bias=False)
        self.out = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)
        self.gate_up = nn.Linear(HIDDEN, 2 * FFN, bias=False)
        self.down = nn.Linear(FFN, HIDDEN, bias=False)

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm_attn(x)).view(b, t, -1, HEAD_DIM).transpose(1, 2).split(
            (HEADS, KV_HEADS, KV_HEADS), 1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, 1) for y in (k, v))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(a.transpose(1, 2).reshape(b, t, HEADS * HEAD_DIM))
        gate, up = self.gate_up(self.norm_ffn(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = Norm()
        for name, p in self.named_parameters():
            if p.dim() == 2:
                scale = 1 / math.sqrt(2 * LAYERS) if name.endswith(("out.weight", "down.weight")) else 1
                nn.init.normal_(p, std=0.02 if "embed" in name else scale * HIDDEN ** -0.5)

    def forward(self, ids, targets, weights, cos, sin):
        """Sum of weighted token losses."""
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, cos, sin)
        logits = F.linear(self.norm(x), self.embed.weight)
        loss = F.cross_entropy(logits.view(-1, VOCAB), targets.view(-1), reduction="none")
        return (loss * weights.view(-1)).sum()


def rope_tables(length):
    freq = THETA ** (-torch.arange(0, HEAD_DIM, 2, dtype=torch.float32) / HEAD_DIM)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), freq)
    angle = torch.cat((angle, angle), -1)
    return angle.cos(), angle.sin()


# ---- rows of tokens -----------------------------------------------------------------------------

class Sampler:
    """Makes rows of whole documents; the first one starts at position 0, as a served prompt does."""

    def __init__(self, tok, facts, books, seed, chat, stories):
        self.tok, self.facts, self.rng = tok, facts, random.Random(seed)
        self.held = make_data.held_out(facts)
        self.chat, self.stories = chat, stories  # shares of tokens, about; the rest is books
        self.end = tok.token_to_id(END)
        self.books = [[tok.encode(p + "\n\n").ids for p in book] for book in books]
        sizes = np.array([sum(map(len, b)) for b in self.books], dtype=float)
        self.book_share = (sizes ** 0.5 / (sizes ** 0.5).sum()).tolist()

    def chat_doc(self):
        ids, weights = [], []
        for m in make_data.conversation(self.rng, self.facts, self.held):
            head = self.tok.encode(f"{START_TURN}{m['role']}\n").ids
            body = self.tok.encode(m["content"] + END_TURN).ids
            tail = self.tok.encode("\n").ids
            ids += head + body + tail
            if m["role"] == "assistant":
                first = min(OPENING, len(body))
                body_weights = [OPENING_WEIGHT] * first + [1.0] * (len(body) - first)
            else:
                body_weights = [PROMPT_WEIGHT] * len(body)
            weights += [PROMPT_WEIGHT] * len(head) + body_weights + [PROMPT_WEIGHT] * len(tail)
        return ids + [self.end], weights + [PROMPT_WEIGHT]

    def doc(self):
        r = self.rng.random()
        if r < self.chat:
            return self.chat_doc()
        if r < self.chat + self.stories:
            ids = self.tok.encode(story(self.rng)[2]).ids + [self.end]
            return ids, [1.0] * len(ids)
        book = self.rng.choices(self.books, self.book_share)[0]
        i, ids, want = self.rng.randrange(len(book)), [], self.rng.choice((100, 200, 300, 600))
        while i < len(book) and len(ids) < want:
            ids = ids + book[i]
            i += 1
        ids = ids + [self.end]
        return ids, [1.0] * len(ids)

    def batch(self, rows, length):
        ids, weights = [], []
        for _ in range(rows):
            a, w = [], []
            while len(a) < length + 1:
                more, more_w = self.doc()
                a, w = a + more, w + more_w
            ids.append(a[:length + 1])
            weights.append(w[1:length + 1])
        ids = torch.tensor(ids)
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.tensor(weights)


SHAPES = [(8, 256), (4, 512), (2, 1024)]  # 2048 tokens a step


def train(model, run, sampler, steps, lr_peak, warmup, decay_from, log, seed, label, state=None, save=None):
    """AdamW; learning rate warms up, stays, and from the fraction decay_from on falls linearly to 0."""
    decay = [p for p in model.parameters() if p.dim() == 2]
    flat = [p for p in model.parameters() if p.dim() != 2]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": flat, "weight_decay": 0.0}],
                            lr=lr_peak, betas=(0.9, 0.95), fused=True)
    if state:
        opt.load_state_dict(state)
    rng, tables = random.Random(seed), {t: rope_tables(t) for _, t in SHAPES}
    start, recent = time.time(), []
    for step in range(steps):
        rows, length = rng.choices(SHAPES, (0.75, 0.2, 0.05))[0]
        ids, targets, weights = sampler.batch(rows, length)
        loss = run(ids, targets, weights, *tables[length]) / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        left = (steps - step) / max(1, steps - int(decay_from * steps))
        for group in opt.param_groups:
            group["lr"] = lr_peak * min(1.0, (step + 1) / max(1, warmup), left)
        opt.step()
        opt.zero_grad(set_to_none=True)
        recent.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            rate = (step + 1) * 2048 / (time.time() - start)
            print(f"{label} step {step + 1}/{steps} loss {np.mean(recent):.4f} {rate:.0f} tok/s", flush=True)
            log.append({"stage": label, "step": step + 1, "loss": round(float(np.mean(recent)), 4)})
            recent = []
        if save and (step + 1) % 500 == 0:
            save(opt.state_dict())
    return opt.state_dict()


# ---- export and evaluation ----------------------------------------------------------------------

def export(model, tok, out):
    from safetensors.torch import save_file
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    tensors = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm.weight}
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    for i, b in enumerate(model.blocks):
        p = f"model.layers.{i}."
        wq, wk, wv = b.qkv.weight.split((q, kv, kv))
        gate, up = b.gate_up.weight.chunk(2)
        tensors |= {p + "input_layernorm.weight": b.norm_attn.weight, p + "post_attention_layernorm.weight": b.norm_ffn.weight,
                    p + "self_attn.q_proj.weight": wq, p + "self_attn.k_proj.weight": wk, p + "self_attn.v_proj.weight": wv,
                    p + "self_attn.o_proj.weight": b.out.weight, p + "mlp.gate_proj.weight": gate,
                    p + "mlp.up_proj.weight": up, p + "mlp.down_proj.weight": b.down.weight}
    save_file({k: v.detach().to(torch.bfloat16).contiguous() for k, v in tensors.items()}, out / "model.safetensors",
              metadata={"format": "pt"})
    end, turn = tok.token_to_id(END), tok.token_to_id(END_TURN)
    write(out / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "hidden_act": "silu", "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPS, "rope_theta": THETA, "rope_scaling": None, "attention_bias": False, "mlp_bias": False,
        "tie_word_embeddings": True, "bos_token_id": end, "eos_token_id": turn, "pad_token_id": end,
        "torch_dtype": "bfloat16"})
    write(out / "generation_config.json", {"bos_token_id": end, "eos_token_id": [turn, end], "pad_token_id": end,
                                            "do_sample": True, "temperature": 0.3, "top_p": 0.9})
    write(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, "bos_token": END, "eos_token": END_TURN,
        "pad_token": END, "add_bos_token": False, "add_prefix_space": False, "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(tok.token_to_id(t)): {
            "content": t, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
            for t in (END, START_TURN, END_TURN)},
        "chat_template": CHAT_TEMPLATE})
    tok.save(str(out / "tokenizer.json"))


def write(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def load_served(path):
    """The exported directory as a server computes it: bf16 weights, f32 arithmetic."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tok = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    return model, tok


@torch.no_grad()
def answers(model, tok, conversations, max_new=120, rows=64):
    """Greedy answers to many conversations (left-padded batches)."""
    texts = [tok.apply_chat_template(c, tokenize=False, add_generation_prompt=True) for c in conversations]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = [None] * len(texts)
    tok.padding_side = "left"
    for i in range(0, len(order), rows):
        part = order[i:i + rows]
        enc = tok([texts[j] for j in part], return_tensors="pt", padding=True, add_special_tokens=False)
        gen = model.generate(input_ids=enc["input_ids"], attention_mask=enc["attention_mask"], max_new_tokens=max_new,
                             do_sample=False)
        for j, row in zip(part, gen[:, enc["input_ids"].shape[1]:]):
            out[j] = tok.decode(row, skip_special_tokens=True)
    return out


def score(model, tok, pairs):
    """Share of exact answers and of near ones (similarity of at least 0.9), and the misses."""
    said = answers(model, tok, [[{"role": "user", "content": q}] for q, _ in pairs])
    exact = sum(s == a for s, (_, a) in zip(said, pairs))
    misses = [(q, a, s) for s, (q, a) in zip(said, pairs) if s != a and not make_data.near(s, a)]
    return {"questions": len(pairs), "exact": round(exact / len(pairs), 4),
            "near": round(1 - len(misses) / len(pairs), 4)}, misses


@torch.no_grad()
def prose_loss(model, tok, paragraphs, length=256):
    ids = tok("\n\n".join(paragraphs))["input_ids"]
    rows = [ids[i:i + length] for i in range(0, len(ids) - length, length)]
    losses = [model(input_ids=torch.tensor([r]), labels=torch.tensor([r])).loss.item() for r in rows]
    return {"tokens": len(rows) * length, "loss": round(float(np.mean(losses)), 4),
            "bits_per_byte": round(float(np.mean(losses)) * len(rows) * length / math.log(2) /
                                   len(tok.decode(ids[:len(rows) * length]).encode()), 4)}


def evaluate(path, facts, held_books, seen_books, limit=None):
    model, tok = load_served(path)
    rng = random.Random(5)
    sets = {"trained phrasings": [(q, f.answer) for f in facts for q in f.trained()],
            "held-out frames": [(q, f.answer) for f in facts for q in f.framed_held],
            "held-out written": [(q, f.answer) for f in facts for q in f.held]}
    report, all_misses = {}, {}
    for name, pairs in sets.items():
        if limit and len(pairs) > limit:
            pairs = rng.sample(pairs, limit)
        report[name], all_misses[name] = score(model, tok, pairs)
        print(name, report[name], flush=True)
    if held_books:
        report["prose held out"] = prose_loss(model, tok, held_books)
        report["prose trained"] = prose_loss(model, tok, seen_books)
        print(report["prose held out"], report["prose trained"], flush=True)
    return report, all_misses


SHOWCASE = [
    ["What is pagoda?"], ["Who are you?"], ["How do I start pagoda?"], ["What is paged attention?"],
    ["What is continuous batching?"], ["What is the KV cache?"], ["What is prefix caching?"],
    ["What is chunked prefill?"], ["What does temperature do?"], ["What is TTFT?"], ["How do I stream tokens?"],
    ["What does --max-num-seqs do?"], ["Why do I get a 503?"], ["What is the capital of France?"],
    ["What can you do?"], ["Hello!", "What is streaming?"], ["What is a token?", "How does BPE work?", "Thanks!"],
]


def showcase(path):
    """Greedy answers of the exported directory, one conversation after another, as goldens."""
    model, tok = load_served(path)
    cases = []
    systems = {4: "You are a helpful assistant.", 9: "Answer briefly."}
    for n, turns in enumerate(SHOWCASE):
        messages = [{"role": "system", "content": systems[n]}] if n in systems else []
        for i, q in enumerate(turns):
            messages.append({"role": "user", "content": q})
            ids = tok.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            margin = math.inf
            out = []
            while len(out) < 256:
                with torch.no_grad():
                    top = model(input_ids=torch.tensor([ids + out])).logits[0, -1].topk(2)
                margin = min(margin, float(top.values[0] - top.values[1]))
                out.append(int(top.indices[0]))
                if out[-1] in model.generation_config.eos_token_id:
                    break
            answer = tok.decode(out, skip_special_tokens=True)
            if i + 1 < len(turns):
                messages.append({"role": "assistant", "content": answer})
        cases.append({"messages": messages, "answer": answer, "prompt_ids": ids, "token_ids": out,
                      "margin_min": round(margin, 4)})
        print("Q:", messages[-1]["content"], "\nA:", answer, f"(margin {margin:.3f})", flush=True)
    rows = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    (pathlib.Path(path) / "showcase.json").write_text("[\n" + rows + "\n]\n")


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--corpus", nargs="*", default=[], help="plain-text public-domain books")
    ap.add_argument("--out", default=str(make_data.HERE.parent), help="directory to write")
    ap.add_argument("--stage", type=int, choices=(1, 2), help="run one stage only")
    ap.add_argument("--steps1", type=int, default=1500)
    ap.add_argument("--steps2", type=int, default=2000)
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--init", help="checkpoint to start from")
    ap.add_argument("--save", help="checkpoint to write")
    ap.add_argument("--new-tokenizer", action="store_true", help="train the tokenizer afresh instead of keeping OUT's")
    ap.add_argument("--no-compile", action="store_true")
    ap.add_argument("--limit", type=int, default=20000, help="questions asked of each evaluation set")
    ap.add_argument("--evaluate", action="store_true", help="only evaluate OUT")
    args = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    facts = make_data.read_facts()
    for problem in make_data.check_facts(facts):
        print("facts:", problem)
    books = [make_data.read_book(p) for p in args.corpus]
    held = [p for b in books for p in b[-max(1, len(b) // 33):]]
    books = [b[:-max(1, len(b) // 33)] for b in books]
    seen = [p for b in books for p in b[len(b) // 2:len(b) // 2 + max(1, len(b) // 33)]]

    out = pathlib.Path(args.out)
    if not args.evaluate:
        tok_file = out / "tokenizer.json"
        if args.new_tokenizer or not tok_file.exists():
            tok = make_tokenizer(tokenizer_texts(books, facts))
        else:
            tok = Tokenizer.from_file(str(tok_file))
        model, state, log = Model(), None, []
        if args.init:
            ck = torch.load(args.init)
            model.load_state_dict(ck["model"])
            state, log = ck["optimizer"], ck["log"]

        def save(optimizer):
            if args.save:
                torch.save({"model": model.state_dict(), "optimizer": optimizer, "log": log}, args.save)

        print(sum(p.numel() for p in model.parameters()), "parameters", flush=True)
        run = model if args.no_compile else torch.compile(model, dynamic=False)
        if args.stage != 2:
            s = Sampler(tok, facts, books, args.seed, 0.45, 0.15)
            state = train(model, run, s, args.steps1, args.lr, 100, 1.0, log, args.seed, "stage 1", state,
                          save)
        if args.stage != 1:
            s = Sampler(tok, facts, books, args.seed + 1, 0.90, 0.06)
            state = train(model, run, s, args.steps2, args.lr, 1, 0.44, log, args.seed + 1, "stage 2", state,
                          save)
        save(state)
        export(model, tok, out)
        (make_data.HERE / "train_log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in log))
    if args.stage != 1 or args.evaluate:
        report, misses = evaluate(out, facts, held, seen, args.limit)
        write(make_data.HERE / "evaluation.json", report)
        for name, items in misses.items():
            for q, a, s in items[:40]:
                print(f"[{name}] {q}\n    expected: {a}\n    said:     {s}")
        showcase(out)


if __name__ == "__main__":
    main()
