"""A device that fails under a running server: out of memory, a refused launch, a lost device, each
at a moment when requests are in flight. Every stream ends with an error event, /health and /ready
say 503, the process ends with status 3, and nothing hangs.

Usage: test_faults.py [TEST...]; PAGODA names the program, PAGODA_CUDA_LIBRARY the emulated device,
which fails where SIMT_FAIL or PAGODA_CUDA_FAULT says. Python 3 alone.
"""
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "api"))
from harness import run

PAGODA = os.environ.get("PAGODA", "build/pagoda")
MODEL = "conf/demo-model"
SMALL = ("--max-model-len", "64", "--max-num-seqs", "4", "--max-num-batched-tokens", "16",
         "--kv-cache-bytes", "4MiB")
WAIT = 120  # seconds; the emulated device on a busy machine is slow


class Server:
    """`pagoda serve --device cuda` with a fault in its environment."""

    def __init__(self, **faults):
        command = [PAGODA, "serve", "--model", MODEL, "--device", "cuda", "--port", "0",
                   "--no-access-log", *SMALL]
        self.p = subprocess.Popen(command, env=dict(os.environ, **faults), text=True,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE)
        self.port, self.log = None, []
        self.said = threading.Event()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.p.stderr:
            self.log.append(line)
            found = re.search(r"serving .* on http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                self.said.set()
        self.said.set()

    def ready(self):
        assert self.said.wait(WAIT), "no word from the server"
        return self.port is not None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.p.poll() is None:
            self.p.kill()
        self.p.wait()
        self.reader.join(10)

    def text(self):
        return "".join(self.log)


def stream(port, seconds=WAIT):
    """The whole body of a streamed completion, read until the server ends it."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    body = json.dumps({"model": "demo-model", "prompt": "One day a boy", "max_tokens": 40,
                       "temperature": 0, "stream": True, "ignore_eos": True})
    with contextlib.closing(c):
        c.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        r = c.getresponse()
        return r.status, r.read().decode()


def status_of(port, path):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(c):
        c.request("GET", path)
        return c.getresponse().status


def watch(server, seen):
    """What /health and /ready answer until the server is gone."""
    while server.p.poll() is None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            seen.add(("/health", status_of(server.port, "/health")))
            seen.add(("/ready", status_of(server.port, "/ready")))
        time.sleep(0.01)


def in_flight(words, **faults):
    """Three streams and a fault; `words` must be in their error events."""
    with Server(**faults) as s:
        assert s.ready(), s.text()
        seen, results = set(), [None] * 3
        def one(i):
            results[i] = stream(s.port)
        threads = [threading.Thread(target=one, args=(i,)) for i in range(3)]
        threads.append(threading.Thread(target=watch, args=(s, seen)))
        for t in threads:
            t.start()
        code = s.p.wait(WAIT)
        for t in threads:
            t.join(WAIT)
            assert not t.is_alive(), "a client hangs"
    assert code == 3, (code, s.text())
    assert ("/health", 503) in seen and ("/ready", 503) in seen, (seen, s.text())
    for status, text in results:
        assert status in (200, 503), (status, text)
        assert '"error"' in text and words in text, (status, text)
        assert '"finish_reason":"' not in text, text  # none is told to be whole
    assert any(status == 200 for status, _ in results), results
    assert words in s.text(), s.text()


def test_a_lost_device():
    in_flight("illegal memory access", SIMT_FAIL="lost:400")


def test_a_refused_launch():
    in_flight("too many resources", SIMT_FAIL="launch:400")


def test_a_failure_inside_a_kernel():
    in_flight("failed in gemm", PAGODA_CUDA_FAULT="gemm:60")


def test_memory_that_runs_out_in_a_step():
    in_flight("out of memory", PAGODA_CUDA_FAULT="scratch:1")


def test_a_copy_that_fails():
    in_flight("failed in download", PAGODA_CUDA_FAULT="download:4")


def does_not_start(words, **faults):
    with Server(**faults) as s:
        assert not s.ready(), s.text()
        code = s.p.wait(WAIT)
    assert code not in (0, 3) and code > 0, (code, s.text())
    assert words in s.text(), s.text()


def test_no_memory_while_loading():
    does_not_start("cuda:0 refused", SIMT_FAIL="malloc:2")


def test_no_pinned_memory_while_loading():
    does_not_start("cuda:0", PAGODA_CUDA_FAULT="host_alloc:1")


def test_a_whole_answer_without_faults():
    with Server() as s:
        assert s.ready(), s.text()
        status, text = stream(s.port)
        assert status == 200 and "[DONE]" in text and '"error"' not in text, text
        assert status_of(s.port, "/health") == 200
        s.p.terminate()
        assert s.p.wait(WAIT) == 0


if __name__ == "__main__":
    sys.exit(run([test_a_whole_answer_without_faults, test_a_lost_device, test_a_refused_launch,
                  test_a_failure_inside_a_kernel, test_memory_that_runs_out_in_a_step,
                  test_a_copy_that_fails, test_no_memory_while_loading,
                  test_no_pinned_memory_while_loading]))
