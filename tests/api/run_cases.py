"""Data-driven API tests: tests/api/cases/*.case against a server of their own.

A file is a list of blocks separated by blank lines; '#' lines are comments.

    server: --strict 1                 options of the server for the cases that follow

    name of the case
    POST /v1/completions               method and path
    Authorization: Bearer x            headers, if any
    {"prompt": "a", "n": 0}            the body, one line or several; <%"a" * 100%> is Python
    -> 400                             expected status
    error.param = "n"                  the member equals this JSON value
    error.message ~ from 1 to          the text contains this
    choices.# = 2                      the number of entries
    header allow = GET, HEAD, OPTIONS  a response header
    no choices.0.logprobs.content      the member is absent or null

With `stream`, the answer is the list of events and paths begin with an index.
"""

import glob
import http.client
import json
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from harness import Server, sse_events  # noqa: E402

HEADER = re.compile(r"^([A-Za-z-]+): (.*)$")
EVALUATED = re.compile(r"<%(.*?)%>")


def member(value, path):
    for step in path.split("."):
        if step == "#":
            return len(value)
        if isinstance(value, list):
            i = int(step)
            if not -len(value) <= i < len(value):
                return None
            value = value[i]
        elif isinstance(value, dict):
            value = value.get(step)
        else:
            return None
    return value


def check(line, status, headers, answer):
    if line.startswith("header "):
        name, want = line[7:].split(" = ", 1)
        have = headers.get(name)
        return have == want, have
    if line.startswith("no "):
        have = member(answer, line[3:])
        return have is None, have
    if " ~ " in line:
        path, want = line.split(" ~ ", 1)
        have = member(answer, path)
        return isinstance(have, str) and want in have, have
    path, want = line.split(" = ", 1)
    have = member(answer, path)
    return have == json.loads(want), have


def run_case(server, lines):
    request, expected = [], []
    for line in lines[1:]:
        (expected if expected or line.startswith("-> ") else request).append(line)
    method, path = request[0].split(" ", 1)
    headers, i = {}, 1
    while i < len(request) and HEADER.match(request[i]):
        name, value = HEADER.match(request[i]).groups()
        headers[name] = value
        i += 1
    body = "\n".join(request[i:])
    body = EVALUATED.sub(lambda m: str(eval(m.group(1))), body) or None
    try:
        status, got, data = server.request(method, path, body, headers)
    except (OSError, http.client.HTTPException) as e:
        return "no answer: %r" % e
    if status != int(expected[0][3:]):
        return "status %d, expected %s: %s" % (status, expected[0][3:], data[:300])
    if got.get("content-type", "").startswith("text/event-stream"):
        answer = sse_events(data)
    else:
        try:
            answer = json.loads(data)
        except ValueError:
            answer = data.decode(errors="replace")
    for line in expected[1:]:
        ok, have = check(line, status, got, answer)
        if not ok:
            return "%s\n    found %s" % (line, json.dumps(have)[:400])
    return None


def blocks(path):
    with open(path, encoding="utf-8") as f:
        text = "".join(line for line in f if not line.startswith("#"))
    return [b.splitlines() for b in re.split(r"\n\s*\n", text.strip()) if b.strip()]


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    passed = failed = 0
    for path in sorted(glob.glob(os.path.join(here, "cases", "*.case"))):
        if len(sys.argv) > 1 and not any(a in path for a in sys.argv[1:]):
            continue
        server, options = None, []
        for lines in blocks(path):
            if lines[0].startswith("server:"):
                if server:
                    server.__exit__(None)
                    server = None
                options = json.loads(lines[0][7:])
                continue
            if not server:
                server = Server(*options)
            problem = run_case(server, lines)
            passed += problem is None
            if problem:
                failed += 1
                print("FAILED %s: %s\n    %s" % (os.path.basename(path), lines[0], problem))
        if server:
            server.__exit__(None)
    print("%d passed, %d failed, 0 skipped" % (passed, failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
