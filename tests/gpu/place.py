"""Where the programs of tests/gpu/run are, how they are started, how their output is counted."""
import os
import re
import shutil
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COUNTS = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped", re.M)
CHECK = re.compile(r"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)", re.M)


class Place:
    """The programs, the environment that makes them use the device, and the time that is left."""

    def __init__(self, args):
        pack = args.pack or ("build-gpu-pack" if os.path.isdir("build-gpu-pack") else None)
        self.emulated = args.emulated
        self.end = time.time() + args.limit
        self.cwd, self.own = ROOT, []  # own: temporary folders
        self.env = dict(os.environ, PAGODA_TEST_DEVICE="cuda", CK_TIMEOUT_MULTIPLIER="30",
                        CK_FORK="no")
        self.packed = bool(pack and not args.emulated)
        if self.packed:
            self.use_pack(os.path.abspath(pack))
        else:
            self.bin = os.path.abspath(args.build)
            self.folders = {"pagoda": "", "checkkern": "tests/kernels", "bench_gpu": "tests/gpu",
                            "bench_steps": "tests/gpu"}
        if args.emulated:
            self.env["PAGODA_CUDA_LIBRARY"] = os.path.join(self.bin,
                                                           "tests/simt/libpagoda_cuda_simt.so")

    def use_pack(self, pack):
        archive = os.path.join(pack, "pack.tar.gz")
        if os.path.exists(archive):
            pack = tempfile.mkdtemp(prefix="pagoda-pack-")
            self.own.append(pack)
            subprocess.run(["tar", "-C", pack, "-xzf", archive], check=True)
        self.bin, self.folders = os.path.join(pack, "bin"), None
        # Of these programs alone: compilers and frameworks of this machine keep their libraries.
        self.env["LD_LIBRARY_PATH"] = os.path.join(pack, "lib")
        self.env["PAGODA_CUDA_LIBRARY"] = os.path.join(self.bin, "libpagoda_cuda.so")
        data = os.path.join(pack, "data")
        if os.path.isdir(data) and not os.path.isdir("../shared/data"):
            self.cwd = beside_data(data)
            self.own.append(os.path.dirname(self.cwd))

    def done(self):
        for folder in self.own:
            shutil.rmtree(folder, ignore_errors=True)

    def program(self, name):
        folder = self.folders.get(name, "tests") if self.folders is not None else ""
        return os.path.join(self.bin, folder, name)

    def seconds(self, most):
        """How long something may take that would like to take so long."""
        return max(min(most, self.end - time.time()), 0)

    def run(self, cmd, most, env=None):
        """(exit status or None for a time-out, output)"""
        limit = self.seconds(most)
        if limit < 3:
            return None, "no time was left"
        try:
            done = subprocess.run(cmd, env=env or self.env, cwd=self.cwd, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, timeout=limit,
                                  errors="replace", stdin=subprocess.DEVNULL)
            return done.returncode, done.stdout
        except subprocess.TimeoutExpired as e:
            return None, (e.stdout or b"").decode(errors="replace")
        except OSError as e:
            return -1, str(e)


def beside_data(data):
    """A folder like the project's root that has the test data at ../shared/data: tests name it so."""
    top = tempfile.mkdtemp(prefix="pagoda-gpu-")
    tree = os.path.join(top, "tree")
    os.mkdir(tree)
    for name in os.listdir(ROOT):
        os.symlink(os.path.join(ROOT, name), os.path.join(tree, name))
    os.mkdir(os.path.join(top, "shared"))
    os.symlink(data, os.path.join(top, "shared", "data"))
    return tree


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
    """A row of the table from what a test program did."""
    passed, failed = counts(code, text)
    if failed:
        note = ("timed out: " if code is None else f"status {code}: ") + text.strip()[-800:]
    return {"name": name, "passed": passed, "failed": failed, "note": note}


def skipped(name, why):
    return {"name": name, "passed": 0, "failed": 0, "note": "skipped: " + why}
