#!/usr/bin/env python3
"""What guessing tokens from the text brings or costs: tokens per second with and without.

    tests/bench/speculation.py --model DIR [--requests N] [--output-len N] [--rounds N]
                               [--input-len N] [--concurrency 1,4] [--loads copy,fresh,sampled]
                               [--draft DIR] [--more "SERVE OPTIONS"]

For each concurrency the loads are given in turn to two servers, --speculative off and ngram, or
with --draft off and that model's drafts (--more: e.g. its quantisation): `copy`
(prompts in which a passage of 16 tokens stands again and again, greedy), `fresh` (prompts of tokens
that never repeat, greedy) and `sampled` (the same at temperature 1, where hardly any guess is
right). All answers must agree. Small models go in circles when they are greedy, which is what makes
guesses right here. Prints the median of the rounds, the ratio, and how many guesses were right. PAGODA names the program (build/pagoda). Only
the standard library.
"""

import argparse
import http.client
import json
import os
import random
import re
import socket
import statistics
import subprocess
import threading
import time


class Server:
    def __init__(self, model, kind, more):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.process = subprocess.Popen(
            [os.environ.get("PAGODA", "build/pagoda"), "serve", "--model", model, "--port",
             str(self.port), "--speculative", kind, "--no-access-log", "--no-prefix-cache", *more],
            stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        for _ in range(600):
            try:
                if self.ask("GET", "/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise SystemExit("the server does not come up")

    def ask(self, method, path, body=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        c.request(method, path, json.dumps(body) if body else None,
                  {"Content-Type": "application/json"})
        r = c.getresponse()
        return r.status, r.read()

    def counter(self, name):
        return float(re.search(rf"^{name}\S* (\S+)$", self.ask("GET", "/metrics")[1].decode(),
                               re.M).group(1))


def prompts(s, kind, n, length):
    """Token ids."""
    _, data = s.ask("GET", "/v1/models")
    length = min(length, json.loads(data)["data"][0].get("max_model_len", 512) // 4)
    rng, out = random.Random(5), []
    for _ in range(n):
        if kind == "copy":
            passage = [rng.randrange(5, 1000) for _ in range(16)]
            out.append((passage * (length // 16 + 1))[:length])
        else:
            out.append(rng.sample(range(5, 1000), length))
    return out


def load(s, asked, output_len, at_once, temperature):
    """Tokens per second."""
    queue, lock = list(enumerate(asked)), threading.Lock()
    texts = [None] * len(asked)

    def worker():
        while True:
            with lock:
                if not queue:
                    return
                i, prompt = queue.pop(0)
            status, data = s.ask("POST", "/v1/completions", {
                "prompt": prompt, "max_tokens": output_len, "temperature": temperature, "seed": i,
                "ignore_eos": True})
            if status != 200:
                raise SystemExit(data.decode())
            texts[i] = json.loads(data)["choices"][0]["text"]

    threads = [threading.Thread(target=worker) for _ in range(at_once)]
    start = time.monotonic()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return len(asked) * output_len / (time.monotonic() - start), texts


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--model", required=True)
    p.add_argument("--requests", type=int, default=8)
    p.add_argument("--output-len", type=int, default=64)
    p.add_argument("--input-len", type=int, default=128)
    p.add_argument("--loads", default="copy,fresh,sampled")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--concurrency", default="1,4")
    p.add_argument("--draft")
    p.add_argument("--more", default="", help="options of both; those of speculation go to one")
    o = p.parse_args()
    way = "draft" if o.draft else "ngram"
    guessing = ["--speculative-model", o.draft] if o.draft else []
    with_draft = [x for x in o.more.split() if x.startswith("--speculative")]
    others = [x for x in o.more.split() if x not in with_draft]
    servers = {"off": Server(o.model, "off", others),
               way: Server(o.model, way, others + guessing + with_draft)}
    try:
        for at_once in map(int, o.concurrency.split(",")):
            for kind in o.loads.split(","):
                temperature = int(kind == "sampled")
                asked = prompts(servers["off"], kind, max(o.requests, at_once), o.input_len)
                speeds = {"off": [], way: []}
                texts = {}
                counts = [servers[way].counter(f"vllm:spec_decode_num_{x}_tokens_total")
                          for x in ("draft", "accepted")]
                for k in range(o.rounds + 1):
                    for which, s in servers.items():
                        speed, texts[which] = load(s, asked, o.output_len, at_once, temperature)
                        if k:  # the first warms up
                            speeds[which].append(speed)
                    if texts["off"] != texts[way]:
                        raise SystemExit("the answers differ")
                n, right = [servers[way].counter(f"vllm:spec_decode_num_{x}_tokens_total") - c
                            for x, c in zip(("draft", "accepted"), counts)]
                off, on = (statistics.median(speeds[w]) for w in ("off", way))
                print(f"{os.path.basename(o.model)} {at_once} in flight, {kind}: "
                      f"off {off:.1f}, {way} {on:.1f} tok/s, {on / off:.3f}x "
                      f"({', '.join(f'{b / a:.2f}' for a, b in zip(speeds['off'], speeds[way]))}); "
                      f"{n:.0f} guesses, {right:.0f} right", flush=True)
    finally:
        for s in servers.values():
            s.process.kill()
            s.process.wait()


if __name__ == "__main__":
    main()
