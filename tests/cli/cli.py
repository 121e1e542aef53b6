"""The program from outside: its commands, exit statuses, line tools, signals.

Usage: cli.py [NAME...] with the program in $PAGODA, from the project's root; standard library only.
Ends with "N passed, N failed, N skipped". Cases that need data of ../shared/data skip without it.
"""
import contextlib
import functools
import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback

PAGODA = os.environ.get("PAGODA", "build/pagoda")
DATA = "../shared/data/"
DEMO = "conf/demo-model"
ARCH = "tests/archs/llama-gqa"  # a tiny random checkpoint with its golden
SLOW = 10 if os.environ.get("PAGODA_SANITIZE", "release") != "release" else 1
CASES = []


class Skip(Exception):
    """Raised by a case whose data is absent."""


def case(f):
    CASES.append(f)
    return f


def need(path):
    if not os.path.exists(path):
        raise Skip(f"{path} is not there")
    return path


def run(*args, text="", rc=0, env=None):
    """Run a command; returns (stdout, stderr)."""
    p = subprocess.run([PAGODA, *args], input=text, capture_output=True, text=True,
                       timeout=120 * SLOW, env={**os.environ, **(env or {})})
    assert p.returncode == rc, f"{args}: exit {p.returncode}, wanted {rc}: {p.stderr[-500:]}"
    return p.stdout, p.stderr


def lines(*args, values, raw=False):
    """A line tool's answers to values (or raw lines)."""
    text = "".join((v if raw else json.dumps(v)) + "\n" for v in values)
    out, _ = run(*args, text=text)
    answers = [json.loads(line) for line in out.splitlines()]
    assert len(answers) == len(values), f"{len(values)} lines in, {len(answers)} out"
    return answers


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def get(port, path, method="GET", body=None, headers=None):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=60 * SLOW)
    try:
        c.request(method, path, body, headers or {})
        r = c.getresponse()
        return r.status, r.read()
    finally:
        c.close()


@contextlib.contextmanager
def serving(*args, model=DEMO, env=None):
    """A server on a free port; yields (process, port)."""
    port = free_port()
    log = tempfile.TemporaryFile("w+")
    p = subprocess.Popen([PAGODA, "serve", "--model", model, "--port", str(port), *args],
                         stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                         env={**os.environ, **(env or {})})
    try:
        for _ in range(600 * SLOW):
            with contextlib.suppress(OSError):
                if get(port, "/health")[0] == 200:
                    break
            assert p.poll() is None, "the server ended: " + (log.seek(0) or log.read()[-500:])
            time.sleep(0.05)
        p.log = log
        yield p, port
    finally:
        if p.poll() is None:
            p.terminate()
            try:
                p.wait(20 * SLOW)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        log.close()


# --- usage

@case
def version_and_help():
    assert run("--version")[0].startswith("pagoda ")
    overview = run("--help")[0]
    for command in ("serve", "chat", "generate", "predict", "bench", "eval", "inspect", "tokenize", "render",
                    "logits"):
        assert command in overview
        assert f"usage: pagoda {command}" in run(command, "--help")[0]


@case
def wrong_usage_is_status_2_and_one_sentence():
    for args, text in [(["serv"], "did you mean `pagoda serve`?"),
                       (["serve", "--modle", "x"], "did you mean --model?"),
                       (["serve", "--port", "x"], "--port: \"x\" is not a whole number"),
                       (["inspect", "a", "b"], "unexpected argument \"b\""),
                       (["nothing-like-it"], "`pagoda --help` lists them")]:
        err = run(*args, rc=2)[1]
        assert text in err and err.count("\n") == 1, err


@case
def a_missing_model_is_status_1_and_one_sentence():
    for args in (["inspect", "/nowhere"], ["logits", "--model", "/nowhere"],
                 ["tokenize", "--model", "/nowhere"], ["generate", "--model", "/nowhere"],
                 ["serve", "--port", "0", "--model", "/nowhere"]):
        err = run(*args, rc=1)[1]
        assert "/nowhere" in err and err.count("\n") == 1, err
    for command in ("serve", "generate", "logits", "tokenize", "inspect", "chat", "render"):
        err = run(command, rc=1)[1]
        assert err.startswith("pagoda: ") and err.count("\n") == 1, err


NO_PLUGIN = {"PAGODA_CUDA_LIBRARY": "/nowhere/libpagoda_cuda.so"}


@case
def devices_says_what_is_usable_and_why_not():
    text = run("devices", env=NO_PLUGIN)[0].splitlines()
    assert len(text) == 2 and text[0].startswith("cpu "), text
    assert text[1].startswith("cuda ") and "not usable: " in text[1] and "/nowhere" in text[1], text
    cpu, cuda = json.loads(run("devices", "--json", env=NO_PLUGIN)[0])["devices"]
    assert cpu["usable"] and not cuda["usable"] and "/nowhere" in cuda["why"]
    assert json.loads(run("devices", "--json")[0])["devices"][0]["device"] == "cpu"
    assert "unexpected argument" in run("devices", "all", rc=2)[1]


@case
def a_device_that_is_not_there_is_status_1_and_one_sentence():
    for args in (["generate", "--prompt", "x"], ["inspect"], ["logits"], ["serve", "--port", "0"]):
        for device, text in (("cuda", "/nowhere/libpagoda_cuda.so"), ("cuda:2", "/nowhere"),
                             ("gpu", "expected auto, cpu, cuda"), ("cuda:two", "a number")):
            err = run(*args, "--model", need(DEMO), "--device", device, rc=1, env=NO_PLUGIN)[1]
            said = [line for line in err.splitlines() if line.startswith("pagoda: ")]
            assert len(said) == 1 and text in said[0], (args, device, err)


def emulated(**more):
    """Environment with the emulated GPU."""
    plugin = os.environ.get("PAGODA_SIMT")
    if not plugin or not os.path.exists(plugin):
        raise Skip("the emulated GPU is not built")
    return {"PAGODA_CUDA_LIBRARY": plugin, **more}


@case
def a_failing_device_is_status_1_and_one_sentence():
    args = ["generate", "--model", need(DEMO), "--device", "cuda", "--prompt", "x",
            "--max-tokens", "2"]
    for fault, text in (("mem_alloc:1", "cuda:0 refused "), ("mem_alloc:3", "GiB are free"),
                        ("host_alloc:1", "bytes of pinned memory"), ("upload:1", "in upload: "),
                        ("embed:1", "failed in embed: "), ("norm:1", "failed in norm: "),
                        ("attention:3", "failed in attention: "), ("gemm:9", "failed in gemm: "),
                        ("scratch:1", "out of memory"), ("download:1", "failed in download: ")):
        err = run(*args, rc=1, env=emulated(PAGODA_CUDA_FAULT=fault))[1]
        assert text in err and err.count("\n") == 1, (fault, err)


