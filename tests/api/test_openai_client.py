"""The official Python client against the server. Needs the PyPI package openai; skips without."""

import asyncio
import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Server, run  # noqa: E402

try:
    import openai
except ImportError:
    print("SKIP: the PyPI package openai is not installed")
    sys.exit(77)

TEXT = "hello world STOP one two three"
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "a"}]


def client(s, **more):
    kw = dict(base_url="http://127.0.0.1:%d/v1" % s.port, api_key="sk-test", max_retries=0,
              timeout=20)
    kw.update(more)
    return openai.OpenAI(**kw)


def chat():
    with Server("--text", TEXT) as s, client(s) as c:
        r = c.chat.completions.create(model="toy", messages=MESSAGES)
        assert r.choices[0].message.content == TEXT
        assert r.choices[0].finish_reason == "stop"
        assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens
        assert r.id.startswith("chatcmpl-") and r.model == "toy"
        assert abs(r.created - time.time()) < 60


def chat_stream():
    with Server("--text", TEXT) as s, client(s) as c:
        chunks = list(c.chat.completions.create(model="toy", messages=MESSAGES, stream=True,
                                                stream_options={"include_usage": True}))
        assert chunks[0].choices[0].delta.role == "assistant"
        text = "".join(k.choices[0].delta.content or "" for k in chunks if k.choices)
        assert text == TEXT
        assert chunks[-2].choices[0].finish_reason == "stop"
        assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 8
        assert all(k.id == chunks[0].id for k in chunks)


def completions():
    with Server("--text", TEXT) as s, client(s) as c:
        r = c.completions.create(model="toy", prompt="a", max_tokens=2)
        assert r.choices[0].text == "hello world" and r.choices[0].finish_reason == "length"
        r = c.completions.create(model="toy", prompt=["a", [97, 98], "c"][0:1] + ["b"],
                                 max_tokens=1)
        assert [k.index for k in r.choices] == [0, 1]
        parts = c.completions.create(model="toy", prompt="a", max_tokens=3, stream=True)
        assert "".join(p.choices[0].text for p in parts) == "hello world "


def logprobs():
    with Server("--text", TEXT) as s, client(s) as c:
        r = c.chat.completions.create(model="toy", messages=MESSAGES, logprobs=True,
                                      top_logprobs=3)
        tokens = r.choices[0].logprobs.content
        assert b"".join(bytes(t.bytes) for t in tokens).decode() == TEXT
        assert all(len(t.top_logprobs) <= 3 for t in tokens)
        streamed = []
        for k in c.chat.completions.create(model="toy", messages=MESSAGES, logprobs=True,
                                           top_logprobs=3, stream=True):
            if k.choices[0].logprobs:
                streamed += k.choices[0].logprobs.content
        assert [t.model_dump() for t in streamed] == [t.model_dump() for t in tokens]
        r = c.completions.create(model="toy", prompt="xy", max_tokens=2, logprobs=2, echo=True)
        lp = r.choices[0].logprobs
        assert lp.token_logprobs[0] is None and len(lp.tokens) == len(lp.token_logprobs)
        assert len(lp.text_offset) == len(lp.top_logprobs) == len(lp.tokens)


def n_choices():
    with Server() as s, client(s) as c:
        r = c.chat.completions.create(model="toy", messages=MESSAGES, n=4, max_tokens=8, seed=3)
        assert [k.index for k in r.choices] == [0, 1, 2, 3]
        texts = {}
        for k in c.chat.completions.create(model="toy", messages=MESSAGES, n=4, max_tokens=8,
                                           seed=3, stream=True):
            for choice in k.choices:
                texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
        assert [texts[i] for i in range(4)] == [k.message.content for k in r.choices]


def stop():
    with Server("--text", TEXT) as s, client(s) as c:
        for stop, want in [("STOP", "hello world "), (["zzz", "lo w"], "hel"),
                           ("one two three four", TEXT)]:
            r = c.chat.completions.create(model="toy", messages=MESSAGES, stop=stop)
            assert r.choices[0].message.content == want, (stop, r.choices[0].message.content)
            text = "".join(k.choices[0].delta.content or "" for k in c.chat.completions.create(
                model="toy", messages=MESSAGES, stop=stop, stream=True))
            assert text == want


def seed():
    with Server() as s, client(s) as c:
        a, b = [c.completions.create(model="toy", prompt="a", max_tokens=20, seed=11, temperature=1)
                for _ in range(2)]
        assert a.choices[0].text == b.choices[0].text


def models():
    with Server() as s, client(s) as c:
        assert [m.id for m in c.models.list()] == ["toy", "toy-alias"]
        assert c.models.retrieve("toy").owned_by == "pagoda"


