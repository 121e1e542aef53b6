"""Makes sampler_cases.json: the distributions that transformers' logits processors give.

    python make_sampler_cases.py > sampler_cases.json

Needs the PyPI packages torch and transformers (made with torch 2.15, transformers 5.23).
Frequency and presence penalty are not in transformers; their formula is OpenAI's:
logit - frequency * count - presence * (count > 0), counts over the output. Logits are multiples of
1/64, exact in f32 and in this file."""
import json
import random

import torch
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor, MinPLogitsWarper, NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper,
    TypicalLogitsWarper)


def penalised(scores, ids, n_prompt, p):
    scores = scores.clone()
    for token, bias in p.get("bias", []):
        scores[0, token] += bias if bias is not None else float("-inf")
    seq = torch.tensor([ids])
    if "repetition_penalty" in p:
        scores = RepetitionPenaltyLogitsProcessor(p["repetition_penalty"])(seq, scores)
    counts = torch.zeros_like(scores)
    for token in ids[n_prompt:]:
        counts[0, token] += 1
    scores = scores - p.get("frequency_penalty", 0) * counts
    scores = scores - p.get("presence_penalty", 0) * (counts > 0)
    if "no_repeat_ngram" in p:
        scores = NoRepeatNGramLogitsProcessor(p["no_repeat_ngram"])(seq, scores)
    if "min_tokens" in p:
        stop = torch.tensor(p["stop_ids"])
        scores = MinNewTokensLengthLogitsProcessor(n_prompt, p["min_tokens"], stop)(seq, scores)
    if "allowed" in p:
        mask = torch.full_like(scores, float("-inf"))
        mask[0, p["allowed"]] = 0
        scores = scores + mask
    return seq, scores


def distribution(logits, ids, n_prompt, p):
    seq, scores = penalised(torch.tensor([logits], dtype=torch.float32), ids, n_prompt, p)
    greedy = int(scores.argmax())
    for key, warper in (("temperature", TemperatureLogitsWarper), ("top_k", TopKLogitsWarper),
                        ("top_p", TopPLogitsWarper), ("min_p", MinPLogitsWarper),
                        ("typical_p", TypicalLogitsWarper)):
        if key in p:
            scores = warper(p[key])(seq, scores)
    probs = torch.softmax(scores.double(), -1)[0]
    keep = [(i, float(x)) for i, x in enumerate(probs) if x > 0]
    return greedy, keep


def main():
    rng = random.Random(20)
    settings = [
        {}, {"temperature": 0.5}, {"temperature": 1.75}, {"top_k": 1}, {"top_k": 7},
        {"top_k": 1000}, {"top_p": 0.9}, {"top_p": 0.05}, {"top_p": 0.999}, {"min_p": 0.1},
        {"min_p": 0.9}, {"typical_p": 0.9}, {"typical_p": 0.2},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
        {"temperature": 1.3, "top_p": 0.95, "min_p": 0.05},
        {"top_k": 30, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.95},
        {"temperature": 0.6, "typical_p": 0.5, "top_p": 0.9},
        {"repetition_penalty": 1.3}, {"repetition_penalty": 0.8, "top_p": 0.9},
        {"frequency_penalty": 0.75}, {"presence_penalty": -1.5},
        {"frequency_penalty": 0.25, "presence_penalty": 0.5, "repetition_penalty": 1.1},
        {"no_repeat_ngram": 1}, {"no_repeat_ngram": 2}, {"no_repeat_ngram": 3, "top_k": 10},
        {"min_tokens": 100, "stop_ids": [0, 5, 9]}, {"min_tokens": 3, "stop_ids": [0, 5, 9]},
        {"bias": [[3, 4.5], [8, -2.0], [11, None]]},
        {"bias": [[3, 30.0]], "top_p": 0.9, "repetition_penalty": 1.2},
        {"allowed": [2, 4, 17, 33]}, {"allowed": [40, 2, 4, 17, 33], "top_k": 3, "top_p": 0.8},
    ]
    cases = []
    for k, p in enumerate(settings * 2):
        vocab = rng.choice([48, 64, 97, 300])
        scale = rng.choice([1, 2, 4])
        logits = [round(rng.gauss(0, 1) * scale * 64) / 64 for _ in range(vocab)]
        if k % 5 == 0:  # ties at the top and somewhere in the middle
            best = max(logits)
            logits[10] = logits[20] = best
        ids = [rng.randrange(12) for _ in range(rng.choice([4, 9, 14]))]
        n_prompt = rng.randrange(1, len(ids))
        greedy, keep = distribution(logits, ids, n_prompt, p)
        cases.append({"params": p, "logits": logits, "ids": ids, "n_prompt": n_prompt,
                      "greedy": greedy, "keep": [i for i, _ in keep],
                      "probs": [float("%.8g" % x) for _, x in keep]})
    print("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]")


main()