@case
def an_emulated_gpu_says_what_the_cpu_says():
    args = ["generate", "--model", need(DEMO), "--prompt", "The", "--max-tokens", "4",
            "--temperature", "0"]
    assert run(*args, "--device", "auto", env=emulated())[0] == run(*args, "--device", "cpu")[0]
    listed = run("devices", env=emulated())[0]
    assert "cuda:0   emulated device, compute capability " in listed, listed
    assert "no device cuda:9" in run(*args, "--device", "cuda:9", rc=1, env=emulated())[1]


@case
def auto_is_the_cpu_where_there_is_no_gpu():
    for device in ([], ["--device", "auto"], ["--device", "cpu"]):
        info = json.loads(run("inspect", "--json", *device, need(DEMO), env=NO_PLUGIN)[0])
        assert info["backend"].startswith("cpu: "), info["backend"]


@case
def the_committed_option_texts_are_current():
    assert run("--help-markdown")[0] == open("conf/OPTIONS.md", encoding="utf-8").read()
    assert run("--help-yaml")[0] == open("conf/pagoda.yaml", encoding="utf-8").read()


# --- line tools

@case
def tokenize_and_back():
    texts = ["", "Hello, world!", "naïve 東京 🙂\n\ttabs", "a" * 1000]
    plain = lines("tokenize", "--model", need(DEMO), "--no-special-tokens", values=texts)
    back = lines("tokenize", "--model", DEMO, "--decode", values=plain)
    assert back == texts, back
    same = lines("tokenize", "--model", DEMO + "/tokenizer.json", "--no-special-tokens",
                 values=texts)
    assert same == plain


@case
def tokenize_offsets():
    text = "naïve 東京 🙂 end"
    ids = lines("tokenize", "--model", need(DEMO), "--no-special-tokens", values=[text])[0]
    out = lines("tokenize", "--model", DEMO, "--no-special-tokens", "--offsets", values=[text])[0]
    assert out["ids"] == ids and len(out["offsets"]) == len(ids), out
    ends = [b for a, b in out["offsets"]]
    assert out["offsets"][0][0] == 0 and ends == sorted(ends) and ends[-1] == len(text), out


@case
def line_tools_go_on_after_bad_lines():
    raw = ['"ok"', "{not json", "42", '["list"]', '"\\ud800"', "nul", '"ok"']
    out = lines("tokenize", "--model", need(DEMO), "--no-special-tokens", values=raw, raw=True)
    assert out[0] == out[-1] and isinstance(out[0], list)
    assert all(list(o) == ["error"] for o in out[1:-1]), out
    raw = ["[1]", "[-1]", "[1e99]", "[1.5]", "[99999999]", "[]", "{}", "[true]", "[1]"]
    out = lines("logits", "--model", need(ARCH), values=raw, raw=True)
    assert out[0] == out[-1] and "logits" in out[0]
    assert all(list(o) == ["error"] for o in out[1:-1]), out


@case
def render_of_model_and_file():
    messages = [{"role": "user", "content": "Hi"}]
    v = {"messages": messages, "add_generation_prompt": True}
    text = lines("render", "--model", need(DEMO), values=[v])[0]
    assert isinstance(text, str) and "Hi" in text, text
    with tempfile.NamedTemporaryFile("w", suffix=".jinja") as f:
        f.write("{{ bos_token }}{% for m in messages %}[{{ m.content }}]{% endfor %}"
                "{% if boom %}{{ raise_exception('boom') }}{% endif %}")
        f.flush()
        out = lines("render", "--template", f.name,
                    values=[{"messages": messages, "bos_token": "<s>"}, {"boom": True}, 7])
    assert out[0] == "<s>[Hi]", out
    assert out[1] == {"error": out[1]["error"]} and "boom" in out[1]["error"], out
    assert "error" in out[2], out


# --- chat formats

def formats():
    with open("tests/chat/formats.json", encoding="utf-8") as f:
        return json.load(f)


@case
def chat_formats_give_the_recorded_prompts():
    f = formats()
    names = [line.split()[0].rstrip(":") for line in run("render", "--list")[0].splitlines()]
    assert sorted(names) == sorted(f["formats"]), set(names) ^ set(f["formats"])
    for name in names:
        values = [{**f["variables"], "messages": m} for m in (f["messages"], f["messages"][1:2])]
        got = lines("render", "--chat-template", name, values=values)
        want = f["formats"][name]
        assert got == [want["system, 3 turns"], want["1 turn"]], (name, got)


# Templates that model directories bring, and the format that stands in for them. What differs for
# a reason is said in the third place: a change of the one text.
LLAMA_CPP = DATA + "templates/llama.cpp-goldens-2024-10/templates/"
REAL = [
    ("chatml", LLAMA_CPP + "teknium-OpenHermes-2.5-Mistral-7B", str),
    ("qwen", LLAMA_CPP + "Qwen-Qwen2-7B-Instruct", str),
    ("phi3", LLAMA_CPP + "microsoft-Phi-3.5-mini-instruct", str),
    ("gemma", DATA + "templates/from-tokenizer-config/gemma-3-chat-file", str),
    ("deepseek_v3", LLAMA_CPP + "deepseek-ai-DeepSeek-V2.5", str.lstrip),
    ("deepseek_v2", LLAMA_CPP + "deepseek-ai-DeepSeek-Coder-V2-Instruct", str),
    ("deepseek_coder", LLAMA_CPP + "deepseek-ai-deepseek-coder-33b-instruct", str),
    ("cohere", LLAMA_CPP + "CohereForAI-c4ai-command-r-plus-default", str),
    # this one leaves the begin token to the tokenizer
    ("minicpm", LLAMA_CPP + "indischepartij-MiniCPM-3B-OpenHermes-2.5-v2", "<s>{}".format),
    # this one has no begin token in front of the first turn
    ("llama2", LLAMA_CPP + "TheBloke-FusionNet_34Bx2_MoE-AWQ", "<s>{}".format),
]


@case
def chat_formats_equal_the_models_own_templates():
    f = formats()
    for name, path, change in REAL:
        value = {**f["variables"], "messages": f["messages"]}
        own = lines("render", "--template", need(path + ".jinja"), values=[value])[0]
        got = lines("render", "--chat-template", name, values=[value])[0]
        assert got == change(own), (name, got, own)


def close(got, want, tolerance):
    """Largest difference relative to the largest magnitude."""
    assert len(got) == len(want), f"{len(got)} logits, wanted {len(want)}"
    scale = max(abs(x) for x in want)
    worst = max(abs(a - b) for a, b in zip(got, want)) / scale
    assert worst <= tolerance, f"off by {worst:.2e} of the largest"


