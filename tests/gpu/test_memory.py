"""The memory plan on a card's memory: a model of 8B parameters in bf16 fits where there are 141 GB
and is refused, with the numbers and before anything is allocated, where there are 16.

Usage: test_memory.py [TEST...]; PAGODA names the program, PAGODA_CUDA_LIBRARY the emulated device,
whose memory is as large as it is told to be. Python 3 alone.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "api"))
from harness import run

PAGODA = os.environ.get("PAGODA", "build/pagoda")
H200 = 143771 << 20  # bytes of memory that such a card tells
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 2,
}


def tensors():
    hidden, ffn, kv, vocab = 4096, 14336, 1024, 128256
    yield "model.embed_tokens.weight", (vocab, hidden)
    for i in range(CONFIG["num_hidden_layers"]):
        p = f"model.layers.{i}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield p + name + ".weight", (hidden,)
        for name, rows in (("q", hidden), ("k", kv), ("v", kv), ("o", hidden)):
            yield f"{p}self_attn.{name}_proj.weight", (rows, hidden)
        yield p + "mlp.gate_proj.weight", (ffn, hidden)
        yield p + "mlp.up_proj.weight", (ffn, hidden)
        yield p + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocab, hidden)


def write_model(folder):
    """16 GB of weights that take no room on the disk: a file with a header and a hole."""
    header, at = {}, 0
    for name, shape in tensors():
        size = 2
        for n in shape:
            size *= n
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        f.truncate(8 + len(text) + at)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(CONFIG, f)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(os.path.join("conf", "demo-model", name), folder)
    return at


def pagoda(card_bytes, *args):
    """(status, output, seconds, most memory of its own in bytes)"""
    env = dict(os.environ, SIMT_DEVICE_BYTES=str(card_bytes))
    start = time.time()
    done = subprocess.Popen([PAGODA, *args], env=env, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    text = done.stdout.read().decode()
    _, code, used = os.wait4(done.pid, 0)
    done.returncode = os.waitstatus_to_exitcode(code)
    return done.returncode, text, time.time() - start, used.ru_maxrss << 10


def gib(text, line):
    """The size that a line of the plan begins with, in GiB."""
    found = re.search(rf"^  {re.escape(line)} +([\d.]+) (GiB|MiB)", text, re.M)
    assert found, (line, text)
    return float(found.group(1)) / (1 if found.group(2) == "GiB" else 1024)


def test_fits_141_gb():
    with tempfile.TemporaryDirectory() as folder:
        weights = write_model(folder)
        code, text, _, _ = pagoda(H200, "inspect", folder, "--device", "cuda", "--max-model-len",
                                  "8192")
    assert code == 0, text
    assert abs(gib(text, "weights") - weights / 2**30) < 0.1, text
    assert 1 < gib(text, "KV cache") < 130, text
    assert weights / 2**30 < gib(text, "total") < H200 / 2**30, text
    assert "of 140.4 GiB (the device's free memory)" in text, text


def refused(*args):
    with tempfile.TemporaryDirectory() as folder:
        weights = write_model(folder)
        code, text, seconds, memory = pagoda(12 << 30, args[0], folder, "--device", "cuda",
                                             *args[1:])
    assert code not in (0, None) and code > 0, (code, text)
    assert f"{weights / 2**30:.1f} GiB" in text and "12.0 GiB" in text, text
    assert memory < 512 << 20, f"{memory >> 20} MiB were used"
    assert seconds < 60, seconds
    return text


def test_refused_on_a_small_card():
    refused("serve", "--port", "0")


def test_inspect_says_so_too():
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder)
        _, text, _, _ = pagoda(12 << 30, "inspect", folder, "--device", "cuda")
    assert "12.0 GiB" in text, text


def test_16_gib_is_too_small_with_its_cache():
    """The weights alone would fit by a little."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(folder)
        code, text, _, memory = pagoda(16 << 30, "serve", folder, "--device", "cuda", "--port",
                                       "0", "--max-model-len", "131072", "--kv-cache-bytes",
                                       str(16 << 30))
    assert code > 0 and "16.0 GiB" in text and memory < 512 << 20, (code, text, memory)


if __name__ == "__main__":
    sys.exit(run([test_fits_141_gb, test_refused_on_a_small_card, test_inspect_says_so_too,
                  test_16_gib_is_too_small_with_its_cache]))
