"""Model directories and outputs that are not as they should be: each ends with exit status 1 and one
sentence that names the file, and leaves nothing under a name that looks whole.

    tests/cli/damage.py [CASE...]      PAGODA is the program to run
"""
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import cli
from cli import run

GPT2, SHARDED, LLAMA = "tests/archs/gpt2", "tests/archs/llama-f32-sharded", "tests/archs/llama-gqa"
GGUF = "tests/archs/gguf-gpt2/model.gguf"
SEED = int(os.environ.get("SEED", "1"))
CASES = []


def case(f):
    CASES.append(f)
    return f


def fails(*args, say, text=""):
    """One sentence that holds all of `say`."""
    err = run(*args, rc=1, text=text)[1]
    assert err.count("\n") == 1 and err.startswith("pagoda: "), f"{args}: {err}"
    for word in say:
        assert word in err, f"{args}: {err!r} lacks {word!r}"


def copy_of(model, d, name="m"):
    to = os.path.join(d, name)
    shutil.copytree(model, to)
    return to


@case
def paths_that_hold_no_model():
    with tempfile.TemporaryDirectory() as d:
        fails("inspect", d + "/none", say=["none", "no such"])
        fails("inspect", "/dev/null", say=["/dev/null", "neither a model directory nor a GGUF file"])
        fails("inspect", d, say=["config.json", "cannot open"])
        os.mkdir(d + "/config.json")
        fails("inspect", d, say=["config.json", "not a regular file"])
        os.mkdir(d + "/two")
        for name in "ab":
            shutil.copy(GGUF, f"{d}/two/{name}.gguf")
        fails("inspect", d + "/two", say=["2 GGUF models"])


@case
def weights_that_are_not_there():
    with tempfile.TemporaryDirectory() as d:
        sharded, m = copy_of(SHARDED, d, "sharded"), copy_of(GPT2, d)
        os.remove(sharded + "/model-00002-of-00003.safetensors")
        fails("inspect", sharded, say=["model-00002-of-00003.safetensors"])
        weights = m + "/model.safetensors"
        os.remove(weights)
        fails("logits", "--model", m, say=["no model.safetensors"])
        os.symlink("/nonexistent/x", weights)
        fails("inspect", m, say=["model.safetensors", "cannot open"])
        os.remove(weights)
        os.mkdir(weights)
        fails("inspect", m, say=["model.safetensors", "not a regular file"])
        os.rmdir(weights)
        with open(weights, "w", encoding="utf-8") as f:
            f.write("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
        fails("inspect", m, say=["model.safetensors", "pointer"])


@case
def the_config_of_another_family_names_a_tensor():
    with tempfile.TemporaryDirectory() as d:
        m = copy_of(GPT2, d)
        shutil.copy(LLAMA + "/config.json", m)
        fails("inspect", m, say=["model.layers.0.", "is missing", "llama"])


@case
def changed_bytes_give_one_sentence_or_nothing():
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as d:
        for model in (GPT2, GGUF, "tests/quant/gptq-b4-g32"):
            files = [model] if model.endswith("gguf") else [
                os.path.join(model, n) for n in ("config.json", "model.safetensors")]
            for path in files * 6:
                m = os.path.join(d, "m")
                shutil.rmtree(m, ignore_errors=True)
                os.makedirs(m) if path == model else shutil.copytree(model, m)
                with open(path, "rb") as f:
                    raw = bytearray(f.read())
                for _ in range(3):
                    raw[rng.randrange(min(len(raw), 3000))] = rng.choice(b'\0\xff9-"}')
                with open(os.path.join(m, os.path.basename(path)), "wb") as f:
                    f.write(raw[:rng.choice([len(raw), rng.randrange(len(raw))])])
                p = subprocess.run([cli.PAGODA, "logits", "--model", m], input=b"[1,2]\n",
                                   capture_output=True, timeout=60 * cli.SLOW, check=False)
                assert p.returncode in (0, 1) and len(p.stderr.splitlines()) <= 1, (path, p)


@case
def convert_leaves_whole_models_alone():
    with tempfile.TemporaryDirectory() as d:
        m = copy_of(GPT2, d)
        fails("convert", m, "--out", m + "/", say=["--out"])
        fails("convert", GPT2, "--out", m, say=["config.json", "there is a model here already"])
        fails("convert", GPT2, "--out", d + "/a/b/c", say=["cannot make the directory"])
        run("make-tiny", "llama", "--out", d + "/tiny")
        fails("make-tiny", "llama", "--out", d + "/tiny", say=["there is a model here already"])


@case
def an_interrupted_convert_leaves_no_config():
    with tempfile.TemporaryDirectory() as d:
        run("make-tiny", "llama", "--out", d + "/m", "--config-keys",
            '{"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 8}')
        p = subprocess.Popen([cli.PAGODA, "convert", d + "/m", "--out", d + "/out"],
                             stderr=subprocess.DEVNULL)
        while not (os.path.isdir(d + "/out") and os.listdir(d + "/out")) and p.poll() is None:
            time.sleep(0.002)
        p.send_signal(signal.SIGINT)
        if p.wait(60 * cli.SLOW) == 0:
            return  # it was quicker
        names = os.listdir(d + "/out")
        assert "config.json" not in names and "model.safetensors" not in names, names


@case
def encoders_say_what_they_make():
    bert = "tests/embeddings/bert-mean"
    fails("generate", "--model", bert, "--prompt", "x", say=["encoder", "/v1/embeddings"])
    fails("eval", "ppl", "--model", bert, "--file", "README.md", say=["encoder"])


if __name__ == "__main__":
    cli.CASES[:] = CASES
    sys.exit(cli.main(sys.argv[1:]))