GOLDENS = {"tinystories-656k-hf": "models/tinystories-656k-hf",
           "stories260K-hf-f32": "models/derived/stories260K-hf-f32"}


def goldens():
    for name, path in GOLDENS.items():
        with open(need(f"{DATA}models/goldens/{name}.dev.json"), encoding="utf-8") as f:
            yield DATA + path, json.load(f)["cases"]


@case
def logits_equal_the_goldens():
    for model, cases in goldens():
        for chunk in ("0", "3"):
            out = lines("logits", "--model", model, "--chunk", chunk,
                        values=[c["prompt_ids"] for c in cases])
            for got, c in zip(out, cases):
                close(got["logits"], c["first_logits"], 1e-4)


@case
def logits_of_all_positions():
    ids = [1, 2, 3, 4, 5]
    every = lines("logits", "--model", need(ARCH), "--all", values=[ids])[0]["logits"]
    assert len(every) == len(ids)
    last = lines("logits", "--model", ARCH, values=[ids[:n + 1] for n in range(len(ids))])
    for row, alone in zip(every, last):
        assert row == alone["logits"]


@case
def generate_equals_the_goldens():
    for model, cases in goldens():
        requests = [{"prompt": c["prompt_ids"], "max_tokens": 64, "temperature": 0}
                    for c in cases]
        out = lines("generate", "--model", model, "--json", values=requests)
        for got, c in zip(out, cases):
            if c.get("min_margin", 1) < 1e-3:
                continue
            ids = got["choices"][0]["token_ids"]
            want = c["greedy_ids"]
            assert ids[:len(want)] == want or want[:len(ids)] == ids, (ids, want)


@case
def prompt_logprobs_equal_the_goldens():
    for model, cases in goldens():
        requests = [{"prompt": c["prompt_ids"], "max_tokens": 1, "temperature": 0, "echo": True,
                     "logprobs": 1} for c in cases]
        out = lines("generate", "--model", model, "--json", values=requests)
        for got, c in zip(out, cases):
            want = [x for x in c["prompt_logprobs"] if x is not None]
            have = got["choices"][0]["logprobs"]["token_logprobs"][1:len(want) + 1]
            assert all(abs(a - b) < 1e-3 for a, b in zip(have, want)), (have, want)


@case
def generate_text_and_json():
    args = ["generate", "--model", need(DEMO), "--max-tokens", "8", "--temperature", "0"]
    text = run(*args, "--prompt", "The")[0]
    piped = run(*args, text="The")[0]
    assert text == piped and len(text) > 1
    whole = json.loads(run(*args, "--json", "--prompt", "The")[0])
    assert whole["choices"][0]["text"] + "\n" == text
    assert len(whole["choices"][0]["token_ids"]) == whole["usage"]["completion_tokens"]
    out = lines("generate", "--model", DEMO, "--json",
                values=["no object", {"prompt": "x", "temperature": -1}, {"prompt": "x", "n": 2,
                                                                          "max_tokens": 2}])
    assert "error" in out[0] and "temperature" in out[1]["error"], out
    assert len(out[2]["choices"]) == 2


@case
def inspect_text_and_json():
    text = run("inspect", need(ARCH))[0]
    info = json.loads(run("inspect", "--json", ARCH)[0])
    for given, math in (("auto", "f32"), ("exact", "f32"), ("native", "f16")):
        quant = ("--device", "cpu", "--quant-math", given, "tests/quant/gptq-b4-g32")
        assert json.loads(run("inspect", "--json", *quant)[0])["quant_math"] == math
        assert "quant math" in run("inspect", *quant)[0] and "quant_math" not in info
    assert info["family"] in text and info["n_params"] > 0
    with tempfile.TemporaryDirectory() as d:  # config.json alone
        shutil.copy("tests/archs/configs/llama-7b.json", os.path.join(d, "config.json"))
        assert "6738415616" in run("inspect", d)[0]
        assert json.loads(run("inspect", "--json", d)[0])["tensors"] == []


@case
def perplexity_equals_the_reference():
    with open("tests/golden/ppl.json", encoding="utf-8") as f:
        cases = json.load(f)["cases"]
    for c in cases:
        if c["tokens"] > (1000 if SLOW > 1 else 10**9 if os.environ.get("PAGODA_LONG") else 25000):
            continue  # the whole text takes a minute
        out = run("eval", "ppl", "--model", need(DATA + c["model"]), "--file",
                  need(DATA + c["text"]), "--limit", str(c["tokens"]), "--context",
                  str(c["context"]), "--stride", str(c["stride"]), "--json")[0]
        got = json.loads(out)
        assert abs(got["perplexity"] / c["perplexity"] - 1) < 1e-4, (got, c)
        assert got["tokens"] == c["tokens"], (got, c)


@case
def pages_in_eight_bits_keep_perplexity():
    base = ["eval", "ppl", "--model", need(DATA + "models/tinystories-656k-hf"), "--file",
            need(DATA + "corpora/text/tinyshakespeare.txt"), "--dtype", "f32", "--limit", "4000",
            "--context", "512", "--stride", "256", "--json"]
    exact, int8, fp8 = (json.loads(run(*base, "--kv-cache-dtype", kv)[0])["perplexity"]
                        for kv in ("f32", "int8", "fp8"))
    assert 0 < abs(int8 / exact - 1) < 5e-3 and 0 < abs(fp8 / exact - 1) < 5e-3, (exact, int8, fp8)
    err = run("eval", "ppl", "--model", DEMO, "--kv-cache-dtype", "int4", rc=2)[1]
    assert '--kv-cache-dtype: "int4" is not auto|f32|bf16|int8|fp8' in err, err


@case
def quantised_weights_keep_perplexity():
    base = ["eval", "ppl", "--model", DEMO, "--file", "README.md", "--limit", "3000", "--context",
            "512", "--stride", "512", "--json", "--kv-cache-dtype", "f32"]
    plain, int8, int4 = (json.loads(run(*base, "--quantize", q)[0])["perplexity"]
                         for q in ("none", "int8", "int4"))
    assert 0 < abs(int8 / plain - 1) < 5e-3 and 0 < abs(int4 / plain - 1) < 0.05, (plain, int8, int4)
    text = run("inspect", DEMO, "--quantize", "int4")[0]
    told = json.loads(run("inspect", DEMO, "--quantize", "int4", "--json")[0])
    assert "quantised to int4" in text and told["quantize"]["worst"]["name"] in text
    kinds = told["quantize"]["kinds"]
    assert kinds["head"]["dtype"] == "int8" and kinds["qkv"]["dtype"] == "int4", kinds
    assert kinds["head"]["relative_rms"] < 0.02 < kinds["qkv"]["relative_rms"] < 0.1, kinds
    whole = json.loads(run("inspect", DEMO, "--json")[0])
    assert told["memory"]["weights"] < 0.6 * whole["memory"]["weights"] and "quantize" not in whole
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write("quantize: int8\n")
        f.flush()
        out = run("generate", "--config", f.name, "--model", DEMO, "--prompt", "The", "--max-tokens",
                  "4", "--temperature", "0")[0]
        assert len(out) > 1
    err = run("inspect", "tests/quant/gptq-b4-g32", "--quantize", "int8", rc=1)[1]
    assert "is quantised already (int4)" in err, err


