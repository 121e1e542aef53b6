"""The parts of tests/gpu/run; see there. Python 3 alone, but for the peers.

Each part runs programs with a time limit and yields rows: name, passed, failed, what was found. A
program that crashes, hangs or prints no counts is a failure, whatever else it printed. The JSON is
written anew after each part, so that an end from outside leaves what is known.
"""
import argparse
import json
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import models
from place import ROOT, Place, row, skipped

EMULATED = ("device", "kernels", "bench", "serve")  # what runs without a GPU in about a minute


def device(place, args):
    code, text = place.run([place.program("pagoda"), "devices", "--json"], 60)
    try:
        found = [d for d in json.loads(text)["devices"]
                 if d["device"].startswith("cuda") and d.get("usable")]
    except (ValueError, KeyError):
        found = []
    yield {"name": "a CUDA device", "passed": int(bool(found)), "failed": int(not found),
           "note": found[0].get("name", "") if found else text.strip()[-400:],
           "figures": found[0] if found else None}


def kernels(place, args):
    cmd = [place.program("checkkern"), "--device", "cuda"]
    if place.emulated:
        env = dict(place.env, SIMT_HOST_POINTERS="1")  # for memory with fences
        for op in ("norm", "act", "copy_pages"):
            yield row("kernels: " + op, *place.run(cmd + ["--small", "--op", op], 120, env))
        return
    yield row("kernels against the reference", *place.run(cmd + ["--draws", "1000000"], 120))


def families(place, args):
    yield row("families against their goldens", *place.run([place.program("test_archs")], 80))
    yield row("recorded steps", *place.run([place.program("test_graphs")], 40))
    yield row("quantised families", *place.run([place.program("test_quant_models")], 40))


def golden(place, args):
    for name in ("test_golden", "test_steps", "test_adapters"):
        yield row(name, *place.run([place.program(name)], 40))


def determinism(place, args):
    yield row("the same bits in every batch", *place.run([place.program("test_determinism")], 50))


def find_cublaslt():
    """The library of the toolkit or of a Python package, where the loader does not find it."""
    folders = ["/usr/local/cuda/lib64", *(os.path.join(p, "nvidia", n, "lib") for p in sys.path
                                          for n in ("cublas", "cu13", "cu12"))]
    for folder in folders:
        for name in ("libcublasLt.so.13", "libcublasLt.so.12"):
            if os.path.exists(os.path.join(folder, name)):
                return os.path.join(folder, name)
    return None


def bench(place, args):
    """The table of kernels, beside the ceilings of the same run."""
    out = os.path.join(ROOT, "tests/out/gpu-bench.json")
    env = dict(place.env)
    library = find_cublaslt()
    if library and not place.emulated:
        env.setdefault("PAGODA_CUBLASLT_LIBRARY", library)
    cmd = [place.program("bench_gpu"), "--json", out] + (["--quick"] if args.quick else [])
    if place.emulated:
        cmd += ["--line", "G3"]
    if os.path.exists(out):
        os.unlink(out)
    code, text = place.run(cmd, 200, env)
    print(text, end="", flush=True)
    found = row("bench_gpu", code, text)
    if os.path.exists(out) and not place.emulated:
        with open(out) as f:
            found["figures"] = json.load(f)
    yield found


def peers(place, args):
    """PyTorch on the same shapes, transformers on the same model of 1B parameters."""
    if place.emulated:
        yield skipped("peers", "emulated")
        return
    script = os.path.join(ROOT, "tests/gpu/peers.py")
    model = args.maker.path("1b") if "1b" in args.maker.shapes and not args.maker.why else ""
    env = dict(os.environ, TRANSFORMERS_OFFLINE="1", HF_HUB_OFFLINE="1")
    code, text = place.run([sys.executable, script] + ([model] if model else []), 120, env)
    print(text, end="", flush=True)
    lines = [json.loads(s) for s in text.splitlines() if s.startswith("{")]
    if code == 3:
        yield skipped("peers", text.strip()[-200:])
        return
    yield {"name": "peers", "passed": int(bool(lines)), "failed": int(not lines),
           "note": "" if code == 0 else f"status {code}", "figures": lines}


