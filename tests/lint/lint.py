"""House rules that a program can check. Usage: lint.py [CHECK...] from the project's root.

Prints one line per breach ("file:line: what") and ends with "N passed, N failed, N skipped", one
case per check. Needs Python 3 alone; `headers` needs a C compiler, `format` clang-format 14.
"""
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

SKIPPED = object()
LINE_MAX = 100  # columns, of C
FILE_MAX = 800

# What a folder may include of the project: prefixes of rooted paths. The first match of a file's
# path rules. ARCHITECTURE of the layers: base < conf, tokenizer, kernels < engine < scheduler
# < server < tests.
BASE = ["engine/base/", "conf/limits.h"]
KERNEL_FACE = ["kernels/backend.h", "kernels/device.h", "kernels/ops.h", "kernels/ops.def",
               "kernels/tensor.h", "kernels/dtype.h", "kernels/dtype.def", "kernels/quant.h",
               "kernels/select.h", "kernels/sample_num.h", "kernels/graphs.h", "kernels/kv8.h",
               "kernels/loading.h", "kernels/feed.h", "kernels/quantize.h"]
SERVER = BASE + ["conf/", "scheduler/scheduler.h", "scheduler/request.h", "engine/batch.h",
                 "tokenizer/", "server/"]
LAYERS = [
    ("engine/base/", BASE),
    ("conf/", ["engine/base/", "conf/"]),
    ("tokenizer/", BASE + ["tokenizer/"]),
    ("kernels/cpu/",
     BASE + KERNEL_FACE + ["kernels/cpu/", "kernels/ref/", "kernels/quant_tables.h"]),
    ("kernels/ref/", BASE + KERNEL_FACE + ["kernels/ref/"]),
    ("kernels/", BASE + ["kernels/"]),
    ("engine/", BASE + ["conf/", "engine/"] + KERNEL_FACE),
    ("scheduler/", BASE + ["conf/", "engine/batch.h", "scheduler/"]),
    ("server/main.c", SERVER + ["engine/", "kernels/"]),
    ("server/cmd", SERVER + ["engine/", "kernels/"]),
    ("server/", SERVER),
    ("tests/", [""]),
]

# Where third-party headers may appear.
THIRD_PARTY = [
    ("microhttpd.h", ["server/", "tests/"]),
    ("systemd/", ["server/"]),
    ("liburing.h", ["engine/"]),
    ("yaml.h", ["conf/yaml"]),
    ("pcre2.h", ["tokenizer/"]),
    ("utf8proc.h", ["tokenizer/"]),
    ("jansson.h", ["engine/", "tokenizer/", "server/", "tests/", "kernels/cpu/probe"]),
    ("check.h", ["tests/"]),
    ("curl/", []),
    ("cuda_runtime.h", ["kernels/cuda/"]),
]

# Spelled in pieces, so that this file does not find itself.
OUTSIDE = re.compile("|".join([r"\." + "library", "sub" + "agent", r"\bthis " + r"session\b",
                               "/wo" + "rk/", "pypi" + r"\.org", "files." + "pythonhosted"]))
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK",
                                           "not " + "implemented", "un" + "implemented",
                                           "st" + "ub"]) + r")\b")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def tracked():
    """Files of the tree: what git follows, or all (an exported tree)."""
    out = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                         capture_output=True)
    if out.returncode == 0 and out.stdout:
        names = out.stdout.decode().split("\0")
        return sorted(n for n in names if n and os.path.isfile(n))
    found = []
    for top, dirs, files in os.walk("."):
        dirs[:] = [d for d in dirs if not d.startswith(("build", ".git", ".venv"))]
        found += [os.path.relpath(os.path.join(top, f)) for f in files]
    return sorted(found)


def lines(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read().split("\n")


def sources(files):
    return [f for f in files if f.endswith((".c", ".h", ".def", ".cu", ".cuh"))]


def check_layers(files):
    """An include points only down."""
    bad = []
    for path in sources(files):
        allowed = next((a for prefix, a in LAYERS if path.startswith(prefix)), None)
        if allowed is None:
            bad.append(f"{path}: belongs to no layer")
            continue
        for i, line in enumerate(lines(path), 1):
            m = INCLUDE.match(line)
            if not m:
                continue
            kind, name = m.groups()
            if kind == '"' and not os.path.exists(name):
                bad.append(f"{path}:{i}: {name} is not a path from the project's root")
            elif kind == '"' and not any(name.startswith(a) for a in allowed):
                bad.append(f"{path}:{i}: this layer may not include {name}")
            for header, places in THIRD_PARTY:
                if kind == "<" and name.startswith(header):
                    if not any(path.startswith(p) for p in places):
                        bad.append(f"{path}:{i}: <{name}> is not for this folder")
    return bad


def isa_flags(path):
    if "avx512" in path or "amx" in path or "vnni" in path:
        return ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mfma",
                "-mavx2"]
    return ["-mavx2", "-mfma", "-mf16c"] if "avx2" in path else []