@case
def eval_refuses_what_it_cannot_measure():
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
        args = ["eval", "ppl", "--model", need(DEMO), "--file", f.name]
        assert "has 0 tokens" in run(*args, rc=1)[1]
        f.write("The quick brown fox jumps over the lazy dog. " * 20)
        f.flush()
        text = run(*args, "--context", "64", "--stride", "32")[0]
        assert text.startswith("perplexity "), text
        assert "--stride 65 is more than the context" in run(*args, "--context", "64", "--stride",
                                                             "65", rc=1)[1]
        assert "--context 9999999" in run(*args, "--context", "9999999", rc=1)[1]
    assert "eval needs a word" in run("eval", rc=1)[1]
    assert "/nowhere" in run("eval", "ppl", "--model", DEMO, "--file", "/nowhere", rc=1)[1]


@case
def a_stop_that_is_a_token_ends_the_answer():
    with tempfile.TemporaryDirectory() as d:
        for name, stop in (("one", "<|im_start|>"), ("none", "never said")):
            with open(f"{d}/{name}.jinja", "w", encoding="utf-8") as f:
                f.write('{#- {"stop": ["%s"]} -#}{{ messages[0].content }}' % stop)
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3,
                "logit_bias": {"1": 100}, "temperature": 0, "return_token_ids": True}
        for name, ids, why in (("one", [1], "stop"), ("none", [1, 1, 1], "length")):
            with serving("--register-path", d, "--chat-template", name) as (_, port):
                got = ask(port, "/v1/chat/completions", body)[1]["choices"][0]
                assert (got["token_ids"], got["finish_reason"]) == (ids, why), got
                assert got["stop_reason"] is None and got["message"]["content"] == "", got


@case
def a_format_may_leave_special_tokens_to_the_tokenizer():
    hi = {"messages": [{"role": "user", "content": "Hi"}]}
    with serving("--engine", "mock", "--chat-template", "chatglm",
                 model=need(DATA + "tokenizers/chatglm-6b")) as (_, port):
        assert ask(port, "/tokenize", hi)[1]["tokens"] == [7950, 130001, 130004]  # [gMASK] <sop>
        usage = ask(port, "/v1/chat/completions", {**hi, "max_tokens": 1})[1]["usage"]
        assert usage["prompt_tokens"] == 3, usage


# --- files and flags of other programs

@contextlib.contextmanager
def mindformers(**changes):
    """A predict YAML for the demo model; changes: what its keys are to say instead."""
    with open(need(f"{DEMO}/config.json"), encoding="utf-8") as f:
        values = {**json.load(f), **changes}
    with open("tests/conf/predict_llama.yaml", encoding="utf-8") as f:
        text = f.read()
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write(text)
        f.flush()
        yield f.name


@case
def a_predict_file_of_mindformers_serves():
    with mindformers() as path:
        with serving("--config", path) as (p, port):
            info = json.loads(get(port, "/server_info")[1])
            assert info["max_model_len"] == 256 and info["weight_dtype"] == "f16", info
            body = {"prompt": "The stars", "ignore_eos": True}
            answers = [ask(port, "/v1/completions", body)[1] for _ in range(2)]
            first, again = (a["choices"][0]["text"] for a in answers)
            assert first == again, "do_sample: False is greedy"
            assert answers[0]["usage"]["total_tokens"] == 40, answers[0]["usage"]
            p.log.seek(0)
            log = p.log.read()
        assert "line 76: model.model_config.a_key_of_tomorrow: not known" in log, log
        assert "device_target: this build computes on the CPU" in log, log
        assert "trainer" not in log, log
        err = run("serve", "--config", path, "--model", DEMO, "--port", "0", "--options",
                  "parallel_config.model_parallel=2", rc=2)[1]
        assert "--options parallel_config.model_parallel: is 2, but tensor parallelism" in err, err
        with serving("--config", path, "--options", "model.model_config.seq_length=128",
                     "max-num-seqs=3") as (_, port):
            assert json.loads(get(port, "/server_info")[1])["max_model_len"] == 128
    with serving("--config", "tests/conf/predict_new.yaml") as (_, port):
        info = json.loads(get(port, "/server_info")[1])
        assert info["weight_dtype"] == "bf16" and info["model"] == "demo-model", info


@case
def a_predict_file_for_another_model_is_refused():
    for changes, text in [({"num_hidden_layers": 7}, "model.model_config.num_layers is 7, but "
                           "num_hidden_layers in conf/demo-model/config.json is 6"),
                          ({"rope_theta": 500000}, "model.model_config.theta is 500000, but")]:
        with mindformers(**changes) as path:
            err = run("predict", "--config", path, "--load_checkpoint", DEMO, "--predict_data", "x",
                      rc=1)[1]
            assert text in err and f"pagoda: {path}, line" in err, err


@case
def predict_prints_what_mindformers_prints():
    with mindformers() as path, tempfile.NamedTemporaryFile("w", suffix=".txt") as data:
        data.write("The stars\n\n  What is\n")
        data.flush()
        args = ["predict", "--config", path, "--load_checkpoint", DEMO, "--run_mode", "predict"]
        one = json.loads(run(*args, "--predict_data", "The stars")[0])
        two = json.loads(run(*args, "--predict_data", data.name, "--predict_batch_size", "1")[0])
        assert list(one) == ["text_generation_text"] and len(two["text_generation_text"]) == 2
        assert one["text_generation_text"][0] == two["text_generation_text"][0]
        assert two["text_generation_text"][1].startswith("What is "), two
        err = run(*args, "--predict_data", "x", "--adapter_id", "none", rc=1)[1]
        assert "none" in err, err
    assert "--predict-data" in run("predict", "--load_checkpoint", DEMO, rc=1)[1]


@case
def predict_answers_with_an_adapter():
    model = need(DATA + "models/tinystories-656k-hf")
    lora = need(DATA + "adapters/derived-tinystories-656k/lora-a-r4")
    args = ["predict", "--load_checkpoint", model, "--predict_data", "Once upon a time",
            "--temperature", "0", "--max-new-tokens", "16"]
    base = json.loads(run(*args)[0])["text_generation_text"]
    named = json.loads(run(*args, "--lora", f"a={lora}", "--adapter_id", "a")[0])
    always = json.loads(run(*args, "--adapter", lora)[0])
    assert named == always and named["text_generation_text"] != base, (base, named, always)


