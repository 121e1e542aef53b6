"""Speculation changes no answer: the same requests to a server with guesses and to one without.

Greedy and sampled, with penalties, stop strings and ids, logprobs, several choices, streamed and
whole, alone and many at once; every choice must be the same, logprobs to the last digit. The demo
model, and where ../shared/data is there TinyStories, which goes in circles when it is greedy.
"""

import os
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Pagoda, run  # noqa: E402

DEMO = "conf/demo-model"
STORIES = "../shared/data/models/tinystories-656k-hf"
DRAFTED = "vllm:spec_decode_num_draft_tokens_total"
RIGHT = "vllm:spec_decode_num_accepted_tokens_total"

# copies of a text, for the lookup to find
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


def same(model, *more):
    with Pagoda(model, "--speculative", "off") as s:
        want = answers(s, False)
        assert s.metric(DRAFTED) == 0
    for at_once in (False, True):
        with Pagoda(model, "--speculative", "ngram", *more) as s:
            got = answers(s, at_once)
            for body, a, b in zip(bodies(), want, got):
                assert a == b, f"{body}\nwithout: {a}\nwith:    {b}"
            n, right = s.metric(DRAFTED), s.metric(RIGHT)
            print(f"  {model}: {n:.0f} tokens guessed, {right:.0f} right")
            if not at_once:  # in a crowd guesses may not pay
                assert right > 0, (n, right)


def demo_answers_the_same():
    same(DEMO)


def demo_few_pages():
    same(DEMO, "--num-speculative-tokens", "24", "--max-num-seqs", "5", "--kv-cache-bytes", "2MiB")


def stories_the_same():
    if not os.path.isdir(STORIES):
        print(f"SKIP: {STORIES} is not there")
        return
    same(STORIES)


if __name__ == "__main__":
    run([demo_answers_the_same, demo_few_pages, stories_the_same])
