"""Parts of tests/gpu/run that serve a model over HTTP: the trained demo model, and models of real
shapes with random weights, which are made on the machine itself (tests/tools/make_random_model.py,
needs numpy)."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from place import ROOT, skipped

STREAMS = (1, 4, 16, 64, 256)
LOG = os.path.join(ROOT, "tests/out/gpu-server.log")

# (line, model, streams, requests, input, output, figure, target): figures are of the load client's
# JSON. The targets of G13 are for longer outputs than there is time for.
LOADS = [
    ("", "tiny", 1, 2, 24, 8, "us a token", None),
    ("", "tiny", 4, 4, 24, 8, "tok/s", None),
    ("G11", "1b", 1, 4, 448, 128, "us a token", 800),
    ("", "1b", 16, 64, 128, 128, "tok/s", None),
    ("", "1b", 256, 512, 128, 128, "tok/s", None),
    ("G12", "8b", 1, 4, 128, 128, "tok/s a stream", 263),
    ("", "8b", 16, 48, 128, 128, "tok/s", None),
    ("", "8b", 64, 128, 128, 128, "tok/s", None),
    ("G13", "8b", 256, 256, 128, 384, "tok/s", None),
    ("G13", "8b", 256, 256, 1000, 128, "tok/s", None),
    ("G12", "8b-fp8", 1, 4, 128, 128, "tok/s a stream", 476),
    ("G13", "8b-fp8", 256, 256, 128, 384, "tok/s", None),
    ("G12", "8b-int4", 1, 4, 128, 128, "tok/s a stream", 740),
]
# Room on the disk. NAME-KIND is the shape NAME with quantised weights.
SHAPE_FILES = {"tiny": 1 << 20, "tiny-fp8": 1 << 20, "tiny-int4": 1 << 20, "1b": 3 << 30,
               "8b": 17 << 30, "8b-fp8": 10 << 30, "8b-int4": 7 << 30}
IDLE_US, HOST_US = 15, 200  # G14
# One stream at 512 tokens of context, with and without what G11 and G12 are about.
WAYS = [("graphs, early launches", "auto", "1"), ("graphs", "auto", "0"),
        ("early launches", "off", "1"), ("neither", "off", "0")]


class Serving:
    """`pagoda serve` on the device while the block runs."""

    def __init__(self, place, model, *options):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = open(LOG, "ab")
        self.p = subprocess.Popen(
            [place.program("pagoda"), "serve", "--model", model, "--device", "cuda", "--port",
             str(self.port), "--no-access-log", *options], env=place.env, cwd=place.cwd,
            stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL)
        self.code = None

    def healthy(self, seconds):
        end = time.time() + seconds
        while time.time() < end and self.p.poll() is None:
            try:
                if urllib.request.urlopen(self.url + "/ready", timeout=2).status == 200:
                    return True
            except OSError:
                time.sleep(0.1)
        return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.p.send_signal(signal.SIGTERM)
        try:
            self.code = self.p.wait(40)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        self.log.close()

    def ended(self):
        return {"name": "the server ends by itself", "passed": int(self.code == 0),
                "failed": int(self.code != 0),
                "note": "" if self.code == 0 else f"status {self.code}: {log_tail()}"}


def log_tail():
    with open(LOG, errors="replace") as f:
        return f.read()[-500:].strip()


def load(place, url, streams, requests, length, output, most):
    """(the client's figures or None, its output)"""
    cmd = [place.program("pagoda"), "bench", "serve", "--url", url, "--concurrency", str(streams),
           "--requests", str(requests), "--input-len", str(length), "--output-len", str(output),
           "--json"]
    code, text = place.run(cmd, most)
    try:
        found = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        found = {}
    good = code == 0 and found.get("failed") == 0
    return (found if good else None), text


def serve(place, args):
    """The trained demo model under more and more streams."""
    with Serving(place, "conf/demo-model", "--max-waiting", "4096") as server:
        if not server.healthy(place.seconds(60)):
            yield {"name": "server", "passed": 0, "failed": 1, "note": log_tail()}
            return
        streams = STREAMS[:2] if place.emulated else STREAMS
        n = 8 if place.emulated else 32
        for s in streams:
            found, text = load(place, server.url, s, (1 if place.emulated else 4) * s, n, n, 120)
            yield {"name": f"{s} streams", "passed": int(bool(found)), "failed": int(not found),
                   "note": "" if found else text.strip()[-400:],
                   "figures": None if place.emulated else found}
    yield server.ended()


class Maker:
    """Writes the models of random weights while other parts run."""

    def __init__(self, args):
        self.top = args.models or tempfile.mkdtemp(prefix="pagoda-models-")
        self.own = not args.models
        self.running, self.why = None, ""
        self.shapes = [s for s in args.shapes.split(",") if s]
        room = shutil.disk_usage(self.top).free
        if sum(SHAPE_FILES[s] for s in self.shapes) > room:
            self.shapes, self.why = [], f"{room >> 30} GiB are free in {self.top}"

    def path(self, shape):
        return os.path.join(self.top, shape)

    def start(self):
        tool = os.path.join(ROOT, "tests/tools/make_random_model.py")
        missing = [s for s in self.shapes if not os.path.exists(self.path(s) + "/config.json")]
        script = "set -e; " + "; ".join(
            f'"{sys.executable}" "{tool}" "{self.path(s)}" --fill-vocab --shape '
            + s.replace("-", " --quant ") for s in missing)
        if missing:
            self.running = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE,
                                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def wait(self, seconds):
        """True when all are there."""
        if not self.running:
            return not self.why
        try:
            said, _ = self.running.communicate(timeout=max(seconds, 0.1))
            self.why = "" if self.running.returncode == 0 else said.decode(errors="replace")[-400:]
        except subprocess.TimeoutExpired:
            self.why = "the models were not written in time"
        return not self.why

    def done(self):
        if self.running and self.running.poll() is None:
            self.running.kill()
            self.running.wait()
        if self.own:
            shutil.rmtree(self.top, ignore_errors=True)


def figure(kind, found):
    """The number that a line is about, from the client's figures."""
    if kind == "tok/s":
        return found["output_tokens_per_s"]
    tpot = p50(found, "tpot_ms")
    return 1e3 * tpot if kind == "us a token" else 1e3 / tpot if tpot else 0


def p50(found, name):
    return (found.get(name) or {}).get("p50", 0)


def models(place, args):
    """Random models of 1B and 8B parameters in bf16 over HTTP."""
    maker = args.maker
    if not maker.shapes or not maker.wait(place.seconds(120)):
        yield skipped("models of random weights", maker.why or "none is asked for")
        return
    for shape in maker.shapes:
        if place.seconds(60) < 30:
            yield skipped(shape, "no time was left")
            continue
        with Serving(place, maker.path(shape), "--max-num-batched-tokens", "4096",
                     "--max-model-len", "4096", "--no-prefix-cache") as server:
            start = time.time()
            if not server.healthy(place.seconds(90)):
                yield {"name": f"{shape} server", "passed": 0, "failed": 1, "note": log_tail()}
                continue
            yield {"name": f"{shape} loads", "passed": 1, "failed": 0,
                   "note": f"{time.time() - start:.1f} s"}
            load(place, server.url, 1, 2, 128, 16, 30)  # so that nothing is done for the first time
            for line, of, streams, requests, length, output, kind, target in LOADS:
                if of == shape:
                    yield model_row(place, server.url, (line, shape, streams, requests, length,
                                                        output, kind, target))
        if server.code != 0:
            yield server.ended()
        if shape.startswith(("8b", "tiny")):
            yield steps_row(place, maker.path(shape), shape)
        if shape in ("1b", "8b", "tiny"):
            for way in WAYS:
                yield way_row(place, maker.path(shape), shape, *way)


def way_row(place, path, shape, name, graphs, early):
    """The device's time for a step of one stream, launched in different ways."""
    context, steps = (9, 6) if place.emulated else (512, 128)
    cmd = [place.program("bench_steps"), path, "--seqs", "1", "--context", str(context), "--steps",
           str(steps), "--graphs", graphs]
    env = dict(place.env, PAGODA_CUDA_PDL=early)
    if place.emulated:
        env["SIMT_CC"] = "90"  # where launches can be early
    code, text = place.run(cmd, 40, env)
    name = f"{shape} B=1 at {context}: {name}"
    try:
        found = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"name": name, "passed": 0, "failed": 1, "note": text.strip()[-400:]}
    good = code == 0 and (found["replayed"] > 0) == (graphs == "auto")
    return {"name": name, "passed": int(good), "failed": int(not good),
            "note": f"a step {found['step_us']:.0f} us, host {found['host_us']:.0f} us, "
                    f"{found['replayed']} replayed",
            "line": "G11" if shape == "1b" else "G12" if shape == "8b" else "",
            "value": found["step_us"], "unit": "us",
            "figures": None if place.emulated else found}


