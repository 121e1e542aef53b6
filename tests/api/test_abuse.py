"""Hostile and broken clients: the right status, a clear message, and the server goes on."""

import concurrent.futures
import json
import os
import socket
import struct
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Server, read_all, run  # noqa: E402

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def alive(s):
    assert s.request("GET", "/health")[0] == 200
    status, body = s.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
    assert status == 200 and body["usage"]["completion_tokens"] == 2, body


def status_of(data):
    return int(data.split(b" ", 2)[1]) if data.startswith(b"HTTP/1.1 ") else 0


def error_of(data):
    return json.loads(data.split(b"\r\n\r\n", 1)[1])["error"]


def raw_post(s, body, extra=b""):
    with s.raw() as c:
        c.sendall(HEAD + extra + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
                  + body)
        return read_all(c)


def announced_huge_body():
    with Server() as s:
        with s.raw() as c:
            c.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (2 << 30))
            data = read_all(c)
        assert status_of(data) == 413, data[:200]
        assert "limit" in error_of(data)["message"]
        alive(s)


def sent_huge_body(mib=200):
    """A client that sends without looking: cut off, and memory stays where it was."""
    with Server() as s:
        before = s.metric("process_resident_memory_bytes")
        with s.raw() as c:
            c.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % (2 << 30))
            sent = 0
            try:
                while sent < mib << 20:
                    sent += c.send(b" " * 65536)
            except OSError:
                pass
        assert sent < 64 << 20, "%d bytes were taken" % sent
        assert s.metric("process_resident_memory_bytes") - before < 64 << 20
        alive(s)


def chunked_huge_body():
    with Server("--body-max", 1 << 20) as s:
        with s.raw() as c:
            c.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            data = b""
            try:
                for _ in range(1024):
                    c.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
            except OSError:
                pass
            try:
                data = read_all(c)
            except OSError:
                pass
        assert status_of(data) in (0, 413), data[:200]
        assert data == b"" or "limit" in error_of(data)["message"]
        alive(s)