def typed_errors():
    with Server("--key", "sk-test", "--len", 128) as s:
        with client(s) as c:
            expect(openai.BadRequestError, c, model="toy", messages=[])
            expect(openai.BadRequestError, c, model="toy", messages=MESSAGES, temperature=9)
            e = expect(openai.BadRequestError, c, model="toy",
                       messages=[{"role": "user", "content": "xyz" * 100}])
            assert e.code == "context_length_exceeded", e
            e = expect(openai.NotFoundError, c, model="gpt-9", messages=MESSAGES)
            assert e.code == "model_not_found" and e.param == "model"
            assert e.request_id.startswith("req-")
        with client(s, api_key="sk-wrong") as c:
            e = expect(openai.AuthenticationError, c, model="toy", messages=MESSAGES)
            assert e.code == "invalid_api_key"


def expect(kind, c, **kw):
    try:
        c.chat.completions.create(**kw)
    except kind as e:
        return e
    raise AssertionError("no " + kind.__name__)


def rate_limits():
    path = "/tmp/pagoda-openai-keys-%d.json" % os.getpid()
    with open(path, "w") as f:
        json.dump([{"name": "small", "key": "sk-small", "rpm": 2},
                   {"name": "bound", "key": "sk-bound", "models": ["toy-alias"]}], f)
    try:
        with Server("--key-file", path) as s:
            with client(s, api_key="sk-small") as c:
                raw = c.chat.completions.with_raw_response.create(
                    model="toy", messages=MESSAGES, max_tokens=1)
                assert raw.headers["x-ratelimit-limit-requests"] == "2"
                assert raw.headers["x-ratelimit-remaining-requests"] == "1"
                c.chat.completions.create(model="toy", messages=MESSAGES, max_tokens=1)
                e = expect(openai.RateLimitError, c, model="toy", messages=MESSAGES, max_tokens=1)
                assert int(e.response.headers["retry-after"]) >= 1
            with client(s, api_key="sk-bound") as c:
                assert [m.id for m in c.models.list()] == ["toy-alias"]
                expect(openai.PermissionDeniedError, c, model="toy", messages=MESSAGES)
                c.chat.completions.create(model="toy-alias", messages=MESSAGES, max_tokens=1)
    finally:
        os.unlink(path)


def server_errors_in_a_stream():
    """An error after the first byte reaches the client as an exception."""
    with Server("--request-ms", 300, "--step-us", 5000, "--len", 100000) as s, client(s) as c:
        got = 0
        try:
            for _ in c.chat.completions.create(model="toy", messages=MESSAGES, stream=True,
                                               max_tokens=9000, extra_body={"ignore_eos": True}):
                got += 1
        except openai.APIError as e:
            assert got > 3 and "timeout" in str(e.body), (got, e.body)
            return
        raise AssertionError("the stream ended without an error")


def client_timeout_frees_the_request():
    with Server("--step-us", 20000, "--len", 100000) as s, client(s, timeout=0.5) as c:
        try:
            c.chat.completions.create(model="toy", messages=MESSAGES, max_tokens=50000,
                                      extra_body={"ignore_eos": True})
            raise AssertionError("no timeout")
        except openai.APITimeoutError:
            pass
        assert s.wait_metric("vllm:num_requests_running", 0) == 0
        assert s.wait_metric("pagoda:kv_pages_used", 0) == 0


def closing_a_stream_frees_the_request():
    with Server("--step-us", 5000, "--len", 100000) as s, client(s) as c:
        stream = c.chat.completions.create(model="toy", messages=MESSAGES, max_tokens=50000,
                                           stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        assert s.wait_metric("vllm:num_requests_running", 0) == 0


def parallel_streams():
    """64 streams at once: each is its own answer, whole."""
    async def one(c, i):
        kw = dict(model="toy", prompt="a%d" % i, max_tokens=40, seed=i, temperature=0)
        text = ""
        async for k in await c.completions.create(stream=True, **kw):
            text += k.choices[0].text
        whole = await c.completions.create(**kw)
        return text == whole.choices[0].text and len(text) > 0

    async def all_of_them(s):
        async with openai.AsyncOpenAI(base_url="http://127.0.0.1:%d/v1" % s.port, api_key="x",
                                      max_retries=0) as c:
            return await asyncio.gather(*[one(c, i) for i in range(64)])

    with Server("--step-us", 1000) as s:
        assert all(asyncio.run(all_of_them(s)))


def extra_fields():
    with Server("--text", TEXT) as s, client(s) as c:
        r = c.chat.completions.create(model="toy", messages=MESSAGES, extra_body={
            "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "stop_token_ids": [259],
            "return_token_ids": True})
        assert r.choices[0].message.content == "hello"
        assert r.choices[0].stop_reason == 259 and r.choices[0].token_ids == [258, 259]


if __name__ == "__main__":
    sys.exit(run([chat, chat_stream, completions, logprobs, n_choices, stop, seed, models,
                  typed_errors, rate_limits, server_errors_in_a_stream,
                  client_timeout_frees_the_request, closing_a_stream_frees_the_request,
                  parallel_streams, extra_fields]))