def sanitizer(place, args):
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if place.emulated or not os.path.exists(tool):
        yield skipped("compute-sanitizer", "emulated" if place.emulated else "it is not there")
        return
    for check in ("memcheck", "racecheck", "synccheck", "initcheck"):
        if place.seconds(60) < 15:
            yield skipped("compute-sanitizer " + check, "no time was left")
            continue
        cmd = [tool, "--tool", check, "--error-exitcode", "9", place.program("checkkern"),
               "--device", "cuda", "--small"]
        code, text = place.run(cmd, 60)
        if code is None:  # the checks that it reached were good, or it would have said so
            late = "ERROR SUMMARY" not in text and "FAIL" not in text and "Error" not in text
            yield {"name": "compute-sanitizer " + check, "passed": 0, "failed": int(not late),
                   "note": "not finished in time" + ("" if late else ": " + text[-600:])}
            continue
        yield row("compute-sanitizer " + check, code, text)


PARTS = {f.__name__: f for f in (device, kernels, bench, determinism, golden, families,
                                 models.serve, models.models, peers, sanitizer)}


def options():
    p = argparse.ArgumentParser(usage="tests/gpu/run [options]; see the head of tests/gpu/run")
    p.add_argument("--pack")
    p.add_argument("--build", default="build")
    p.add_argument("--out", default="tests/out/gpu.json")
    p.add_argument("--parts")
    p.add_argument("--emulated", action="store_true")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--limit", type=float, default=540)
    p.add_argument("--models")
    p.add_argument("--shapes", default="1b,8b,8b-fp8,8b-int4")
    args = p.parse_args()
    strange = set(filter(None, args.shapes.split(","))) - set(models.SHAPE_FILES)
    if strange:
        p.error(f"no shape is called {min(strange)}; there are {', '.join(models.SHAPE_FILES)}")
    chosen = args.parts.split(",") if args.parts else EMULATED if args.emulated else list(PARTS)
    unknown = [n for n in chosen if n not in PARTS]
    if unknown:
        p.error(f"no part is called {unknown[0]}; there are {', '.join(PARTS)}")
    args.out = os.path.abspath(args.out)
    args.chosen = [n for n in PARTS if n in chosen]
    return args


def print_row(r):
    state = "FAILED" if r["failed"] else "ok" if r["passed"] else "-"
    print(f"{state:6} {r['part']:12} {r['name']:36} {r['passed']:7} passed {r['failed']:3} failed"
          f" {r['seconds']:6} s  {r['note']}", flush=True)


def write(args, place, rows, start):
    with open(args.out, "w") as f:
        json.dump({"emulated": place.emulated, "seconds": round(time.time() - start, 1),
                   "rows": rows}, f, indent=1)


def run_parts(place, args):
    rows, begin = [], time.time()
    for name in args.chosen:
        start = time.time()
        if place.seconds(10) < 5:
            found = [skipped(name, "no time was left")]
        else:
            found = PARTS[name](place, args)
        for r in found:
            r["part"], r["seconds"] = name, round(time.time() - start, 1)
            rows.append(r)
            print_row(r)
            start = time.time()
        write(args, place, rows, begin)
        if name == "device" and rows[-1]["failed"]:
            break
    return rows


def main():
    args = options()
    os.chdir(ROOT)
    os.makedirs("tests/out", exist_ok=True)
    open(models.LOG, "wb").close()
    place = Place(args)
    args.maker = models.Maker(args)
    try:
        if {"models", "peers"} & set(args.chosen):
            args.maker.start()
        rows = run_parts(place, args)
    finally:
        args.maker.done()
        place.done()
    passed, failed = (sum(r[k] for r in rows) for k in ("passed", "failed"))
    n = sum(r["note"].startswith("skipped") for r in rows)
    print(f"{passed} passed, {failed} failed, {n} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
