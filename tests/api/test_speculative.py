"""Speculation changes no answer: the same requests to a server with guesses and to one without.

Greedy and sampled, with penalties, stop strings and ids, logprobs, several choices, streamed and
whole, alone and many at once; every choice must be the same, logprobs to the last digit. The demo
model, and where ../shared/data is there TinyStories, which goes in circles when it is greedy.
Guesses are looked up in the text, or made by a draft model: the same one, as it is and in int8.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Pagoda, run  # noqa: E402

DEMO = "conf/demo-model"
STORIES = "../shared/data/models/tinystories-656k-hf"
DRAFTED = "vllm:spec_decode_num_draft_tokens_total"
RIGHT = "vllm:spec_decode_num_accepted_tokens_total"

# copies of a text, for the lookup to find
LOOKUP = ("--speculative", "ngram")
ADAPTER = "../shared/data/adapters/derived-tinystories-656k/lora-a-r4"
COPY = "One day a little cat sat on a red mat. The cat saw a big dog and ran to the tree. " * 3
STORY = "Once upon a time, there was a little girl named Lily. She liked to"


def bodies():
    base = {"max_tokens": 60, "temperature": 0}
    ways = [
        {}, {"logprobs": 3}, {"temperature": 0.8, "seed": 7}, {"max_tokens": 5},
        {"temperature": 0.3, "seed": 8, "top_p": 0.9, "top_k": 40, "logprobs": 1, "n": 3},
        {"temperature": 1.2, "seed": 9, "typical_p": 0.9}, {"temperature": 0.5, "seed": 1, "min_p": 0.05},
        {"repetition_penalty": 1.2, "logprobs": 2}, {"frequency_penalty": 0.6, "presence_penalty": 0.3},
        {"no_repeat_ngram_size": 3}, {"stop": [" the", "."]}, {"stop": "dog", "max_tokens": 90},
        {"min_tokens": 20, "stop_token_ids": [13, 30, 261]}, {"stop_token_ids": list(range(100, 140))},
        {"ignore_eos": True, "max_tokens": 150}, {"echo": True, "logprobs": 1, "max_tokens": 20},
        {"n": 4, "temperature": 0.7, "seed": 3, "stop": [" and"]},
    ]
    return [dict(base, prompt=p, **w) for p in (COPY, STORY) for w in ways]


def stream_of(s, body):
    """Text and finish of each choice."""
    got = {}
    events = s.stream("/v1/completions", body)
    assert events[-1] == "[DONE]", events[-1]
    for e in events[:-1]:
        for c in e["choices"]:
            text, finish = got.get(c["index"], ("", None))
            got[c["index"]] = (text + c["text"], c["finish_reason"] or finish)
    return got


def answers(s, at_once):
    out = [None] * len(bodies())

    def one(i, body):
        status, whole = s.post("/v1/completions", body)
        assert status == 200, whole
        streamed = stream_of(s, body)
        for c in whole["choices"]:
            assert streamed[c["index"]] == (c["text"], c["finish_reason"]), (body, c, streamed)
        out[i] = (whole["choices"], whole["usage"]["completion_tokens"])

    if not at_once:
        for i, body in enumerate(bodies()):
            one(i, body)
        return out
    threads = [threading.Thread(target=one, args=(i, b)) for i, b in enumerate(bodies())]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return out


def by_model(model, quantised="none"):
    return ("--speculative-model", model, "--speculative-model-quantization", quantised)


def same(model, way, *more):
    with Pagoda(model, "--speculative", "off") as s:
        want = answers(s, False)
        assert s.metric(DRAFTED) == 0
    for at_once in (False, True):
        with Pagoda(model, *way, *more) as s:
            got = answers(s, at_once)
            for body, a, b in zip(bodies(), want, got):
                assert a == b, f"{body}\nwithout: {a}\nwith:    {b}"
            n, right = s.metric(DRAFTED), s.metric(RIGHT)
            print(f"  {model} {' '.join(way)}: {n:.0f} tokens guessed, {right:.0f} right")
            assert right <= n, (n, right)
            if way != LOOKUP:  # it is tried at least
                assert s.metric("pagoda:draft_steps_total") > 0
                assert s.metric("pagoda:draft_seconds_total") > 0
            # In a crowd guesses may not pay; alone, how many are looked up depends on what they cost here.
            if not at_once and (way != LOOKUP or n >= 100):
                assert right > 0, (n, right)


def demo_answers_the_same():
    same(DEMO, LOOKUP)


def demo_few_pages():
    same(DEMO, LOOKUP, "--num-speculative-tokens", "24", "--max-num-seqs", "5", "--kv-cache-bytes", "2MiB")


def stories_the_same():
    if not os.path.isdir(STORIES):
        print(f"SKIP: {STORIES} is not there")
        return
    same(STORIES, LOOKUP)


def drafts_of_the_same_model():
    same(DEMO, by_model(DEMO))
    if os.path.isdir(STORIES):
        same(STORIES, by_model(STORIES, "int8"), "--max-num-seqs", "5", "--kv-cache-bytes", "4MiB")


def greedy_guesses_of_the_same_model_are_right():
    with Pagoda(DEMO, *by_model(DEMO)) as s:
        status, _, info = s.request("GET", "/server_info")
        assert status == 200 and json.loads(info)["speculative_model"] == "demo-model", info
        status, got = s.post("/v1/completions", {"prompt": STORY, "max_tokens": 60,
                                                 "temperature": 0, "ignore_eos": True})
        assert status == 200 and got["usage"]["completion_tokens"] == 60, got
        n, right = s.metric(DRAFTED), s.metric(RIGHT)
        assert n == right > 0, (n, right)


def drafts_beside_adapters():
    """The draft model guesses for a sequence with an adapter as for any other."""
    if not os.path.isdir(ADAPTER):
        print(f"SKIP: {ADAPTER} is not there")
        return
    texts = []
    for way in (("--speculative", "off"), by_model(STORIES)):
        with Pagoda(STORIES, "--lora", f"a={ADAPTER}", *way) as s:
            body = {"prompt": STORY, "max_tokens": 80, "temperature": 0.5, "seed": 3}
            got = [s.post("/v1/completions", dict(body, model=m))
                   for m in ("a", "tinystories-656k-hf")]
            assert all(status == 200 for status, _ in got), got
            texts.append([x["choices"] for _, x in got])
    assert texts[0] == texts[1], texts


def refused():
    def says(*args):
        p = subprocess.run([os.environ.get("PAGODA", "build/pagoda"), "serve", "--model", DEMO,
                            "--port", "0", *args], capture_output=True, text=True, timeout=60)
        assert p.returncode == 1, p
        return p.stderr

    assert "needs --speculative-model PATH" in says("--speculative", "draft")
    text = says("--speculative", "ngram", "--speculative-model", DEMO)
    assert "--speculative-model is for --speculative draft, found --speculative ngram" in text, text
    text = says("--speculative-model", "/no/such/model")
    assert "/no/such/model" in text, text
    text = says("--speculative-model-quantization", "int8")
    assert "needs --speculative-model" in text, text
    with tempfile.TemporaryDirectory() as other:
        for name in os.listdir(DEMO):
            path = os.path.join(os.path.abspath(DEMO), name)
            if name != "tokenizer.json" and os.path.isfile(path):
                os.symlink(path, os.path.join(other, name))
        with open(os.path.join(DEMO, "tokenizer.json")) as f:
            tokens = json.load(f)
        vocab = tokens["model"]["vocab"]
        by_id = {i: t for t, i in vocab.items()}
        vocab[by_id[300]], vocab[by_id[301]] = 301, 300
        with open(os.path.join(other, "tokenizer.json"), "w") as f:
            json.dump(tokens, f)
        text = says("--speculative-model", other)
        for part in ("another vocabulary: id 300 is", DEMO, other, "(3072 tokens)"):
            assert part in text, (part, text)
    encoder = "tests/archs/bert"
    p = subprocess.run([os.environ.get("PAGODA", "build/pagoda"), "inspect", "--model", DEMO,
                        "--speculative-model", encoder], capture_output=True, text=True, timeout=60)
    assert p.returncode == 1 and "makes embeddings, not tokens" in p.stderr, p


def the_plan_counts_both():
    plans = []
    for more in ((), ("--speculative-model", DEMO)):
        p = subprocess.run([os.environ.get("PAGODA", "build/pagoda"), "inspect", "--model", DEMO,
                            "--json", *more], capture_output=True, text=True, timeout=60)
        assert p.returncode == 0, p
        plans.append(json.loads(p.stdout)["memory"])
    one, both = plans
    assert one["draft_weights"] == 0 and both["draft_weights"] == one["weights"], plans
    assert both["kv"] == 2 * one["kv"] and both["n_pages"] == one["n_pages"], plans
    assert both["total"] > one["total"] + one["weights"] + one["kv"], plans


if __name__ == "__main__":
    sys.exit(run([demo_answers_the_same, demo_few_pages, stories_the_same, drafts_of_the_same_model,
                  greedy_guesses_of_the_same_model_are_right, drafts_beside_adapters, refused, the_plan_counts_both]))
