"""/v1/embeddings of the tiny models in tests/embeddings against sentence-transformers' vectors: alone,
in one batch, in chunks, as floats and base64, shortened; through the official client where it is
installed. Then what must be refused."""

import base64
import json
import math
import os
import pathlib
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Pagoda, run  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent / "embeddings"
MODELS = sorted(p.parent.name for p in ROOT.glob("*/golden.json"))
assert len(MODELS) >= 4, MODELS


def golden(name):
    return json.loads((ROOT / name / "golden.json").read_text())


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def close(got, want):
    assert len(got) == len(want), (len(got), len(want))
    assert cosine(got, want) > 0.99999, cosine(got, want)
    worst = max(abs(x - y) for x, y in zip(got, want))
    assert worst < 2e-5 * max(1, max(abs(y) for y in want)), worst


def ask(s, **body):
    status, _, text = s.request("POST", "/v1/embeddings", body)
    assert status == 200, (status, text)
    return json.loads(text)


def refused(s, param, **body):
    status, _, text = s.request("POST", "/v1/embeddings", body)
    e = json.loads(text)["error"]
    assert status == 400 and e["param"] == param, (status, e)


def model_case(name):
    def test():
        g = golden(name)
        with Pagoda(ROOT / name) as s:
            r = ask(s, input=g["texts"])
            assert [d["index"] for d in r["data"]] == list(range(len(g["texts"])))
            for d, want in zip(r["data"], g["vectors"]):
                close(d["embedding"], want)
            alone = [ask(s, input=t)["data"][0]["embedding"] for t in g["texts"]]
            assert alone == [d["embedding"] for d in r["data"]], "a batch changes results"
            for t, want in zip(g["texts"], g["short"]):
                close(ask(s, input=t, dimensions=8, normalize=True)["data"][0]["embedding"], want)
            packed = ask(s, input=g["texts"][0], encoding_format="base64")["data"][0]["embedding"]
            assert list(struct.unpack("<32f", base64.b64decode(packed))) == [
                struct.unpack("<f", struct.pack("<f", x))[0] for x in alone[0]]
            n = r["usage"]["prompt_tokens"]
            assert n == r["usage"]["total_tokens"] > len(g["texts"])
            one = ask(s, input=g["texts"][0], normalize=True)["data"][0]["embedding"]
            assert abs(sum(x * x for x in one) - 1) < 1e-5
    test.__name__ = "model_" + name.replace("-", "_")
    return test


def ids_are_taken():
    g = golden("bert-cls")
    with Pagoda(ROOT / "bert-cls") as s:
        _, _, text = s.request("POST", "/tokenize", {"prompt": g["texts"][0]})
        ids = json.loads(text)["tokens"]
        close(ask(s, input=ids)["data"][0]["embedding"], g["vectors"][0])
        both = ask(s, input=[ids, ids])["data"]
        assert both[0]["embedding"] == both[1]["embedding"]


def chunks_change_nothing():
    g = golden("qwen3-last")
    with Pagoda(ROOT / "qwen3-last") as a, \
            Pagoda(ROOT / "qwen3-last", "--max-num-batched-tokens", "7", "--max-num-seqs", "3") as b:
        for t in g["texts"]:
            assert ask(a, input=t)["data"] == ask(b, input=t)["data"]


def official_client():
    try:
        import openai
    except ImportError:
        print("    (the PyPI package openai is not installed: not tried)")
        return
    for name in MODELS:
        g = golden(name)
        with Pagoda(ROOT / name) as s:
            c = openai.OpenAI(base_url="http://127.0.0.1:%d/v1" % s.port, api_key="x", max_retries=0)
            r = c.embeddings.create(model=name, input=g["texts"])
            for d, want in zip(r.data, g["vectors"]):
                close(d.embedding, want)
            r = c.embeddings.create(model=name, input=g["texts"][0], dimensions=8, encoding_format="float")
            assert len(r.data[0].embedding) == 8
            c.close()


def refusals():
    with Pagoda(ROOT / "bert-cls") as s:
        refused(s, "input")
        refused(s, "input", input=[])
        refused(s, "input", input=[[]])
        refused(s, "input", input={"a": 1})
        refused(s, "input", input=["a", 3])
        refused(s, "input", input=[1000000])
        refused(s, "input", input=["a"] * 2049)
        refused(s, "input", input="cat " * 4000)
        refused(s, "dimensions", input="a", dimensions=0)
        refused(s, "dimensions", input="a", dimensions=33)
        refused(s, "encoding_format", input="a", encoding_format="int8")
        assert len(ask(s, input="cat " * 4000, truncate_prompt_tokens=-1)["data"]) == 1
        whole = ask(s, input="cat " * 4)  # the text's end is cut off, [CLS] and [SEP] stay
        cut = ask(s, input="cat " * 4000, truncate_prompt_tokens=whole["usage"]["prompt_tokens"])
        assert cut == whole
        for path, body in (("/v1/completions", {"prompt": "a"}),
                           ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})):
            status, _, text = s.request("POST", path, body)
            assert status == 400 and "encoder" in json.loads(text)["error"]["message"], text


if __name__ == "__main__":
    sys.exit(run([model_case(m) for m in MODELS] + [ids_are_taken, chunks_change_nothing, official_client, refusals]))