@case
def names_of_lmdeploy_are_taken():
    with serving("--session_len", "100", "--max_batch_size", "2", "--cache_max_entry_count", "0.01",
                 "--enable_prefix_caching", "--max-prefill-token-num", "64", "--quant-policy", "0",
                 "--tp", "1", "--model_format", "hf", "--model-name", "other") as (_, port):
        for path in ("/server_info", "/v1/server_info"):
            info = json.loads(get(port, path)[1])
            assert (info["max_model_len"], info["max_num_seqs"]) == (100, 2), info
            assert info["max_num_batched_tokens"] == 64 and info["prefix_cache"] is True, info
            assert info["model"] == "other" and info["kv_pages"] * 16 < 10**6, info
    for args, text in [(["--tp", "2"], "tensor parallelism is not there yet"),
                       (["--quant_policy=4"], "--kv-cache-dtype: \"4\" is not auto|f32|bf16|int8|fp8"),
                       (["--rope-scaling-factor", "2.5"], "config.json"),
                       (["--cache_block_seq_len", "64"], "16 tokens")]:
        err = run("serve", "--model", DEMO, "--port", "0", *args, rc=2)[1]
        assert text in err and err.count("\n") == 1, err
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write("session_len: 77\ntp: 2\n")
        f.flush()
        err = run("serve", "--config", f.name, rc=2)[1]
        assert f"{f.name}, line 2: --tp: 2 is not accepted" in err, err


@case
def chat_takes_the_flags_of_xtuner():
    talk = run("chat", DEMO, "--prompt-template", "vicuna", "--system-template", "moss_sft",
               "--bot-name", "Ada", "--max-new-tokens", "8", "--temperature", "0.1", "--top-k",
               "40", "--top-p", "0.75", "--repetition-penalty", "1.1", "--seed", "1",
               "--stop-words", "</s>", "--torch-dtype", "fp32",
               text="hello\nRESET\nhello\nEXIT\nnever said\n")[0]
    assert "forgotten" in talk, talk
    values = [{"messages": [{"role": "user", "content": "Q"}], "add_generation_prompt": True}]
    for name, text in (("vicuna", "USER: Q ASSISTANT:"), ("glm4", "[gMASK]<sop><|user|>\nQ<|")):
        got = lines("render", "--prompt-template", name, values=values)[0]
        assert got.startswith(text), got
    for args, text in [(["--bits", "4"], "quantised checkpoint"),
                       (["--prompt-template", "no-such"], "no-such"),
                       (["--system-template", "no-such"], "alpaca"),
                       (["--with-plugins", "solve"], "plug-ins")]:
        p = subprocess.run([PAGODA, "chat", DEMO, *args], input="hi\n", capture_output=True,
                           text=True, timeout=60 * SLOW)
        assert p.returncode != 0 and text in p.stderr, (args, p.stderr)


# --- the server

def ask(port, path, body):
    status, answer = get(port, path, "POST", json.dumps(body), {"Content-Type": "application/json"})
    return status, json.loads(answer)


@contextlib.contextmanager
def plain_model(**config):
    """The demo model's directory without its chat template; config.json says what is given."""
    with tempfile.TemporaryDirectory() as d:
        for name in ("model.safetensors", "tokenizer.json"):
            os.symlink(os.path.abspath(need(f"{DEMO}/{name}")), f"{d}/{name}")
        with open(f"{DEMO}/config.json", encoding="utf-8") as f:
            was = json.load(f)
        with open(f"{d}/config.json", "w", encoding="utf-8") as f:
            json.dump({**was, **config}, f)
        yield d


def gguf(path, pairs):
    """Write a GGUF file of metadata alone: texts, whole numbers, lists of texts or floats."""
    def text(s):
        b = s.encode()
        return struct.pack("<Q", len(b)) + b

    def value(v):
        if isinstance(v, str):
            return struct.pack("<I", 8) + text(v)
        if isinstance(v, int):
            return struct.pack("<II", 4, v)
        kind = 8 if isinstance(v[0], str) else 6
        items = b"".join(text(x) if kind == 8 else struct.pack("<f", x) for x in v)
        return struct.pack("<IIQ", 9, kind, len(v)) + items

    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)))
        f.write(b"".join(text(k) + value(v) for k, v in pairs.items()))


