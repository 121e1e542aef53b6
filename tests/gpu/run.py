"""The parts of tests/gpu/run; see there. Python 3 alone.

Each part runs programs with a time limit and yields rows: name, passed, failed, what was found. A
program that crashes, hangs or prints no counts is a failure, whatever else it printed.
"""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COUNTS = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped", re.M)
CHECK = re.compile(r"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)", re.M)
STREAMS = (1, 4, 16, 64, 256)


class Place:
    """Where the programs are, and the environment that makes them use the device."""

    def __init__(self, args):
        pack = args.pack or ("build-gpu-pack" if os.path.isdir("build-gpu-pack") else None)
        self.emulated = args.emulated
        self.env = dict(os.environ, PAGODA_TEST_DEVICE="cuda", CK_TIMEOUT_MULTIPLIER="30",
                        CK_FORK="no")
        if pack and not args.emulated:
            self.bin = os.path.join(pack, "bin")
            self.env["LD_LIBRARY_PATH"] = os.path.abspath(os.path.join(pack, "lib"))
            self.env["PAGODA_CUDA_LIBRARY"] = os.path.abspath(
                os.path.join(self.bin, "libpagoda_cuda.so"))
            self.at = {}
        else:
            self.bin = "build"
            self.at = {"checkkern": "tests/kernels", "pagoda": ""}
        if args.emulated:
            self.env["PAGODA_CUDA_LIBRARY"] = os.path.abspath(
                "build/tests/simt/libpagoda_cuda_simt.so")

    def program(self, name):
        folder = self.at.get(name, "tests") if self.at else ""
        return os.path.join(self.bin, folder, name)

    def run(self, cmd, seconds):
        """(exit status or None for a time-out, output)"""
        try:
            done = subprocess.run(cmd, env=self.env, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=seconds,
                                  errors="replace", stdin=subprocess.DEVNULL)
            return done.returncode, done.stdout
        except subprocess.TimeoutExpired as e:
            return None, (e.stdout or b"").decode(errors="replace")


def counts(code, text):
    """(passed, failed) that a test program printed; a bad end counts as one failure."""
    found = COUNTS.findall(text)
    passed, failed = map(int, found[-1][:2]) if found else (0, 0)
    for checks, failures, errors in CHECK.findall(text):
        bad = int(failures) + int(errors)
        passed, failed = passed + int(checks) - bad, failed + bad
    if (code != 0 or passed + failed == 0) and failed == 0:
        failed = 1
    return passed, failed


def row(name, code, text, note=""):
    passed, failed = counts(code, text)
    if failed:
        note = "timed out" if code is None else text.strip()[-800:]
    return {"name": name, "passed": passed, "failed": failed, "note": note}


def device(place, args):
    code, text = place.run([place.program("pagoda"), "devices", "--json"], 60)
    try:
        found = [d for d in json.loads(text)["devices"]
                 if d["device"].startswith("cuda") and d.get("usable")]
    except (ValueError, KeyError):
        found = []
    note = found[0].get("name", "") if found else text.strip()[-400:]
    yield {"name": "a CUDA device", "passed": int(bool(found)), "failed": int(not found),
           "note": note}


def sanitizer(place, args):
    tool = shutil.which("compute-sanitizer")
    if place.emulated or not tool:
        yield {"name": "compute-sanitizer", "passed": 0, "failed": 0,
               "note": "skipped: " + ("emulated" if place.emulated else "not on PATH")}
        return
    for check in ("memcheck", "racecheck", "synccheck", "initcheck"):
        cmd = [tool, "--tool", check, "--error-exitcode", "9", place.program("checkkern"),
               "--device", "cuda", "--small"]
        yield row("compute-sanitizer " + check, *place.run(cmd, 90))


def kernels(place, args):
    cmd = [place.program("checkkern"), "--device", "cuda"]
    yield row("kernels against the reference", *place.run(cmd, 240))


def families(place, args):
    yield row("families against their goldens", *place.run([place.program("test_archs")], 240))


def golden(place, args):
    for name in ("test_golden", "test_steps"):
        yield row(name, *place.run([place.program(name)], 120))


def determinism(place, args):
    yield row("the same bits in every batch", *place.run([place.program("test_determinism")], 180))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def healthy(url, server, seconds):
    end = time.time() + seconds
    while time.time() < end and server.poll() is None:
        try:
            if urllib.request.urlopen(url + "/health", timeout=2).status == 200:
                return True
        except OSError:
            time.sleep(0.1)
    return False


def load(place, url, streams, seconds):
    cmd = [place.program("pagoda"), "bench", "serve", "--url", url, "--concurrency", str(streams),
           "--requests", str(4 * streams), "--input-len", "32", "--output-len", "32", "--json"]
    code, text = place.run(cmd, 60 + 8 * seconds)
    try:
        line = json.loads(text.strip().splitlines()[-1])
    except (ValueError, IndexError):
        line = {}
    ok = code == 0 and line.get("failed") == 0
    return {"name": f"{streams} streams", "passed": int(ok), "failed": int(not ok),
            "note": json.dumps(line) if ok and not place.emulated else text.strip()[-400:] * (not ok)}


def serve(place, args):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    cmd = [place.program("pagoda"), "serve", "--model", "conf/demo-model", "--device", "cuda",
           "--port", str(port), "--no-access-log", "--max-waiting", "4096"]
    log = open("tests/out/gpu-server.log", "wb")
    server = subprocess.Popen(cmd, env=place.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        if not healthy(url, server, 60):
            tail = open("tests/out/gpu-server.log", errors="replace").read()[-400:]
            yield {"name": "server", "passed": 0, "failed": 1, "note": tail}
            return
        for streams in STREAMS[:2] if place.emulated else STREAMS:
            yield load(place, url, streams, args.seconds)
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            code = server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            code = None
        log.close()
    yield {"name": "the server ends by itself", "passed": int(code == 0), "failed": int(code != 0),
           "note": "" if code == 0 else f"status {code}"}


PARTS = {f.__name__: f for f in (device, sanitizer, kernels, families, golden, determinism, serve)}


def main():
    p = argparse.ArgumentParser(usage="tests/gpu/run [options]; see the head of tests/gpu/run")
    p.add_argument("--pack")
    p.add_argument("--out", default="tests/out/gpu.json")
    p.add_argument("--parts", default=",".join(PARTS))
    p.add_argument("--emulated", action="store_true")
    p.add_argument("--seconds", type=int, default=8)
    args = p.parse_args()
    unknown = [n for n in args.parts.split(",") if n not in PARTS]
    if unknown:
        p.error(f"no part is called {unknown[0]}; there are {', '.join(PARTS)}")
    os.chdir(ROOT)
    os.makedirs("tests/out", exist_ok=True)
    place = Place(args)
    rows = []
    for name in args.parts.split(","):
        start = time.time()
        for r in PARTS[name](place, args):
            r["part"], r["seconds"] = name, round(time.time() - start, 1)
            rows.append(r)
            state = "FAILED" if r["failed"] else "ok"
            print(f"{state:6} {name:12} {r['name']:36} {r['passed']:7} passed {r['failed']:3} failed"
                  f" {r['seconds']:6} s  {r['note']}", flush=True)
            start = time.time()
        if name == "device" and rows[-1]["failed"]:
            break
    with open(args.out, "w") as f:
        json.dump({"emulated": place.emulated, "rows": rows}, f, indent=1)
    passed, failed = (sum(r[k] for r in rows) for k in ("passed", "failed"))
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
