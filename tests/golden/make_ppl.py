"""Reference perplexities for `pagoda eval ppl`: writes tests/golden/ppl.json.

Sliding windows as in the guide "Perplexity of fixed-length models" of transformers, in float64.
The ids are those of tokenizer.json as it stands: LlamaTokenizer of transformers 5 builds a pipeline
of its own and leaves out the unknown characters of this text (3 of 501466 tokens, 0.12 % of the
perplexity of tinystories-656k).
Needs torch, transformers. Usage, from the project's root:

    python tests/golden/make_ppl.py [FOLDER OF DATA, ../shared/data]
"""
import json
import math
import sys

import torch
import transformers

MODELS = {"tinystories-656k-hf": "models/tinystories-656k-hf",
          "stories260K-hf-f32": "models/derived/stories260K-hf-f32"}
TEXT = "corpora/text/tinyshakespeare.txt"
# tokens of the text (the last: all of it), context, stride
CASES = [(20000, 512, 256), (6000, 512, 512), (3000, 128, 100), (700, 512, 512), (300, 512, 64), (10**9, 512, 512)]


def perplexity(model, ids, context, stride):
    total, n_tokens, previous = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        window = torch.tensor([ids[begin:end]])
        labels = window.clone()
        scored = end - previous
        labels[:, :-scored] = -100
        with torch.no_grad():
            loss = model(window, labels=labels).loss.item()
        n = int((labels != -100).sum()) - 1
        total += loss * n
        n_tokens += n
        previous = end
        if end == len(ids):
            break
    return math.exp(total / n_tokens), n_tokens


def main(data):
    with open(f"{data}/{TEXT}", encoding="utf-8") as f:
        text = f.read()
    out = []
    for name, path in MODELS.items():
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_file=f"{data}/{path}/tokenizer.json")
        model = transformers.AutoModelForCausalLM.from_pretrained(f"{data}/{path}").double().eval()
        every = tokenizer(text)["input_ids"]
        for tokens, context, stride in CASES:
            value, n = perplexity(model, every[:tokens], context, stride)
            out.append({"model": path, "text": TEXT, "tokens": min(tokens, len(every)), "context": context,
                        "stride": stride, "first_ids": every[:8], "weight": n,
                        "perplexity": value})
            print(name, out[-1], flush=True)
    with open("tests/golden/ppl.json", "w", encoding="utf-8") as f:
        json.dump({"transformers": transformers.__version__, "torch": torch.__version__,
                   "cases": out}, f, indent=1)
        f.write("\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "../shared/data")