@case
def a_gguf_file_brings_its_template():
    tokens = ["<unk>", "<s>", "</s>", "a", "b"]
    with tempfile.TemporaryDirectory() as d:
        gguf(d + "/m.gguf", {
            "general.architecture": "llama", "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": [0.0] * len(tokens),
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.chat_template": "{{ bos_token }}[{{ messages[0].content }}]{{ eos_token }}"})
        v = {"messages": [{"role": "user", "content": "Hi"}]}
        assert lines("render", "--model", d + "/m.gguf", values=[v]) == ["<s>[Hi]</s>"]
        assert lines("render", "--model", d + "/m.gguf", "--chat-template", "ziya",
                     values=[v]) == ["<human>:Hi\n"]


@case
def a_model_without_template_takes_a_format():
    hi = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    with plain_model() as d:
        with serving("--engine", "mock", model=d) as (_, port):
            status, answer = ask(port, "/v1/chat/completions", hi)
            assert status == 400 and "--chat-template NAME" in answer["error"]["message"], answer
        with serving("--chat-template", "vicuna", model=d) as (_, port):
            status, answer = ask(port, "/apply-template", hi)
            assert status == 200 and answer["prompt"].endswith(" USER: Hi ASSISTANT:"), answer
            assert ask(port, "/v1/chat/completions", hi)[0] == 200
        err = run("serve", "--engine", "mock", "--model", d, "--port", "0", "--chat-template",
                  "vicunja", rc=1)[1]
        assert "vicunja" in err and "alpaca, baichuan" in err and err.count("\n") == 1, err


@case
def the_family_names_the_format():
    """By model_type of config.json, or by the `chat` block of a family file."""
    hi = {"messages": [{"role": "user", "content": "Hi"}]}
    with plain_model(model_type="moss") as d:
        with serving("--engine", "mock", model=d) as (_, port):
            assert ask(port, "/apply-template", hi)[1]["prompt"] == "<|Human|>: Hi<eoh>\n<|MOSS|>:"
    with plain_model(architectures=["OursForCausalLM"], model_type="ours") as d:
        with open(f"{d}/ours.json", "w", encoding="utf-8") as f:
            json.dump({"schema": 1, "family": "ours", "extends": "llama",
                       "match": {"architectures": ["OursForCausalLM"]},
                       "chat": {"template": "ours"}}, f)
        with open(f"{d}/ours.jinja", "w", encoding="utf-8") as f:
            f.write("Q: {{ messages[0].content }} A:")
        with tempfile.TemporaryDirectory() as more:
            for name in ("ours.json", "ours.jinja"):
                os.rename(f"{d}/{name}", f"{more}/{name}")
            with serving("--register-path", more, model=d) as (_, port):
                assert ask(port, "/apply-template", hi)[1]["prompt"] == "Q: Hi A:"


SPROCKET = {  # the layers of LLaMA under names that nobody has: q, k and v are one tensor, k first
    "schema": 1, "family": "sprocket",
    "match": {"architectures": ["SprocketModel"], "model_type": ["sprocket"],
              "when": "has('cogs')"},
    "vars": {"H": ["size.width"], "L": ["size.depth"], "nh": ["cogs"], "nkv": ["pins", "=cogs_or"],
             "cogs_or": ["cogs"], "hd": ["=H/nh"], "ff": ["=H + bulge"], "bulge": ["bulge", "=0"],
             "V": ["words"], "ctx": ["reach"], "eps": ["eps", "=1e-5"], "base": ["base", "=10000"]},
    "embed": {"tok": "rim.weight"},
    "residual": {"kind": "pre"},
    "norm": {"kind": "rms", "eps": "eps"},
    "norms": {"attn_in": "ring.{i}.oil.a", "mlp_in": "ring.{i}.oil.b"},
    "packs": {"spokes": {"tensor": "ring.{i}.spokes", "rows": ["nh + 2*nkv", "hd"], "axis": 0,
                         "parts": {"k": ["0", "nkv"], "v": ["nkv", "2*nkv"],
                                   "q": ["2*nkv", "nh + 2*nkv"]}}},
    "attn": {"kind": "gqa", "q": "@spokes.q", "k": "@spokes.k", "v": "@spokes.v",
             "o": "ring.{i}.hub", "scale": "hd**-0.5", "mask": "causal"},
    "rope": {"style": "half", "dim": "hd", "theta": "base"},
    "mlp": [{"kind": "glu", "act": "silu", "gate": "ring.{i}.tooth.g", "up": "ring.{i}.tooth.u",
             "down": "ring.{i}.tooth.d"}],
    "final": {"norm": "oil.weight", "head": "gear.weight"},
    "tokenizer": {"file": "sprocket-tokenizer.json"},
    "chat": {"template": "sprocket"},
}


def read_tensors(path):
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        head, data = json.loads(f.read(n)), f.read()
    head.pop("__metadata__", None)
    return {k: (t["dtype"], t["shape"], data[t["data_offsets"][0]:t["data_offsets"][1]])
            for k, t in head.items()}


def write_tensors(path, tensors):
    head, data = {}, b""
    for k, (dtype, shape, raw) in tensors.items():
        at = len(data)
        data += raw
        head[k] = {"dtype": dtype, "shape": shape, "data_offsets": [at, len(data)]}
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + data)


@contextlib.contextmanager
def sprocket():
    """A model of a made-up architecture, which is llama-gqa; and the directory that says so."""
    old = read_tensors(f"{ARCH}/model.safetensors")
    with open(f"{ARCH}/config.json", encoding="utf-8") as f:
        c = json.load(f)
    new = {"rim.weight": old["model.embed_tokens.weight"], "oil.weight": old["model.norm.weight"],
           "gear.weight": old["lm_head.weight"]}
    names = {"input_layernorm": "oil.a", "post_attention_layernorm": "oil.b",
             "self_attn.o_proj": "hub", "mlp.gate_proj": "tooth.g", "mlp.up_proj": "tooth.u",
             "mlp.down_proj": "tooth.d"}
    for i in range(c["num_hidden_layers"]):
        for was, now in names.items():
            new[f"ring.{i}.{now}"] = old[f"model.layers.{i}.{was}.weight"]
        k, v, q = (old[f"model.layers.{i}.self_attn.{m}_proj.weight"] for m in "kvq")
        rows = k[1][0] + v[1][0] + q[1][0]
        new[f"ring.{i}.spokes"] = (k[0], [rows, k[1][1]], k[2] + v[2] + q[2])
    config = {"architectures": ["SprocketModel"], "model_type": "sprocket",
              "size": {"width": c["hidden_size"], "depth": c["num_hidden_layers"]},
              "cogs": c["num_attention_heads"], "pins": c["num_key_value_heads"],
              "bulge": c["intermediate_size"] - c["hidden_size"], "words": c["vocab_size"],
              "reach": c["max_position_embeddings"], "eps": c["rms_norm_eps"],
              "bos_token_id": c["bos_token_id"], "eos_token_id": c["eos_token_id"]}
    with tempfile.TemporaryDirectory() as model, tempfile.TemporaryDirectory() as more:
        write_tensors(f"{model}/model.safetensors", new)
        with open(f"{model}/config.json", "w", encoding="utf-8") as f:
            json.dump(config, f)
        with open(f"{more}/sprocket.json", "w", encoding="utf-8") as f:
            json.dump(SPROCKET, f)
        with open(f"{more}/sprocket.jinja", "w", encoding="utf-8") as f:
            f.write("<{{ messages[0].content }}>")
        os.symlink(os.path.abspath(f"{ARCH}/tokenizer.json"), f"{more}/sprocket-tokenizer.json")
        yield model, more


@case
def a_new_architecture_is_served_from_a_directory():
    """Layers, chat format and tokenizer from --register-path; the answers are llama-gqa's."""
    with open(f"{ARCH}/golden.json", encoding="utf-8") as f:
        golden = json.load(f)["cases"]
    asked = [{"prompt": g["prompt"], "max_tokens": 32, "temperature": 0, "ignore_eos": True,
              "logprobs": 3} for g in golden]
    hi = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    with serving("--dtype", "f32", model=ARCH) as (_, port):
        want = [ask(port, "/v1/completions", q) for q in asked]
    with sprocket() as (model, more):
        err = run("inspect", "--model", model, rc=1)[1]
        assert "SprocketModel" in err and "--register-path" in err, err
        assert "sprocket" in run("inspect", "--model", model, "--register-path", more)[0]
        with serving("--dtype", "f32", "--register-path", more, model=model) as (_, port):
            for q, (status, was) in zip(asked, want):
                assert status == 200, was
                status, now = ask(port, "/v1/completions", q)
                assert status == 200, now
                assert now["choices"] == was["choices"], (now["choices"], was["choices"])
                assert now["usage"]["completion_tokens"] == 32, now["usage"]
            assert ask(port, "/apply-template", hi)[1]["prompt"] == "<Hi>"
            assert ask(port, "/v1/chat/completions", hi)[0] == 200


def refused(model, more):
    return run("generate", "--model", model, "--register-path", more, text="x\n", rc=1)[1]


@case
def a_bad_registered_file_is_named_with_its_key():
    bad = [  # keys down to the change, its value, what the one line of the error says
        ("attn.scael", 1, 'unknown key "attn.scael"'),
        ("packs.spokes.row", [], 'unknown key "packs.spokes.row"'),
        ("match.architectures", "Sprocket", '"match.architectures" has a value of the wrong type'),
        ("attn.scale", "hd**", 'attn.scale: expression "hd**": unexpected end at column 5'),
        ("attn.scale", "breadth", 'attn.scale: expression "breadth": no variable "breadth"'),
        ("attn.q", "@spokes.w", "attn.q: no such pack and part: @spokes.w"),
        ("rope.style", "spiral", 'rope.style: "spiral" is not supported; known: half, pair'),
        ("residual.kind", "loop", 'residual.kind: "loop" is not supported'),
        ("extends", "crank", 'extends "crank", which is not known'),
        ("tokenizer.file", "../t", 'tokenizer.file: "../t" is not the name of a file'),
        ("tokenizer.file", "t.json", "tokenizer.file: there is no"),
        ("tokenizer.file", 7, "tokenizer.file must be a text"),
    ]
    with sprocket() as (model, more):
        path = f"{more}/sprocket.json"
        for keys, value, says in bad:
            d = json.loads(json.dumps(SPROCKET))
            *down, last = keys.split(".")
            functools.reduce(dict.__getitem__, down, d)[last] = value
            with open(path, "w", encoding="utf-8") as f:
                json.dump(d, f)
            err = refused(model, more)
            assert path in err and says in err and err.count("\n") == 1, (says, err)
        with open(path, "w", encoding="utf-8") as f:
            f.write('{"schema": 1,\n "family": }')
        err = refused(model, more)
        assert path in err and "line 2" in err, err
        d = json.loads(json.dumps(SPROCKET))
        d["attn"]["o"] = "ring.{i}.axle"
        with open(path, "w", encoding="utf-8") as f:
            json.dump(d, f)
        err = refused(model, more)
        assert 'tensor "ring.0.axle" is missing (family sprocket)' in err, err


@case
def prompts_are_taken_whole_where_a_model_needs_it():
    """chatglm-6b's prompt tokens see later ones: steps of 8 tokens are widened, the goldens hold,
    and what is computed together or for two choices is what each gets alone."""
    model = "tests/archs/chatglm-6b"
    with open(f"{model}/golden.json", encoding="utf-8") as f:
        golden = json.load(f)["cases"]
    args = ("--dtype", "f32", "--max-num-batched-tokens", "8", "--max-num-seqs", "8",
            "--prefill-chunk", "4")
    with serving(*args, model=model) as (_, port):
        for g in golden:
            status, a = ask(port, "/v1/completions", {"prompt": g["prompt"], "max_tokens": 0,
                                                      "echo": True, "logprobs": 0})
            assert status == 200, a
            got = a["choices"][0]["logprobs"]["token_logprobs"]
            assert got[0] is None and len(got) == len(g["prompt"]), got
            for x, y in zip(got[1:], g["prompt_logprobs"]):
                assert abs(x - y) < 1e-3, (x, y)
        q = {"max_tokens": 32, "temperature": 0, "ignore_eos": True, "logprobs": 1}
        alone = [ask(port, "/v1/completions", {**q, "prompt": g["prompt"]})[1]["choices"][0]
                 for g in golden]
        both = ask(port, "/v1/completions", {**q, "prompt": [g["prompt"] for g in golden], "n": 2})
        assert both[0] == 200, both
        for c in both[1]["choices"]:
            want = alone[c["index"] // 2]
            assert (c["text"], c["logprobs"]) == (want["text"], want["logprobs"]), c


@case
def a_format_ends_the_answer():
    """The mock engine says "... no model is computed, ..."; the user's format stops there."""
    with tempfile.TemporaryDirectory() as d:
        with open(d + "/short.jinja", "w", encoding="utf-8") as f:
            f.write('{#- {"stop": [" is computed"]} -#}\n{{ messages[0].content }}')
        hi = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60}
        with serving("--engine", "mock", "--register-path", d, "--chat-template",
                     "short") as (_, port):
            got = ask(port, "/v1/chat/completions", hi)[1]["choices"][0]
            assert got["message"]["content"].endswith("no model"), got
            assert (got["finish_reason"], got["stop_reason"]) == ("stop", None), got
            got = ask(port, "/v1/chat/completions", {**hi, "stop": "engine"})[1]["choices"][0]
            assert got["stop_reason"] == "engine", got
            got = ask(port, "/v1/chat/completions", {**hi, "ignore_eos": True})[1]["choices"][0]
            assert got["finish_reason"] == "length", got
            got = ask(port, "/v1/completions",
                      {"prompt": "Hi", "max_tokens": 60})[1]["choices"][0]
            assert got["finish_reason"] == "length", got


@case
def serve_answers_and_stops():
    with serving() as (p, port):
        assert get(port, "/ready")[0] == 200
        status, body = get(port, "/v1/completions", "POST",
                           json.dumps({"prompt": "The", "max_tokens": 4}),
                           {"Content-Type": "application/json"})
        assert status == 200, body
        p.send_signal(signal.SIGTERM)
        assert p.wait(20 * SLOW) == 0


@case
def the_demo_model_gives_its_showcase_answers():
    """What the reference answered greedily in training's last step, through the chat API."""
    with open(need(f"{DEMO}/showcase.json"), encoding="utf-8") as f:
        showcase = json.load(f)
    assert len(showcase) >= 12
    with serving() as (_, port):
        for c in showcase:
            status, body = get(port, "/v1/chat/completions", "POST",
                               json.dumps({"messages": c["messages"], "temperature": 0,
                                           "max_tokens": 200}),
                               {"Content-Type": "application/json"})
            assert status == 200, body
            answer = json.loads(body)
            got = answer["choices"][0]
            assert got["message"]["content"] == c["answer"], (c["messages"][-1], got)
            assert got["finish_reason"] == "stop", got
            assert answer["usage"]["prompt_tokens"] == len(c["prompt_ids"]), answer["usage"]


@case
def a_busy_port_is_one_sentence():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = str(s.getsockname()[1])
        err = run("serve", "--model", need(DEMO), "--port", port, rc=1)[1]
    assert port in err and "in use" in err and err.count("\n") == 1, err


def slow_stream(port, tokens=4000):
    """Start a stream; returns its socket after the first bytes."""
    body = json.dumps({"prompt": "x", "max_tokens": tokens, "stream": True, "ignore_eos": True})
    s = socket.create_connection(("127.0.0.1", port), timeout=60 * SLOW)
    s.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
               f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
    assert b"200 OK" in s.recv(4096)
    return s


@case
def sigterm_drains_and_a_second_one_stops():
    with serving("--engine", "mock", "--mock-step", "10ms") as (p, port):
        with slow_stream(port, 100) as s:
            p.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            with contextlib.suppress(OSError):
                assert get(port, "/ready")[0] == 503
            text = b""
            while piece := s.recv(65536):
                text += piece
                if b"[DONE]" in text:
                    break
            assert b"[DONE]" in text, "the stream was cut"
        assert p.wait(20 * SLOW) == 0
    with serving("--engine", "mock", "--mock-step", "50ms") as (p, port):
        with slow_stream(port):
            p.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert p.poll() is None, "it did not wait for the stream"
            start = time.time()
            p.send_signal(signal.SIGTERM)
            assert p.wait(20 * SLOW) == 0
            assert time.time() - start < 5 * SLOW


@case
def a_failed_device_ends_streams_with_an_error_and_the_server_with_status_3():
    with serving("--engine", "mock", "--mock-step", "10ms", "--mock-fail", "20") as (p, port):
        with slow_stream(port) as s:
            text = b""
            while b'"error"' not in text and (piece := s.recv(65536)):
                text += piece
        assert b"the mock device failed at step 20" in text, text[-300:]
        status, body = get(port, "/health")
        assert status == 503 and b"unhealthy" in body, (status, body)
        assert p.wait(20 * SLOW) == 3


@case
def sighup_reads_the_keys_again():
    with tempfile.NamedTemporaryFile("w") as f:
        f.write("first-key-0123456789\n")
        f.flush()
        with serving("--engine", "mock", "--api-key-file", f.name) as (p, port):
            def status(key):
                return get(port, "/v1/models", headers={"Authorization": f"Bearer {key}"})[0]
            assert (status("first-key-0123456789"), status("second-key-0123456789")) == (200, 401)
            f.seek(0)
            f.truncate()
            f.write("second-key-0123456789\n")
            f.flush()
            p.send_signal(signal.SIGHUP)
            for _ in range(100 * SLOW):
                if status("second-key-0123456789") == 200:
                    break
                time.sleep(0.05)
            assert (status("first-key-0123456789"), status("second-key-0123456789")) == (401, 200)


@case
def a_config_file_and_the_environment_key():
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
        f.write("engine: mock\nserved-model-name: from-file\n")
        f.flush()
        os.environ["PAGODA_API_KEY"] = "key-of-the-environment"
        try:
            with serving("--config", f.name) as (_, port):
                assert get(port, "/v1/models")[0] == 401
                status, body = get(port, "/v1/models",
                                   headers={"Authorization": "Bearer key-of-the-environment"})
                assert status == 200 and json.loads(body)["data"][0]["id"] == "from-file", body
        finally:
            del os.environ["PAGODA_API_KEY"]


@case
def chat_and_bench_are_clients():
    with serving("--engine", "mock") as (_, port):
        url = f"http://127.0.0.1:{port}"
        answer = run("chat", "--url", url, "--message", "Hello", "--max-tokens", "20")[0]
        assert len(answer) > 5, answer
        talk = run("chat", "--url", url, "--max-tokens", "5", text="one\n/reset\ntwo\n/exit\nno\n")[0]
        assert "forgotten" in talk and len(talk.splitlines()) >= 3, talk
        row = json.loads(run("bench", "serve", "--url", url, "--requests", "8", "--concurrency",
                             "4", "--input-len", "16", "--output-len", "8", "--json")[0])
        assert row["requests"] == 8 and row["failed"] == 0, row
        assert row["prompt_tokens_mean"] == 16 and row["output_tokens_mean"] == 8, row
        row = json.loads(run("bench", "serve", "--url", url, "--requests", "8", "--rate", "200",
                             "--input-len", "16", "--output-len", "8", "--json")[0])
        assert row["failed"] == 0, row
    err = run("chat", "--url", url, "--message", "x", rc=1)[1]
    assert "cannot connect" in err, err


@case
def systemd_is_told():
    with tempfile.TemporaryDirectory() as d, \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(d + "/notify")
        s.settimeout(20 * SLOW)
        said = []

        def hear(word):
            while not any(word in m for m in said):
                said.append(s.recv(4096).decode())

        env = {"NOTIFY_SOCKET": d + "/notify", "WATCHDOG_USEC": "500000"}
        with serving("--engine", "mock", env=env) as (p, _):
            with open(f"/proc/{p.pid}/maps", encoding="utf-8") as maps:
                if "libsystemd" not in maps.read():
                    raise Skip("built without libsystemd")
            hear("READY=1")
            hear("WATCHDOG=1")
            p.send_signal(signal.SIGTERM)
            hear("STOPPING=1")


@case
def print_kernels_lists_every_op():
    out = run("serve", "--print-kernels")[0]
    assert "gemm" in out and "attention" in out, out


@case
def print_kernels_lists_every_op_of_a_device():
    with open("kernels/ops.def") as f:
        ops = re.findall(r"^OP\((\w+),", f.read(), re.M)
    out = run("serve", "--print-kernels", "--device", "cuda", env=emulated())[0]
    assert len(ops) > 10 and all(re.search(f"^{op} ", out, re.M) for op in ops), (ops, out)


@case
def a_library_for_products_is_for_gpus():
    args = ["logits", "--model", need(DEMO), "--gemm-library", "cublaslt"]
    _, err = run(*args, "--device", "cpu", text="[1]\n", rc=1)
    assert "gemm_library cublaslt is for GPUs, this runs on cpu" in err, err
    env = emulated(PAGODA_CUBLASLT_LIBRARY="/nowhere/lib.so")
    _, err = run(*args, "--device", "cuda", text="[1]\n", rc=1, env=env)
    assert "gemm_library cublaslt: no cuBLASLt: /nowhere/lib.so" in err, err


@case
def bench_of_a_device_has_lines():
    out = run("bench", "kernels", "--device", "cuda", "--op", "gemm bf16 m=1 n=1152",
              env=emulated())[0]
    assert "emulated" in out and re.search(r"^gemm bf16 m=1 n=1152 k=896 +\d", out, re.M), out


def main(names):
    passed = failed = skipped = 0
    for f in CASES:
        if names and not any(n in f.__name__ for n in names):
            continue
        try:
            f()
            passed += 1
        except Skip as why:
            skipped += 1
            print(f"skipped {f.__name__}: {why}")
        except Exception:
            failed += 1
            print(f"failed {f.__name__}:")
            traceback.print_exc(file=sys.stdout)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
