"""Count test cases in meson's log and print "N passed, N failed, N skipped".

A program that prints Check's summary ("100%: Checks: 12, Failures: 0, Errors: 0") or a line of the
form "12 passed, 0 failed, 1 skipped" counts as that many cases; any other counts as one. A line
that begins with SKIP is a case that ran but found its data or tool missing. Exit status 1 when
anything failed.
"""
import json
import re
import sys

CHECK = re.compile(r"^\d+%: Checks: (\d+), Failures: (\d+), Errors: (\d+)", re.M)
TOTAL = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped", re.M)
SKIP = re.compile(r"^\s*SKIP\b", re.M | re.I)


def cases(test):
    """(passed, failed, skipped) of one test program."""
    text = test.get("stdout") or ""
    result = test["result"]
    if result == "SKIP":
        return 0, 0, 1
    passed = failed = skipped = 0
    for checks, failures, errors in CHECK.findall(text):
        failed += int(failures) + int(errors)
        passed += int(checks) - int(failures) - int(errors)
    totals = TOTAL.findall(text)
    if totals:
        p, f, s = map(int, totals[-1])
        passed, failed, skipped = passed + p, failed + f, skipped + s
    elif passed:
        skipped = min(len(SKIP.findall(text)), passed)
        passed -= skipped
    if result not in ("OK", "EXPECTEDFAIL"):
        failed = max(failed, 1)
    elif passed + failed + skipped == 0:
        passed = 1
    return passed, failed, skipped


def main(path):
    total = [0, 0, 0]
    failures = []
    with open(path, encoding="utf-8") as f:
        for line in f:
            test = json.loads(line)
            counts = cases(test)
            total = [a + b for a, b in zip(total, counts)]
            if counts[1]:
                failures.append(f"{test['name']} ({test['result']})")
    for name in failures:
        print(f"failed: {name}")
    print("{} passed, {} failed, {} skipped".format(*total))
    return 1 if total[1] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
