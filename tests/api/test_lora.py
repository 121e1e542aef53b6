"""Adapters through the whole program: names, goldens, mixtures, caches, loading and unloading.

The bases and adapters of tests/adapters; where ../shared/data is there, its adapters and their
goldens too.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Pagoda, run  # noqa: E402

ROOT = "tests/adapters"
DATA = "../shared/data"
NAMES = sorted(n for n in os.listdir(ROOT + "/llama") if os.path.isdir(f"{ROOT}/llama/{n}"))


class Base:
    """A copy of a base with a tokenizer of one letter a token."""

    def __init__(self, name="llama"):
        self.dir = tempfile.mkdtemp(prefix="pagoda-lora-")
        self.path = os.path.join(self.dir, "base")
        os.mkdir(self.path)
        for f in ("config.json", "model.safetensors"):
            shutil.copy(f"{ROOT}/{name}/{f}", self.path)
        letters = [chr(i) for i in range(40, 40 + 64)]
        model = {"type": "BPE", "vocab": {c: i for i, c in enumerate(letters)}, "merges": []}
        with open(self.path + "/tokenizer.json", "w") as f:
            json.dump({"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None,
                       "post_processor": None, "decoder": None, "model": model}, f)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        shutil.rmtree(self.dir)

    def write(self, name, text):
        path = os.path.join(self.dir, name)
        with open(path, "w") as f:
            f.write(text)
        return path


def golden(name, base="llama"):
    with open(f"{ROOT}/{base}/{name}/golden.json") as f:
        return json.load(f)


def ask(s, model, prompt, n_new=16, **more):
    return s.post("/v1/completions", dict(model=model, prompt=prompt, max_tokens=n_new, temperature=0,
                                          ignore_eos=True, return_token_ids=True, **more))


def greedy(s, model, prompt, n_new=16, **more):
    status, r = ask(s, model, prompt, n_new, **more)
    assert status == 200, r
    return r["choices"][0]["token_ids"]


def loras(names, base="llama"):
    return [x for n in names for x in ("--lora", f"{n}={ROOT}/{base}/{n}")]


def error(answer, status, *words):
    assert answer[0] == status, answer
    text = answer[1]["error"]["message"]
    for w in words:
        assert w in text, (w, text)


def listed():
    with Base() as b, Pagoda(b.path, "--lora", f"{ROOT}/llama/ia3", *loras(["dora"])) as s:
        _, _, data = s.request("GET", "/v1/models")
        models = {m["id"]: m for m in json.loads(data)["data"]}
        assert sorted(models) == ["base", "dora", "ia3"], models
        assert models["base"]["parent"] is None and models["base"]["root"] == "base"
        assert models["dora"]["parent"] == "base" and models["dora"]["root"] == "dora"
        status, _, data = s.request("GET", "/v1/models/ia3")
        assert status == 200 and json.loads(data) == models["ia3"]
        assert s.request("GET", "/v1/models/lora-k")[0] == 404
        error(ask(s, "lora-k", [5]), 404, "lora-k")
        error(ask(s, "base:lora-k", [5]), 404, "base:lora-k")
        error(ask(s, "other:dora", [5]), 404)
        status, r = ask(s, "base:dora", [5])
        assert status == 200 and r["model"] == "dora", r
        assert r["choices"][0]["token_ids"] == greedy(s, "dora", [5])
        assert r["choices"][0]["token_ids"] != greedy(s, "base", [5])
        status, r = s.post("/tokenize", {"model": "dora", "prompt": "abc"})
        assert status == 200 and r["count"] == 3, r


def goldens():
    """Each adapter alone, then all of them at once, several times."""
    with Base() as b, Pagoda(b.path, "--dtype", "f32", "--max-loras", "32", *loras(NAMES)) as s:
        for n in NAMES:
            g = golden(n)
            status, r = ask(s, n, g["prompt"])
            assert status == 200, r
            assert r["choices"][0]["token_ids"] == g["greedy"], (n, r)
            assert r["usage"]["prompt_tokens"] == len(g["prompt"]), (n, r["usage"])
            assert r["usage"]["total_tokens"] == len(g["prompt"]) + 16, (n, r["usage"])
        wrong = []

        def one(i):
            n = NAMES[i % len(NAMES)]
            if greedy(s, "base:" + n if i % 2 else n, golden(n)["prompt"]) != golden(n)["greedy"]:
                wrong.append(n)

        threads = [threading.Thread(target=one, args=(i,)) for i in range(4 * len(NAMES))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not wrong, wrong
        assert s.metric("vllm:prompt_tokens_total") == 5 * sum(len(golden(n)["prompt"]) for n in NAMES)


def echo():
    """Logprobs of prompt tokens stay with their tokens behind a soft prompt."""
    with Base() as b, Pagoda(b.path, "--dtype", "f32", *loras(["prompt", "prefix"])) as s:
        for n in ("prompt", "prefix"):
            ids = golden(n)["prompt"] + golden(n)["greedy"]
            status, r = ask(s, n, ids, 0, echo=True, logprobs=1)
            assert status == 200, r
            lp = r["choices"][0]["logprobs"]
            assert len(lp["tokens"]) == len(ids) and lp["token_logprobs"][0] is None, lp
            best = [max(t.values()) for t in lp["top_logprobs"][12:]]
            assert all(abs(a - b) < 1e-6 for a, b in zip(best, lp["token_logprobs"][12:])), lp
            status, r = ask(s, n, ids, 1, prompt_logprobs=0)
            assert len(r["choices"][0]["prompt_logprobs"]) == len(ids), r


def caches():
    """The same text under other adapters shares no pages."""
    text = [3 + i * 7 % 61 for i in range(50)]
    models = ["base", "lora-qv", "dora", "prompt", "prefix"]
    with Base() as b:
        with Pagoda(b.path, "--no-prefix-cache", *loras(models[1:])) as s:
            want = {m: greedy(s, m, text) for m in models}
        with Pagoda(b.path, *loras(models[1:])) as s:
            for turn in range(2):
                for m in models:
                    _, r = ask(s, m, text)
                    assert r["choices"][0]["token_ids"] == want[m], m
                    cached = r["usage"]["prompt_tokens_details"]["cached_tokens"]
                    assert (cached > 0) == (turn > 0) and cached < 50, (m, turn, cached)
    assert len({tuple(w) for w in want.values()}) == len(models), want


def updates_are_off():
    with Base() as b, Pagoda(b.path, *loras(["ia3"])) as s:
        load = dict(lora_name="x", lora_path=f"{ROOT}/llama/dora")
        error(s.post("/v1/load_lora_adapter", load), 403, "--lora-updates")
        error(s.post("/v1/unload_lora_adapter", dict(lora_name="ia3")), 403, "--lora-updates")


def load(s, name, path):
    status, _, data = s.request("POST", "/v1/load_lora_adapter", dict(lora_name=name, lora_path=path))
    return status, data if status == 200 else json.loads(data)


def unload(s, name):
    status, _, data = s.request("POST", "/v1/unload_lora_adapter", dict(lora_name=name))
    return status, data if status == 200 else json.loads(data)


def updates():
    with Base() as b, Pagoda(b.path, "--lora-updates", "--max-loras", 2, "--dtype", "f32") as s:
        g = golden("dora")
        for turn in range(3):
            status, said = load(s, "one", f"{ROOT}/llama/dora")
            assert (status, said) == (200, b"Success: LoRA adapter 'one' added successfully."), said
            assert greedy(s, "one", g["prompt"]) == g["greedy"]
            error(load(s, "one", f"{ROOT}/llama/dora"), 400, "'one' is already loaded")
            assert load(s, "two", f"{ROOT}/llama/ia3")[0] == 200
            error(load(s, "three", f"{ROOT}/llama/lora-k"), 503, "--max-loras")
            status, said = unload(s, "one")
            assert (status, said) == (200, b"Success: LoRA adapter 'one' removed successfully."), said
            error(ask(s, "one", [5]), 404, "'one' does not exist")
            assert load(s, "three", f"{ROOT}/llama/lora-k")[0] == 200
            assert greedy(s, "three", golden("lora-k")["prompt"]) == golden("lora-k")["greedy"]
            assert unload(s, "two")[0] == unload(s, "three")[0] == 200
        error(unload(s, "one"), 404, "'one' is not loaded")
        error(load(s, "base", f"{ROOT}/llama/dora"), 400, "base model")
        error(load(s, "a b", f"{ROOT}/llama/dora"), 400, "spaces")
        error(load(s, "x", "/nonexistent"), 404, "/nonexistent")
        error(s.post("/v1/load_lora_adapter", dict(lora_name="x")), 400, "lora_path")
        error(s.post("/v1/load_lora_adapter", dict(lora_path="x")), 400, "lora_name")
        error(s.post("/v1/load_lora_adapter", dict(lora_name=5, lora_path="x")), 400, "lora_name")
        error(s.post("/v1/unload_lora_adapter", {}), 400, "lora_name")
        error(s.post("/v1/load_lora_adapter", dict(lora_name="x", lora_path="y", load_inplace=True)), 400,
              "load_inplace")
        assert s.request("GET", "/v1/load_lora_adapter")[0] == 405


def refusals():
    """What is wrong in a directory is said by file and name; the server goes on."""
    with Base() as b, Pagoda(b.path, "--lora-updates", "--max-lora-rank", 4) as s:
        error(load(s, "x", f"{ROOT}/gpt2/lora"), 400, "transformer.h.0", "belongs to no module", "llama")
        error(load(s, "x", f"{ROOT}/llama/rslora-patterns"), 400, "rank 6", "--max-lora-rank is 4")
        damaged = os.path.join(b.dir, "damaged")
        shutil.copytree(f"{ROOT}/llama/dora", damaged)
        with open(damaged + "/adapter_model.safetensors", "r+b") as f:
            f.truncate(os.path.getsize(f.name) - 100)
        error(load(s, "x", damaged), 400, "adapter_model.safetensors")
        with open(damaged + "/adapter_config.json") as f:
            config = json.load(f)
        for key, value in (("peft_type", "LOHA"), ("use_qalora", True), ("target_parameters", ["a.b"]),
                           ("layer_replication", [[0, 1]]), ("megatron_config", {"a": 1}), ("task_type", "SEQ_CLS"),
                           ("init_lora_weights", "pissa"), ("trainable_token_indices", [1]), ("made_up_key", 3)):
            b.write("damaged/adapter_config.json", json.dumps(dict(config, **{key: value})))
            error(load(s, "x", damaged), 400, "adapter_config.json", key)
        b.write("damaged/adapter_config.json", "{")
        error(load(s, "x", damaged), 400, "adapter_config.json")
        os.unlink(damaged + "/adapter_model.safetensors")
        b.write("damaged/adapter_config.json", json.dumps(config))
        error(load(s, "x", damaged), 404, "no adapter_model.safetensors")
        assert load(s, "x", f"{ROOT}/llama/dora")[0] == 200
        assert greedy(s, "x", golden("dora")["prompt"]) == golden("dora")["greedy"]


def while_running():
    """Unloading takes the name away at once; what runs ends as if nothing had happened."""
    with Base() as b, Pagoda(b.path, "--lora-updates", "--dtype", "f32") as s:
        prompt, bodies = golden("dora")["prompt"], []
        load(s, "x", f"{ROOT}/llama/dora")
        want = greedy(s, "x", prompt, 100)

        def one():
            bodies.append(ask(s, "x", prompt, 100, n=16))

        for turn in range(5):
            if turn:
                assert load(s, "x", f"{ROOT}/llama/dora")[0] == 200
            threads = [threading.Thread(target=one) for _ in range(6)]
            for t in threads:
                t.start()
            assert unload(s, "x")[0] == 200
            for t in threads:
                t.join()
        done = [r for status, r in bodies if status == 200]
        assert len(bodies) == 30 and all(status in (200, 404) for status, _ in bodies)
        for r in done:
            assert all(c["token_ids"] == want for c in r["choices"])
        assert s.wait_metric("vllm:num_requests_running", 0) == 0


def rights():
    keys = json.dumps([{"name": "a", "key": "admin", "admin": True}, {"name": "u", "key": "user"},
                       {"name": "b", "key": "bound", "models": ["base"]}])

    def by(key):
        return {"Authorization": "Bearer " + key}

    with Base() as b, Pagoda(b.path, "--lora-updates", "--api-key-file", b.write("keys", keys)) as s:
        body = dict(lora_name="x", lora_path=f"{ROOT}/llama/dora")
        for key in ("user", "bound"):
            error(s.post("/v1/load_lora_adapter", body, headers=by(key)), 403, "admin")
        assert s.request("POST", "/v1/load_lora_adapter", body, by("admin"))[0] == 200
        ask_x = dict(model="x", prompt=[5], max_tokens=1)
        assert s.post("/v1/completions", ask_x, headers=by("user"))[0] == 200
        error(s.post("/v1/completions", ask_x, headers=by("bound")), 403, "'x'")
        error(s.post("/v1/completions", dict(ask_x, model="base:x"), headers=by("bound")), 403, "'x'")
        _, _, data = s.request("GET", "/v1/models", headers=by("bound"))
        assert [m["id"] for m in json.loads(data)["data"]] == ["base"]
        assert s.request("GET", "/v1/models/x", headers=by("bound"))[0] == 404


def metrics():
    with Base() as b, Pagoda(b.path, "--max-loras", 3, *loras(["ia3"])) as s:
        _, _, text = s.request("GET", "/metrics")
        line = [t for t in text.decode().splitlines() if t.startswith("vllm:lora_requests_info{")]
        assert len(line) == 1 and 'max_lora="3"' in line[0], line
        assert 'running_lora_adapters=""' in line[0] and 'waiting_lora_adapters=""' in line[0], line


def merged():
    with Base() as b, Pagoda(b.path, "--dtype", "f32", "--merge-lora", *loras(["dora"])) as s:
        assert greedy(s, "base", golden("dora")["prompt"]) == golden("dora")["greedy"]
        error(ask(s, "dora", [5]), 404)


def pagoda(*args, text=""):
    r = subprocess.run([os.environ.get("PAGODA", "build/pagoda"), *args], input=text, capture_output=True, text=True)
    assert r.returncode == 0, r.stderr
    return r.stdout


def written():
    """`pagoda convert --lora` writes what base and adapter compute together, a larger vocabulary too."""
    with Base() as b:
        for adapter in ("llama/dora", "llama/ia3", "larger/grown"):
            out, g = os.path.join(b.dir, "out-" + adapter.replace("/", "-")), f"{ROOT}/{adapter}/golden.json"
            with open(g) as f:
                g = json.load(f)
            pagoda("convert", b.path, "--lora", f"x={ROOT}/{adapter}", "--out", out)
            got = json.loads(pagoda("logits", out, "--all", text=json.dumps(g["prompt"]) + "\n"))["logits"]
            for row, want in zip(g["rows"], g["logits"]):
                assert len(got[row]) == len(want)
                assert max(abs(x - y) for x, y in zip(got[row], want)) < 1e-4 * max(map(abs, want)), adapter


def shared_goldens():
    models = [("lora-a-r4", 0), ("lora-b-r8-all", 0)]
    if not os.path.isdir(DATA + "/adapters/derived-tinystories-656k"):
        print("SKIP: no " + DATA + "/adapters/derived-tinystories-656k")
        return
    flags = [x for n, _ in models for x in ("--lora", f"{DATA}/adapters/derived-tinystories-656k/{n}")]
    with Pagoda(DATA + "/models/tinystories-656k-hf", *flags) as s:
        for n, _ in models:
            with open(f"{DATA}/models/goldens/tinystories-656k-{n}.dev.json") as f:
                cases = json.load(f)["cases"]
            for c in cases:
                assert greedy(s, n, c["prompt_ids"], len(c["greedy_ids"])) == c["greedy_ids"], (n, c["prompt"])


if __name__ == "__main__":
    sys.exit(run([listed, goldens, echo, caches, updates_are_off, updates, refusals, while_running, rights, metrics, merged,
              written, shared_goldens]))