def chunked_body_is_taken():
    body = b'{"prompt":"a","max_tokens":1}'
    with Server() as s, s.raw() as c:
        c.sendall(HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for i in range(0, len(body), 5):
            piece = body[i:i + 5]
            c.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            time.sleep(0.002)
        c.sendall(b"0\r\n\r\n")
        assert status_of(read_all(c)) == 200


def huge_header():
    with Server() as s:
        with s.raw() as c:
            try:
                c.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Big: " + b"a" * (1 << 20)
                          + b"\r\n\r\n")
            except OSError:
                pass
            data = read_all(c)
        assert status_of(data) in (431, 413), data[:200]
        with s.raw() as c:
            try:
                c.sendall(b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: x\r\n\r\n")
            except OSError:
                pass
            assert status_of(read_all(c)) in (414, 431, 0)
        alive(s)


def slowloris():
    with Server("--header-ms", 500, "--body-ms", 500) as s:
        slow = [s.raw() for _ in range(20)]
        start = time.time()
        for c in slow[:10]:
            c.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        for c in slow[10:]:
            c.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        answers = []

        def drip(c):
            try:
                for _ in range(100):
                    c.send(b"X" if c in slow[10:] else b"X: y\r\n")
                    c.settimeout(0.1)
                    try:
                        data = c.recv(65536)
                        answers.append(data)
                        return
                    except socket.timeout:
                        pass
            except OSError:
                answers.append(b"")

        threads = [threading.Thread(target=drip, args=(c,)) for c in slow]
        for t in threads:
            t.start()
        alive(s)
        for t in threads:
            t.join()
        assert time.time() - start < 5
        assert sum(status_of(a) == 408 for a in answers) >= 5, answers
        for c in slow:
            c.close()
        alive(s)


def bad_bodies():
    cases = [
        (b"", "empty"), (b"{", "JSON"), (b"[]", "object"), (b"nul", "JSON"), (b"\xff\xfe", "UTF-8"),
        (b'{"prompt":"\xc3\x28"}', "UTF-8"), (b'{"prompt":"a","temperature":NaN}', "JSON"),
        (b'{"prompt":"a","temperature":1e999}', "JSON"),
        (b'{"prompt":"a","seed":99999999999999999999}', "integer"),
        (b"[" * 100000, "deep"), (b'{"a":' * 5000 + b"1" + b"}" * 5000, "deep"),
        (b'{"prompt":"a"} x', "JSON"), (b"\x00\x01\x02", "JSON"),
    ]
    with Server() as s:
        for body, word in cases:
            data = raw_post(s, body)
            assert status_of(data) == 400, (body[:40], data[:200])
            e = error_of(data)
            assert word in e["message"] and e["type"] == "invalid_request_error", (body[:40], e)
        alive(s)


def bad_http():
    cases = [
        b"\r\n\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01",
        b"GET /health HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.1\r\nHost x\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n", HEAD + b"Content-Length: abc\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n",
        b"GET /%00/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    ]
    with Server("--header-ms", 300, "--body-ms", 300) as s:
        for c in cases:
            with s.raw() as k:
                k.sendall(c)
                try:
                    data = read_all(k)
                except OSError as e:
                    raise AssertionError("no end: %r" % c) from e
                assert status_of(data) in (0, 400, 404, 411, 413, 501, 505), (c, data[:200])
        alive(s)


def path_games():
    """A key is asked for whatever the path looks like; only the three probes are open."""
    paths = ["/v1/models", "/v1/models/", "//v1/models", "/./v1/models", "/v1/../v1/models",
             "/health/../v1/models", "/%76%31/models", "/v1/models?x=/health", "/health%2f..",
             "/metrics", "/version", "/nowhere", "/V1/MODELS", "http://x/health", "/health;x"]
    with Server("--key", "sk-right") as s:
        for p in paths:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sk-right"},
                            {"Authorization": "Bearer "}, {"Authorization": "Basic c2s="}):
                status, h, _ = s.request("GET", p, headers=headers)
                assert status == 401, (p, headers, status)
                assert h.get("www-authenticate") == "Bearer"
        for p in ("/health", "/ready", "/live"):
            assert s.request("GET", p)[0] == 200
        good = {"Authorization": "Bearer sk-right"}
        assert s.request("GET", "/v1/models", headers=good)[0] == 200
        assert s.request("GET", "/nowhere", headers=good)[0] == 404


def start_stream(s, max_tokens=100000, receive_bytes=0, **more):
    body = json.dumps(dict(prompt="a", max_tokens=max_tokens, stream=True, ignore_eos=True,
                           **more)).encode()
    c = s.raw(receive_bytes=receive_bytes)
    c.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    data = b""
    while data.count(b"data: ") < 3:
        data += c.recv(65536)
    return c


def kill(c):
    """Close with a reset, as a killed process may."""
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()


def clients_killed_mid_stream():
    with Server("--step-us", 3000, "--len", 200000, "--pages", 20000) as s:
        clients = [start_stream(s) for _ in range(32)]
        assert s.wait_metric("vllm:num_requests_running", 32) == 32
        assert s.metric("pagoda:kv_pages_used") >= 32
        start = time.time()
        for i, c in enumerate(clients):
            kill(c) if i % 2 else c.close()
        assert s.wait_metric("vllm:num_requests_running", 0) == 0
        assert s.wait_metric("pagoda:kv_pages_used", 0) == 0
        assert time.time() - start < 2, time.time() - start
        alive(s)


def clients_killed_while_waiting():
    """Not streaming: the connection is suspended in the library, the hang-up is seen all the same."""
    with Server("--step-us", 3000, "--len", 200000, "--pages", 20000) as s:
        body = b'{"prompt":"a","max_tokens":100000,"ignore_eos":true,"n":2}'
        clients = []
        for _ in range(16):
            c = s.raw()
            c.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            clients.append(c)
        assert s.wait_metric("vllm:num_requests_running", 32) == 32
        for c in clients:
            kill(c)
        assert s.wait_metric("vllm:num_requests_running", 0) == 0
        assert s.wait_metric("pagoda:kv_pages_used", 0) == 0
        alive(s)


def reader_that_stalls():
    with Server("--stall-ms", 500, "--len", 2000000, "--pages", 130000, "--verify", 0) as s:
        c = start_stream(s, 1000000, receive_bytes=4096)
        assert s.wait_metric("vllm:num_requests_running", 0, 20) == 0
        kill(c)
        alive(s)


def full_queue():
    with Server("--running", 1, "--queue", 2, "--step-us", 5000, "--len", 100000) as s:
        clients = [start_stream(s, 20000)]
        body = b'{"prompt":"a","max_tokens":20000,"ignore_eos":true,"stream":true}'
        for _ in range(2):
            c = s.raw()
            c.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            clients.append(c)
        assert s.wait_metric("vllm:num_requests_waiting", 2) == 2
        status, headers, data = s.request("POST", "/v1/completions", {"prompt": "a"})
        assert status == 503 and int(headers["retry-after"]) >= 1, (status, headers)
        assert "queue is full" in json.loads(data)["error"]["message"]
        for c in clients:
            c.close()
        assert s.wait_metric("vllm:num_requests_running", 0) == 0
        alive(s)


def swapped_answers():
    """So few pages that requests are thrown back: their pages go to the host's memory and back."""
    bodies = [{"prompt": "this is question %d of many" % i, "max_tokens": 150, "ignore_eos": True,
               "temperature": 0} for i in range(10)]
    with Server("--pages", 30, "--len", 400) as s:
        want = [s.post("/v1/completions", b)[1]["choices"][0]["text"] for b in bodies]
    # steps that take long enough for the requests to meet
    with Server("--pages", 30, "--len", 400, "--host-pages", 300, "--step-us", 1000) as s:
        with concurrent.futures.ThreadPoolExecutor(len(bodies)) as pool:
            got = list(pool.map(lambda b: s.post("/v1/completions", b), bodies))
        assert all(status == 200 for status, _ in got), got
        assert [a["choices"][0]["text"] for _, a in got] == want
        assert s.metric("vllm:num_preemptions_total") > 0
        assert s.metric("pagoda:kv_pages_out_total") > 0
        assert s.metric("pagoda:kv_pages_in_total") > 0
        assert 0 < s.metric("pagoda:kv_host_pages_used") <= s.metric("pagoda:kv_host_pages_total")
        assert s.metric("pagoda:kv_host_pages_total") == 300
        assert s.wait_metric("pagoda:kv_pages_used", 0) == 0
        alive(s)


def deadline():
    with Server("--request-ms", 300, "--step-us", 5000, "--len", 100000) as s:
        body = {"prompt": "a", "max_tokens": 50000, "ignore_eos": True}
        status, answer = s.post("/v1/completions", body)
        assert status == 408 and answer["error"]["type"] == "timeout_error", (status, answer)
        events = s.stream("/v1/completions", body)
        assert "error" in events[-2] and events[-1] == "[DONE]", events[-2:]
        alive(s)


def keep_alive_comments():
    with Server("--running", 1, "--keepalive-ms", 200, "--step-us", 3000, "--len", 100000) as s:
        c = start_stream(s, 50000)
        with s.raw() as k:
            body = b'{"prompt":"a","max_tokens":1,"stream":true}'
            k.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            data, until = b"", time.time() + 5
            while data.count(b": keep-alive\n\n") < 2 and time.time() < until:
                data += k.recv(65536)
            assert data.count(b": keep-alive\n\n") >= 2, data
        c.close()


def per_address_limit():
    with Server("--per-ip", 4) as s:
        held = [s.raw() for _ in range(4)]
        for c in held:
            c.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert status_of(c.recv(4096)) == 200
        with s.raw() as c:
            c.settimeout(5)
            try:
                c.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
                assert c.recv(4096) == b""
            except OSError:
                pass
        for c in held:
            c.close()
        time.sleep(0.1)
        alive(s)


def drains():
    s = Server("--step-us", 2000, "--len", 100000, "--grace-ms", 5000)
    c = start_stream(s, 300)
    idle = s.raw()
    idle.sendall(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
    idle.recv(4096)
    s.p.terminate()
    time.sleep(0.1)
    status, headers, _ = s.request("GET", "/ready")
    assert status == 503 and "retry-after" in headers
    status, headers, _ = s.request("POST", "/v1/completions", {"prompt": "a"})
    assert status == 503
    data = read_all_stream(c)
    assert data.rstrip().endswith(b"0") and b"data: [DONE]" in data, data[-200:]
    assert b'"finish_reason":"length"' in data
    idle.close()
    assert s.stop() == 0


def read_all_stream(c):
    data = b""
    while b"data: [DONE]" not in data:
        piece = c.recv(65536)
        assert piece, data[-300:]
        data += piece
    while not data.endswith(b"0\r\n\r\n"):
        data += c.recv(65536)
    c.close()
    return data


def stop_ends_streams():
    """The grace is over: every stream still gets an error event and a clean end."""
    s = Server("--step-us", 2000, "--len", 100000, "--grace-ms", 100)
    clients = [start_stream(s, 90000) for _ in range(8)]
    s.p.terminate()
    for c in clients:
        data = read_all_stream(c)
        assert b'"error"' in data and b"shutting down" in data, data[-300:]
    assert s.stop() == 0


def unix_socket():
    path = "/tmp/pagoda-test-%d.sock" % os.getpid()
    with Server("--unix", path):
        c = socket.socket(socket.AF_UNIX)
        c.connect(path)
        c.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert status_of(read_all(c)) == 200
        c.close()
    assert not os.path.exists(path)


def busy_port():
    import subprocess
    from harness import test_server_path
    with Server() as s:
        r = subprocess.run([test_server_path(), "--port", str(s.port)], stdin=subprocess.PIPE,
                           capture_output=True, timeout=20)
        assert r.returncode == 1 and b"in use" in r.stderr, r


def http_1_0():
    """No chunks, the end is the end of the connection."""
    body = b'{"prompt":"a","max_tokens":3,"stream":true}'
    with Server() as s, s.raw() as c:
        c.sendall(HEAD.replace(b"HTTP/1.1", b"HTTP/1.0")
                  + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        data = read_all(c)
        assert data.startswith(b"HTTP/1.") and b" 200 " in data[:20], data[:100]
        assert b"chunked" not in data.lower() and data.endswith(b"data: [DONE]\n\n"), data


def pipelined():
    """Several requests in one piece: answered one after the other, in order."""
    body = b'{"prompt":"a","max_tokens":2,"stream":true}'
    one = HEAD + b"Content-Length: %d\r\nx-request-id: id-%%d\r\n\r\n" % len(body) + body
    with Server() as s, s.raw() as c:
        c.sendall(b"".join(one % i for i in range(5))
                  + b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = read_all(c)
        assert data.count(b"HTTP/1.1 200") == 6 and data.count(b"data: [DONE]") == 5, data
        at = [data.index(b"x-request-id: id-%d" % i) for i in range(5)]
        assert at == sorted(at)


def expect_continue():
    with Server("--body-max", 1 << 20) as s:
        with s.raw() as c:
            c.sendall(HEAD + b"Content-Length: 2000000\r\nExpect: 100-continue\r\n\r\n")
            assert status_of(read_all(c)) == 413
        body = b'{"prompt":"a","max_tokens":1}'
        with s.raw() as c:
            c.sendall(HEAD + b"Content-Length: %d\r\nExpect: 100-continue\r\n"
                      b"Connection: close\r\n\r\n" % len(body))
            assert status_of(c.recv(4096)) == 100
            c.sendall(body)
            assert status_of(read_all(c)) == 200


def several_prompts_streamed():
    with Server("--text", "hello world") as s:
        events = s.stream("/v1/completions", {"prompt": ["a", "b", [97]], "n": 2})
        text = {}
        for e in events[:-1]:
            k = e["choices"][0]
            text[k["index"]] = text.get(k["index"], "") + k["text"]
        assert text == {i: "hello world" for i in range(6)}, text
        assert sum(e["choices"][0]["finish_reason"] == "stop" for e in events[:-1]) == 6


def many_connections_at_once():
    with Server("--threads", 3) as s:
        results = []

        def client(i):
            for k in range(5):
                text = "".join(e["choices"][0]["text"] for e in
                               s.stream("/v1/completions", {"prompt": "a%d" % i, "seed": 7,
                                                            "max_tokens": 20, "temperature": 0})
                               if e != "[DONE]")
                status, whole = s.post("/v1/completions", {"prompt": "a%d" % i, "seed": 7,
                                                           "max_tokens": 20, "temperature": 0})
                results.append(status == 200 and whole["choices"][0]["text"] == text)

        threads = [threading.Thread(target=client, args=(i,)) for i in range(32)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(results) == 160 and all(results), results.count(False)
        assert s.wait_metric("vllm:num_requests_running", 0) == 0


if __name__ == "__main__":
    sys.exit(run([announced_huge_body, sent_huge_body, chunked_huge_body, chunked_body_is_taken,
                  huge_header, slowloris, bad_bodies, bad_http, path_games,
                  clients_killed_mid_stream, clients_killed_while_waiting, reader_that_stalls,
                  full_queue, swapped_answers, deadline, keep_alive_comments, per_address_limit,
                  drains, stop_ends_streams, unix_socket, busy_port, http_1_0, pipelined,
                  expect_continue, several_prompts_streamed, many_connections_at_once]))
