"""Real models through the whole program: `pagoda serve` and HTTP.

The bundled demo model; and, where ../shared/data is there, small trained models against goldens of
a float64 forward pass: greedy ids, logprobs of prompt (echo) and output.
"""

import json
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Pagoda, run  # noqa: E402

DEMO = "conf/demo-model"
DATA = "../shared/data/models"
TOLERANCE = 1e-3
ASK = {"messages": [{"role": "user", "content": "What is a KV cache?"}], "max_tokens": 48,
       "temperature": 0}


def text_of(events):
    assert events[-1] == "[DONE]"
    return "".join(e["choices"][0]["delta"].get("content", "") for e in events[:-1]
                   if e["choices"])


def demo_chat():
    with Pagoda(DEMO) as s:
        status, whole = s.post("/v1/chat/completions", ASK)
        assert status == 200, whole
        text = whole["choices"][0]["message"]["content"]
        assert len(text) > 20, text
        assert text_of(s.stream("/v1/chat/completions", ASK)) == text
        status, again = s.post("/v1/chat/completions", ASK)
        assert again["choices"][0]["message"]["content"] == text
        status, t = s.post("/tokenize", {"prompt": text})
        status, back = s.post("/detokenize", {"tokens": t["tokens"]})
        assert back["prompt"].endswith(text), back
        status, shown = s.post("/apply-template", {"messages": ASK["messages"]})
        assert "What is a KV cache?" in shown["prompt"]


def demo_in_a_crowd():
    """The same greedy answer alone and among 32 others with other lengths."""
    with Pagoda(DEMO) as s:
        _, alone = s.post("/v1/chat/completions", ASK)
        want = alone["choices"][0]["message"]["content"]
        answers = []

        def one(i):
            body = dict(ASK, max_tokens=10 + i) if i % 2 else ASK
            events = s.stream("/v1/chat/completions", body)
            answers.append((i, text_of(events)))

        threads = [threading.Thread(target=one, args=(i,)) for i in range(32)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(answers) == 32
        for i, text in answers:
            assert text == want if i % 2 == 0 else want.startswith(text) or text.startswith(want)
        assert s.wait_metric("vllm:num_requests_running", 0) == 0


def pages_in_eight_bits():
    """Half the bytes: twice the tokens in the same memory. Answers stay the same from run to run and
    for two at once; the first words are those of bf16 pages."""
    tokens, answers = {}, {}
    for kv in ("bf16", "int8", "fp8"):
        with Pagoda(DEMO, "--kv-cache-dtype", kv, "--kv-cache-bytes", "64MiB") as s:
            name = "f8_e4m3" if kv == "fp8" else kv
            text = s.request("GET", "/metrics")[2].decode()
            assert 'cache_dtype="%s"' % name in text, text
            tokens[kv] = s.metric("pagoda:kv_pages_total")
            body = dict(ASK, n=2)
            status, r = s.post("/v1/chat/completions", body)
            assert status == 200, r
            first, second = (c["message"]["content"] for c in r["choices"])
            assert first == second and len(first) > 20, r
            _, again = s.post("/v1/chat/completions", ASK)  # from the prefix cache
            assert again["choices"][0]["message"]["content"] == first, again
            answers[kv] = first
    assert answers["int8"][:20] == answers["bf16"][:20] == answers["fp8"][:20], answers
    assert 1.8 < tokens["int8"] / tokens["bf16"] < 2, tokens
    assert tokens["int8"] == tokens["fp8"], tokens


def keys_are_read_again():
    """SIGHUP: a new key works, an old one no longer; a broken file changes nothing."""
    path = "/tmp/pagoda-model-keys-%d" % os.getpid()

    def works(s, key):
        return s.request("GET", "/v1/models", headers={"Authorization": "Bearer " + key})[0] == 200

    def reload(s, text, key):
        with open(path, "w") as f:
            f.write(text)
        s.p.send_signal(signal.SIGHUP)
        until = time.time() + 5
        while not works(s, key) and time.time() < until:
            time.sleep(0.05)

    with open(path, "w") as f:
        f.write("sk-one\n")
    try:
        with Pagoda(DEMO, "--engine", "mock", "--api-key-file", path) as s:
            assert works(s, "sk-one") and not works(s, "sk-two")
            reload(s, "sk-two\n", "sk-two")
            assert works(s, "sk-two") and not works(s, "sk-one")
            reload(s, "[", "sk-two")
            time.sleep(0.2)
            assert works(s, "sk-two")
    finally:
        os.unlink(path)


def close(a, b):
    return abs(a - b) <= TOLERANCE * max(1, abs(b))


def check_golden(s, case, name):
    body = {"prompt": case["prompt_ids"], "max_tokens": len(case["greedy_ids"]), "temperature": 0,
            "echo": True, "logprobs": 5, "return_token_ids": True, "ignore_eos": True}
    status, r = s.post("/v1/completions", body)
    assert status == 200, r
    lp = r["choices"][0]["logprobs"]["token_logprobs"]
    n = len(case["prompt_ids"])
    assert lp[0] is None
    for i in range(1, n):
        assert close(lp[i], case["prompt_logprobs"][i]), (name, i, lp[i])
    if case["min_margin"] <= TOLERANCE:
        return
    assert r["choices"][0]["token_ids"] == case["greedy_ids"], (name, case["prompt"])
    for i, top in enumerate(case["top5_logprobs"][:len(case["greedy_ids"])]):
        assert close(lp[n + i], top[0][1]), (name, n + i, lp[n + i], top[0])


def golden(name, model, file):
    path = os.path.join(DATA, model)
    if not os.path.isdir(path):
        print("SKIP %s: %s is not there" % (name, path))
        return
    with open(os.path.join(DATA, "goldens", file)) as f:
        cases = json.load(f)["cases"]
    with Pagoda(path, "--dtype", "f32") as s:
        for case in cases:
            check_golden(s, case, name)
        for case in cases[:3]:  # warm prefix cache
            check_golden(s, case, name)


def tinystories():
    golden("tinystories", "tinystories-656k-hf", "tinystories-656k-hf.dev.json")


def stories260k():
    golden("stories260K", "derived/stories260K-hf-f32", "stories260K-hf-f32.dev.json")


if __name__ == "__main__":
    sys.exit(run([demo_chat, demo_in_a_crowd, pages_in_eight_bits, keys_are_read_again, tinystories, stories260k]))