def steps_row(place, path, shape):
    """G14: what the host spends on a decode step and how long the device waits for it."""
    streams, context, steps = (4, 9, 6) if place.emulated else (256, 512, 128)
    code, text = place.run([place.program("bench_steps"), path, "--seqs", str(streams),
                            "--context", str(context), "--steps", str(steps)], 60)
    name = f"G14 {shape} B={streams}, {context} tokens"
    try:
        found = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {"name": name, "passed": 0, "failed": 1, "note": text.strip()[-400:]}
    note = (f"{found['idle_us']:.0f} us idle between steps, target {IDLE_US}; host "
            f"{found['host_us']:.0f} us, target {HOST_US}; a step {found['step_us']:.0f} us")
    return {"name": name, "passed": int(code == 0), "failed": int(code != 0), "note": note,
            "line": "G14", "value": found["idle_us"], "unit": "us", "target": IDLE_US,
            "figures": None if place.emulated else found}


def model_row(place, url, what):
    line, shape, streams, requests, length, output, kind, target = what
    found, text = load(place, url, streams, requests, length, output, 60)
    kind_of = shape if "-" in shape else shape + " bf16"
    name = f"{line} {kind_of} B={streams} {length}/{output}".strip()
    if not found:
        return {"name": name, "passed": 0, "failed": 1, "note": text.strip()[-400:]}
    value = figure(kind, found)
    note = f"{value:.0f} {kind}" + (f", target {target}" if target else "")
    note += f"; TTFT {p50(found, 'ttft_ms'):.1f} ms, ITL {p50(found, 'itl_ms'):.2f} ms"
    return {"name": name, "passed": 1, "failed": 0, "note": note, "line": line, "value": value,
            "unit": kind, "target": target, "figures": found}