def check_headers(files):
    """Each header compiles alone."""
    cc = os.environ.get("CC", "cc")
    if not shutil.which(cc.split()[0]):
        return SKIPPED

    def compile_one(path):
        flags = isa_flags(path) if os.uname().machine == "x86_64" else []
        cmd = cc.split() + ["-x", "c", "-std=gnu11", "-D_GNU_SOURCE", "-I.", "-Wall", "-Wextra",
                            "-Wno-unused-parameter", "-Wno-unused-function", "-Werror",
                            '-DPAGODA_VERSION="0"', "-fsyntax-only", *flags, "-"]
        # Twice: the guard must hold.
        text = f'#include "{path}"\n#include "{path}"\n'
        run = subprocess.run(cmd, input=text, capture_output=True, text=True)
        return None if run.returncode == 0 else f"{path}: {run.stderr.strip().splitlines()[0]}"

    # Headers of device code are compiled with the kernels that include them.
    def is_device(path):
        return path.startswith("tests/simt/") or (path.startswith("kernels/cuda/") and any(
            word in line for line in lines(path) for word in ("cuda_runtime.h", "cuda/cu.h", "cuda/cu_", "cuda/cuda_backend.h")))

    # A header of intrinsics is of one architecture.
    def is_foreign(path):
        machine = os.uname().machine
        return "avx" in path and machine != "x86_64" or "neon" in path and machine != "aarch64"

    headers = [f for f in files
               if f.endswith(".h") and not is_device(f) and not is_foreign(f)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [r for r in pool.map(compile_one, headers) if r]


def check_text(files):
    """No tabs, no trailing blanks, no long lines, no very long files, a final newline."""
    bad = []
    for path in files:
        if not path.endswith((".c", ".h", ".def", ".py", ".sh", ".build", ".lua")):
            continue
        text = lines(path)
        if text[-1]:
            bad.append(f"{path}: no newline at the end")
        if path.endswith((".c", ".h")) and len(text) - 1 > FILE_MAX:
            bad.append(f"{path}: {len(text) - 1} lines, look for a seam")
        for i, line in enumerate(text, 1):
            if "\t" in line:
                bad.append(f"{path}:{i}: tab")
            if line != line.rstrip():
                bad.append(f"{path}:{i}: blanks at the end")
            if len(line) > LINE_MAX and path.endswith((".c", ".h")):
                bad.append(f"{path}:{i}: {len(line)} columns")
    return bad


def check_format(files):
    """As .clang-format says."""
    tool = shutil.which("clang-format-14") or shutil.which("clang-format")
    if not tool:
        return SKIPPED
    version = subprocess.run([tool, "--version"], capture_output=True, text=True).stdout
    if "version 14." not in version:
        return SKIPPED
    code = [f for f in files if f.endswith((".c", ".h"))]
    run = subprocess.run([tool, "--dry-run", "-Werror", "--ferror-limit=1", *code],
                         capture_output=True, text=True)
    return [line for line in run.stderr.splitlines() if "error:" in line]


def check_words(files):
    """Finished, and speaking of itself alone."""
    bad = []
    for path in files:
        if path.endswith((".safetensors", ".png", ".bin", ".txt", ".json", ".jsonl")):
            continue
        if path.startswith("tests/fuzz/corpus/"):
            continue
        is_code = path.endswith((".c", ".h", ".cu", ".cuh", ".py", ".sh", ".js", ".def", ".lua"))
        for i, line in enumerate(lines(path), 1):
            if OUTSIDE.search(line):
                bad.append(f"{path}:{i}: a word of some workplace: {line.strip()[:60]}")
            if is_code and UNFINISHED.search(line):
                bad.append(f"{path}:{i}: unfinished: {line.strip()[:60]}")
    return bad


def check_readmes(files):
    """Each folder says what it is; the top level is fixed."""
    tops = {"server", "engine", "kernels", "scheduler", "tokenizer", "conf", "tests", "deploy"}
    have = set(files)
    bad = [f"{t}/: no README.md" for t in sorted(tops) if f"{t}/README.md" not in have]
    for path in files:
        top = path.split("/")[0]
        if "/" in path and top not in tops and not top.startswith("."):
            bad.append(f"{path}: the top level has no place for {top}/")
    for path in files:
        if not path.endswith(".md"):
            continue
        for i, line in enumerate(lines(path), 1):
            for target in re.findall(r"\]\(([^)#]+)[^)]*\)", line):
                if "://" in target:
                    continue
                if not os.path.exists(os.path.join(os.path.dirname(path), target)):
                    bad.append(f"{path}:{i}: links to {target}, which is not there")
    return bad


def check_shell(files):
    """Scripts parse."""
    bad = []
    for path in files:
        first = lines(path)[0] if os.path.getsize(path) < 1 << 20 else ""
        if not first.startswith("#!") or "sh" not in first.split("/")[-1]:
            continue
        shell = "bash" if "bash" in first else "sh"
        run = subprocess.run([shell, "-n", path], capture_output=True, text=True)
        if run.returncode:
            bad.append(f"{path}: {run.stderr.strip().splitlines()[0]}")
        if not os.access(path, os.X_OK):
            bad.append(f"{path}: not executable")
    return bad


CHECKS = {"layers": check_layers, "headers": check_headers, "text": check_text,
          "format": check_format, "words": check_words, "readmes": check_readmes,
          "shell": check_shell}


def main(names):
    files = tracked()
    passed = failed = skipped = 0
    for name in names or CHECKS:
        bad = CHECKS[name](files)
        if bad is SKIPPED:
            skipped += 1
            print(f"{name}: skipped, its tool is not there")
            continue
        for b in bad[:40]:
            print(f"{name}: {b}")
        if len(bad) > 40:
            print(f"{name}: and {len(bad) - 40} more")
        passed, failed = passed + (not bad), failed + bool(bad)
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
