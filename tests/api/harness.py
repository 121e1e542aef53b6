"""What the API tests share: a server of their own on a free port, small HTTP helpers, counting.

Standard library only. `Server(args)` starts tests/api/test_server (toy tokenizer, mock engine) or,
with model=DIR, `pagoda serve`; the binaries' paths come from the command line or the environment.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import traceback


def test_server_path():
    return os.environ.get("PAGODA_TEST_SERVER", "build/tests/api/test_server")


class Server:
    def __init__(self, *args, log=None):
        self.log = log or subprocess.DEVNULL
        command = [test_server_path()] + [str(a) for a in args]
        self.p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=self.log)
        line = self.p.stdout.readline().decode()
        if not line.startswith("port "):
            raise RuntimeError("the server did not start: " + repr(line))
        self.port = int(line.split()[1])

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        code = self.stop()
        if exc[0] is None and code != 0:
            raise AssertionError("the server ended with status %d" % code)

    def stop(self, timeout=30):
        """SIGTERM, then its exit status."""
        if self.p.poll() is None:
            self.p.send_signal(signal.SIGTERM)
        try:
            return self.p.wait(timeout)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
            return -9
        finally:
            self.p.stdin.close()
            self.p.stdout.close()

    def request(self, method, path, body=None, headers=None, timeout=30):
        """(status, headers, bytes)"""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        if body is not None and "Content-Type" not in headers:
            headers["Content-Type"] = "application/json"
        try:
            c.request(method, path, body, headers)
            r = c.getresponse()
            return r.status, {k.lower(): v for k, v in r.getheaders()}, r.read()
        finally:
            c.close()

    def post(self, path, body, **kw):
        status, _, data = self.request("POST", path, body, **kw)
        return status, json.loads(data)

    def stream(self, path, body):
        """The events of a stream: JSON values, and the text "[DONE]"."""
        status, headers, data = self.request("POST", path, dict(body, stream=True))
        assert status == 200, (status, data)
        assert headers["content-type"].startswith("text/event-stream"), headers
        return sse_events(data)

    def metric(self, name):
        """The sum of a metric over its labels."""
        _, _, text = self.request("GET", "/metrics")
        total = 0.0
        for line in text.decode().splitlines():
            if line.startswith(name + "{") or line.startswith(name + " "):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def wait_metric(self, name, want, seconds=5):
        until = time.time() + seconds
        while True:
            have = self.metric(name)
            if have == want or time.time() > until:
                return have
            time.sleep(0.02)

    def raw(self, timeout=10, receive_bytes=0):
        s = socket.socket()
        if receive_bytes:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        s.settimeout(timeout)
        s.connect(("127.0.0.1", self.port))
        return s


class Pagoda(Server):
    """The program itself, serving a model directory."""

    def __init__(self, model, *args):
        command = [os.environ.get("PAGODA", "build/pagoda"), "serve", "--model", model, "--port",
                   "0", "--no-access-log"] + [str(a) for a in args]
        self.p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE)
        said = b""
        for line in self.p.stderr:
            said += line
            found = re.search(rb"serving .* on http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found.group(1))
                return
        raise RuntimeError("pagoda serve did not start: " + said.decode())

    def stop(self, timeout=30):
        self.p.stderr.close()
        return super().stop(timeout)


def sse_events(data):
    events = []
    for block in data.decode().split("\n\n"):
        if not block or block.startswith(":"):
            continue
        assert block.startswith("data: "), block
        text = block[len("data: "):]
        events.append(text if text == "[DONE]" else json.loads(text))
    return events


def read_all(sock):
    """Everything until the peer closes (a reset counts as closed)."""
    data = b""
    while True:
        try:
            piece = sock.recv(65536)
        except (ConnectionResetError, BrokenPipeError):
            return data
        if not piece:
            return data
        data += piece


def run(tests):
    """Run functions, print one line each that fails, and the count; returns the exit status."""
    failed = 0
    names = sys.argv[1:]
    tests = [t for t in tests if not names or any(n in t.__name__ for n in names)]
    for t in tests:
        start = time.time()
        try:
            t()
            print("ok %s (%.2f s)" % (t.__name__, time.time() - start), flush=True)
        except Exception:
            failed += 1
            print("FAILED %s" % t.__name__)
            traceback.print_exc(file=sys.stdout)
    print("%d passed, %d failed, 0 skipped" % (len(tests) - failed, failed))
    return 1 if failed else 0
