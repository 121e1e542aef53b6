#!/usr/bin/env python3
"""Random small templates through Python's jinja2 and through our engine: every difference is printed.

Needs: pip install jinja2. The engine is driven through the program render_lines of the build tree.

    compare_jinja.py build/tests/tokenizer/render_lines [--n 5000] [--seed 1] [--errors]
    compare_jinja.py build/tests/tokenizer/render_lines --templates DIR [--n 20]

With --templates, every *.jinja file below DIR is rendered over n drawn conversations instead. Texts must be equal; where Python raises, we must raise too (--errors: with the same words).
"""
import argparse
import copy
import datetime
import json
import pathlib
import random
import re
import subprocess
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

CONTEXT = {
    "s": "Hello, World",
    "t": "  aB c\td\n",
    "u": "naïve Straße ΑΣ 🍂 日本",
    "e": "",
    "q": "it's \"q\" <b>&\\",
    "i": 7,
    "z": 0,
    "m": -3,
    "f": 2.5,
    "g": -0.125,
    "b": True,
    "c": False,
    "n": None,
    "l": [3, 1, 2],
    "w": ["b", "A", "c", "a"],
    "k": [],
    "x": [1, "a", None, 2.5, [1, 2], {"a": 1}],
    "d": {"a": 1, "b": "two", "items": [1], "C": None},
    "o": {},
    "p": [{"name": "bob", "age": 3, "t": {"v": 1}}, {"name": "Al", "age": 1, "t": {"v": 5}},
          {"name": "cy", "age": 2, "on": True, "t": {"v": 3}}],
    "messages": [{"role": "system", "content": "be nice"}, {"role": "user", "content": "hi  "},
                 {"role": "assistant", "content": "", "tool_calls": [
                     {"type": "function", "function": {"name": "f", "arguments": {"a": [1, 2], "b": "x"}}}]},
                 {"role": "user", "content": [{"type": "text", "text": "part"}]}],
}
NAMES = list(CONTEXT) + ["nope"]
STRS = ["''", "'a'", "'b'", "'ab'", "' '", "','", "'l'", "'Hello'", "'é'", "'ß'", "'%s'", "'1'", "'2.5'", "'x y z'", "'\\n'",
        "'name'", "'age'", "'a.b'", "'t.v'", "'<x>'", "'A-b c(d'", "' 12 '", "'aXbX'", "'0x1f'", "'1e3'"]
INTS = ["0", "1", "2", "3", "-1", "-2", "5", "10", "1000"]
FLOATS = ["0.5", "1.0", "2.25", "-1.5", "1e3", "1e-7", "1e16", "123456.789", "0.1"]
FILTERS0 = ["trim", "length", "count", "upper", "lower", "title", "capitalize", "first", "last", "list",
            "tojson", "string", "int", "float", "abs", "round", "sum", "sort", "unique", "reverse", "items",
            "dictsort", "wordcount", "safe", "escape", "e", "urlencode", "min", "max", "striptags", "indent",
            "join", "default", "d", "pprint" if False else "string", "xmlattr", "forceescape", "filesizeformat", "center(9)"]
TESTS0 = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "iterable",
          "sequence", "callable", "odd", "even", "true", "false", "lower", "upper", "escaped"]
TESTS1 = ["divisibleby", "equalto", "eq", "ne", "lt", "gt", "le", "ge", "in", "sameas"]
METHODS = ["strip()", "lstrip()", "rstrip()", "strip({s})", "split()", "split({s})", "split({s}, {i})", "split(none, {i})", "rsplit({s}, {i})",
           "rsplit(none, {i})", "replace({s}, {s})", "replace({s}, {s}, {i})", "startswith({s})", "endswith({s})", "upper()", "lower()",
           "title()", "capitalize()", "find({s})", "rfind({s})", "find({s}, {i})", "find({s}, {i}, {i})", "index({s})", "count({s})", "join({l})", "items()", "keys()",
           "values()", "get({s})", "get({s}, {e})", "splitlines()", "splitlines(true)", "isdigit()", "isalpha()", "isalnum()", "isspace()", "islower()",
           "isupper()", "istitle()", "zfill({i})", "center({i})", "ljust({i}, 'x')", "rjust({i})", "swapcase()", "casefold()",
           "partition({s})", "rpartition({s})", "removeprefix({s})", "removesuffix({s})", "format({e})", "format(a={e})", "expandtabs({i})",
           "append({e})", "pop()", "copy()", "index({e})", "count({e})", "isnumeric()", "isdecimal()", "isidentifier()", "isprintable()", "isascii()",
           "startswith(({s}, {s}))", "update({e})", "bit_length()", "is_integer()"]


class Gen:
    def __init__(self, rng):
        self.r = rng

    def pick(self, xs):
        return self.r.choice(xs)

    def string(self):
        return self.pick(STRS)

    def atom(self):
        k = self.r.random()
        if k < 0.5:
            return self.pick(NAMES)
        if k < 0.65:
            return self.string()
        if k < 0.8:
            return self.pick(INTS)
        if k < 0.87:
            return self.pick(FLOATS)
        if k < 0.9:
            return self.pick(["true", "false", "none", "True", "None"])
        if k < 0.94:
            return "[%s]" % ", ".join(self.atom() for _ in range(self.r.randrange(4)))
        if k < 0.97:
            return "(%s,)" % ", ".join(self.atom() for _ in range(1 + self.r.randrange(3)))
        return "{%s}" % ", ".join("%s: %s" % (self.pick(STRS + INTS), self.atom()) for _ in range(self.r.randrange(3)))

    def args(self, fmt, d):
        return (fmt.replace("{i}", "\0i").replace("{s}", "\0s").replace("{e}", "\0e").replace("{l}", "\0l")
                .replace("\0i", self.pick(INTS)).replace("\0s", self.string())
                .replace("\0e", self.expr(d - 1)).replace("\0l", self.pick(["w", "l", "k", "s", "d", "x"])))

    def slice(self, d):
        part = lambda: self.pick(["", "", self.pick(INTS), self.pick(INTS)])
        k = self.r.random()
        return "%s:%s" % (part(), part()) if k < 0.5 else "%s:%s:%s" % (part(), part(), part())

    def filter(self, d):
        k = self.r.random()
        if k < 0.45:
            return self.pick(FILTERS0)
        return self.args(self.pick([
            "default({e})", "default({e}, true)", "join({s})", "join({s}, attribute={s})", "replace({s}, {s})",
            "replace({s}, {s}, {i})", "indent({i})", "indent({i}, true)", "indent({i}, false, true)", "indent({s}, first=true)", "tojson(indent={i})", "tojson(indent=2)", "tojson(separators=(',', ':'))",
            "tojson(sort_keys=true)", "tojson(ensure_ascii=true)", "round({i})", "round({i}, 'floor')", "round(1, 'ceil')",
            "map('upper')", "map(attribute={s})", "map(attribute='name')", "map(attribute='name') | list", "map('int') | list", "map(attribute='nope', default={e}) | list",
            "select", "select('odd') | list", "reject('none') | list", "select('string') | list", "selectattr('on') | list", "selectattr('age', 'gt', 1) | list",
            "rejectattr('age', 'equalto', 2) | map(attribute='name') | list", "selectattr('role', 'equalto', 'user') | list",
            "selectattr('role', 'in', ['user', 'system']) | list | length", "sort(reverse=true)", "sort(case_sensitive=true)", "sort(attribute='age')", "sort(attribute='name')",
            "sort(attribute='t.v', reverse=true) | map(attribute='name') | join(',')", "groupby('age')", "groupby('role') | list", "unique | list", "unique(case_sensitive=true) | list", "batch({i}) | list", "batch(2, {e}) | list", "slice({i}) | list",
            "slice(2, {e}) | list", "dictsort(by='value')", "dictsort(reverse=true)", "sum(attribute='age')", "sum(start={e})", "min(attribute='age')", "max(attribute='t.v')",
            "truncate({i})", "truncate(8, true)", "truncate(8, false, '..', 0)", "center({i})", "format({e})", "format({e}, {e})", "trim({s})", "int({i})", "int(0, 16)", "int(base=8)", "float({e})", "attr({s})",
            "list | tojson", "items | list", "first | upper", "last | string", "reverse | list", "wordcount", "xmlattr(false)", "nofilter", "length({i})", "upper({e})", "filesizeformat(true)", "string | length"]), d)

    def expr(self, d):
        if d <= 0:
            return self.atom()
        k = self.r.randrange(20)
        if k < 3:
            return self.atom()
        if k < 6:
            op = self.pick(["+", "-", "*", "/", "//", "%", "**", "~", "~", "+"])
            right = self.expr(d - 1) if op != "**" else self.pick(["0", "1", "2", "3", "-1", "0.5"])
            return "%s %s %s" % (self.expr(d - 1), op, right)
        if k == 6:
            return "%s %s %s" % (self.expr(d - 1), self.pick(["==", "!=", "<", ">", "<=", ">=", "in", "not in"]), self.expr(d - 1))
        if k == 7:
            return "%s %s %s" % (self.expr(d - 1), self.pick(["and", "or"]), self.expr(d - 1))
        if k == 8:
            return self.pick(["not %s", "-%s", "+%s", "(%s)", "not (%s)", "-(%s)"]) % self.expr(d - 1)
        if k == 9:
            return "(%s if %s else %s)" % (self.expr(d - 1), self.expr(d - 1), self.expr(d - 1)) if self.r.random() < .8 else "(%s if %s)" % (self.expr(d - 1), self.expr(d - 1))
        if k == 10:
            neg = self.pick(["is", "is", "is not"])
            if self.r.random() < .6:
                return "%s %s %s" % (self.expr(d - 1), neg, self.pick(TESTS0))
            return "%s %s %s(%s)" % (self.expr(d - 1), neg, self.pick(TESTS1), self.expr(d - 1))
        if k in (11, 12):
            return "%s[%s]" % (self.pick(NAMES), self.slice(d) if self.r.random() < .6 else self.expr(d - 1))
        if k == 13:
            return "%s.%s" % (self.pick(NAMES + ["p[0]", "d.b", "messages[2].tool_calls[0].function"]),
                              self.pick(["a", "b", "name", "role", "content", "0", "1", "items", "t.v", "real", "nope", "_x", "__class__", "upper", "keys"]))
        if k in (14, 15):
            return "%s.%s" % (self.pick(NAMES[:-1] + ["(%s)" % self.expr(d - 1)]), self.args(self.pick(METHODS), d))
        if k in (16, 17, 18):
            return "%s | %s" % (self.expr(d - 1) if self.r.random() < .4 else self.pick(NAMES), self.filter(d))
        return self.pick(["range(%s) | list" % self.pick(INTS), "range(%s, %s, %s) | list" % (self.pick(INTS), self.pick(INTS), self.pick(INTS)),
                          "range(%s)" % self.pick(INTS), "dict(a=%s)" % self.atom(), "dict(%s)" % self.pick(NAMES), "namespace(a=%s).a" % self.atom(),
                          "'%%s|%%r' %% (%s, %s)" % (self.atom(), self.atom()), "'%%5.2f|%%-4d|%%x' %% (%s, %s, %s)" % (self.atom(), self.atom(), self.atom()),
                          "'{}|{!r}|{:>6}|{:.2f}'.format(%s, %s, %s, %s)" % (self.atom(), self.atom(), self.atom(), self.atom()),
                          "range(%s)[%s]" % (self.pick(INTS), self.slice(d)), "[%s, %s] | %s" % (self.expr(d - 1), self.expr(d - 1), self.filter(d)), "'{0[a]} {b.a}'.format(d, b=d)",
                          "strftime_now('%Y-%m-%d %H')", "raise_exception(%s)" % self.string()])

    def space(self):
        return self.pick(["", "", " ", "\n", "  ", "\n  ", "x", "x\n", "\t", " y "])

    def tag(self, body):
        return "{%" + self.pick(["", "", "-", "+"]) + " " + body + " " + self.pick(["", "", "-", "+"]) + "%}"

    def out(self, d):
        return "{{" + self.pick(["", "", "-"]) + " " + self.expr(d) + " " + self.pick(["", "", "-"]) + "}}"

    def block(self, d):
        parts = []
        for _ in range(1 + self.r.randrange(3)):
            parts += [self.space(), self.stmt(d)]
        return "".join(parts) + self.space()

    def stmt(self, d):
        if d <= 0:
            return self.out(1)
        k = self.r.randrange(22)
        T = self.tag
        if k < 6:
            return self.out(self.r.randrange(3))
        if k < 8:
            name = self.pick(["s", "v", "i", "l", "v2"])
            return T("set %s = %s" % (name, self.expr(2)))
        if k == 8:
            return T("set v") + self.block(d - 1) + T("endset")
        if k == 9:
            return T("set ns = namespace(a=%s)" % self.atom()) + self.space() + T("set ns.a = %s" % self.pick(["ns.a ~ 'x'", self.expr(1)])) + "{{ ns.a }}"
        if k == 10:
            return T("if %s" % self.expr(2)) + self.block(d - 1) + (T("elif %s" % self.expr(1)) + self.block(d - 1) if self.r.random() < .4 else "") + \
                (T("else") + self.block(d - 1) if self.r.random() < .5 else "") + T("endif")
        if k < 15:
            target = self.pick(["v", "v", "s", "i", "a, b", "k, v"])
            it = self.pick(["l", "w", "x", "p", "d", "s", "messages", "range(3)", "d.items()", "d | dictsort", "p | map(attribute='name')", "[[1, 2], [3, 4]]", "k", "nope", self.expr(1)])
            cond = self.pick(["", "", "", " if v", " if loop is defined", " if %s" % self.expr(1), " if not loop.first"])
            rec = self.pick(["", "", "", "", " recursive"])
            extra = self.pick(["", "", "{{ loop.index }}", "{{ loop.last }}", "{{ loop.length }}", "{{ loop.previtem }}", "{{ loop.nextitem is defined }}", "{{ loop.cycle('a', 'b') }}", "{{ loop.revindex0 }}", "{{ loop.changed(v) }}", "{{ loop.depth }}", "{{ loop }}", "{% if loop.first %}{% continue %}{% endif %}",
                               "{% if loop.index > 1 %}{% break %}{% endif %}", "{{ v }}", "{% set acc = v %}{{ acc }}", "{{ loop(v) }}" if rec else "{{ v }}", "{{ loop(v.kids) if v.kids is defined }}" if rec else ""])
            return T("for %s in %s%s%s" % (target, it, cond, rec)) + extra + self.block(d - 1) + (T("else") + self.block(d - 1) if self.r.random() < .25 else "") + T("endfor")
        if k == 15:
            sig = self.pick(["a", "a, b=1", "a, b=a, c='z'", "", "a, caller=none"])
            body = self.pick(["{{ a }}", "{{ a }}{{ b }}", "{{ varargs }}", "{{ kwargs }}", "{{ caller() if caller }}", "{{ v }}{{ s }}", ""])
            call = self.pick(["m(1)", "m(1, 2)", "m(a=1)", "m(1, b=%s)" % self.atom(), "m()", "m(*l)", "m(**d)", "m(1, 2, 3, 4)", "m(1, z=2)", "m.name", "m"])
            return T("macro m(%s)" % sig) + body + self.block(d - 1) + T("endmacro") + self.space() + "{{ %s }}" % call
        if k == 16:
            return T("macro m2(x)") + "[{{ caller(%s) }}]" % self.pick(["", "x", "x, 1"]) + T("endmacro") + T("call%s m2(%s)" % (self.pick(["", "(y)", "(y, z=2)"]), self.atom())) + "{{ y }}" + self.block(d - 1) + T("endcall")
        if k == 17:
            return T("filter %s" % self.pick(["upper", "trim", "indent(2)", "replace('a', 'b')", "title"])) + self.block(d - 1) + T("endfilter")
        if k == 18:
            return T("with %s" % self.pick(["v = 1", "v = s, i = v", "", "a = l"])) + self.block(d - 1) + T("endwith")
        if k == 19:
            return self.pick(["{# c #}", "{#- c -#}", "{# c +#}\n", "\n  {# c #}\n", "{#+ c -#}  "])
        if k == 20:
            return T("generation") + self.block(d - 1) + T("endgeneration")
        return self.pick(["{% raw %}", "{%- raw -%}", "{%+ raw %}"]) + self.pick(["{{ x }}", " {% if %} ", "\n"]) + T("endraw")

    def template(self):
        k = self.r.random()
        if k < 0.55:
            return "{{ %s }}" % self.expr(1 + self.r.randrange(3))
        return self.block(1 + self.r.randrange(3))


def conversation(r):
    """Template variables of a chat: turns, tools, calls, parts, odd members."""
    words = ["Hello", "  spaced  ", "", "两行\n🍂", "<b>&\"'", "<think>a\nb</think>\n\nc", "{{ x }}", "a</think>b", "1", "[TOOL]"]
    tool = {"type": "function", "function": {"name": "get", "description": "Gets <it>", "parameters": {
        "type": "object", "properties": {"q": {"type": "string", "description": "d", "enum": ["a", "b"]},
                                         "n": {"type": ["integer", "null"], "default": 2.5},
                                         "l": {"type": "array", "items": {"type": "object", "properties": {"z": {"type": "number"}}}}},
        "required": ["q"]}, "return": {"type": "string"}}}
    messages = []
    if r.random() < .4:
        messages.append({"role": r.choice(["system", "system", "developer"]), "content": r.choice(words)})
    for i in range(r.randrange(6)):
        role = ["user", "assistant"][i % 2] if r.random() < .85 else r.choice(["user", "assistant", "tool", "ipython", "function", "system"])
        m = {"role": role, "content": r.choice(words)}
        if r.random() < .15:
            m["content"] = [{"type": "text", "text": r.choice(words)} for _ in range(r.randrange(3))]
        if r.random() < .05:
            m["content"] = None
        if r.random() < .05:
            del m["content"]
        if role == "assistant" and r.random() < .35:
            m["tool_calls"] = [{"id": "abcdef12%d" % k, "type": "function", "function": {
                "name": "get", "arguments": r.choice([{"q": "a", "n": None}, {}, {"l": [{"z": 1.5}]}, '{"q": 1}'])}}
                for k in range(1 + r.randrange(2))]
        if role == "tool":
            m.update(r.choice([{"tool_call_id": "abcdef120", "name": "get"}, {"name": "get"}, {}]))
        if r.random() < .15:
            m[r.choice(["reasoning_content", "thinking", "name", "reasoning", "prefix"])] = r.choice(words)
        messages.append(m)
    v = {"messages": messages, "add_generation_prompt": r.random() < .7, "bos_token": "<s>", "eos_token": "</s>"}
    for key, values in {"tools": [None, [], [tool], [tool, tool]], "enable_thinking": [True, False], "documents": [None, [{"title": "t", "text": "x"}]],
                        "builtin_tools": [["code_interpreter"]], "reasoning_effort": ["high", "low"], "date_string": ["1 Jan 2025"], "thinking": [True],
                        "pad_token": ["<pad>"], "unk_token": ["<unk>"], "tools_in_user_message": [False, True], "xml_tools": [["a"]], "keep_past_thinking": [True]}.items():
        if r.random() < .35:
            v[key] = r.choice(values)
    return v


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, jinja2.ext.loopcontrols])

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime(2025, 7, 10, 12).strftime(f)
    return env


def python_result(env, source, variables):
    try:
        return {"text": env.from_string(source).render(**copy.deepcopy(variables))}
    except Exception as e:  # noqa: BLE001: whatever Python raises is the expected answer
        return {"error": "%s: %s" % (type(e).__name__, e)}


def words(text):
    """Syntax errors end in their line; Jinja adds what it was looking for."""
    text = re.sub(r" \(line \d+\)$", "", text.replace("TemplateAssertionError", "TemplateSyntaxError"))
    return re.sub(r"( Jinja was looking| You probably made).*", "", text)[:480]


def same(want, got, errors):
    if "text" in want:
        return want == got
    return "error" in got and (not errors or words(want["error"]) == words(got["error"]))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("program")
    a.add_argument("--n", type=int, default=5000)
    a.add_argument("--templates")
    a.add_argument("--seed", type=int, default=1)
    a.add_argument("--show", type=int, default=25)
    a.add_argument("--errors", action="store_true")
    o = a.parse_args()
    env, bad, counts = environment(), 0, {"text": 0, "error": 0}
    rng = lambda i: random.Random("%d/%s" % (o.seed, i))
    if o.templates:
        files = sorted(pathlib.Path(o.templates).rglob("*.jinja"))
        jobs = [(f.read_bytes().decode(), conversation(rng("%s/%d" % (f.name, i)))) for f in files for i in range(o.n)]
    else:
        jobs = [(Gen(rng(i)).template(), CONTEXT) for i in range(o.n)]
    lines = "".join(json.dumps({"template": s, "vars": v}) + "\n" for s, v in jobs)
    p = subprocess.run([o.program], input=lines.encode(), stdout=subprocess.PIPE, check=False)
    lines = p.stdout.decode().split("\n")
    for (source, variables), line in zip(jobs, lines):
        want = python_result(env, source, variables)
        counts["text" if "text" in want else "error"] += 1
        if re.search(r"object at 0x|<generator|<function|<built-in|<bound method|<class|iterator object| at 0x|\dj\)", str(want), re.I):
            continue
        got = json.loads(line) if line else {"error": "no answer"}
        if same(want, got, o.errors):
            continue
        bad += 1
        if bad <= o.show:
            print("%r\n  python %r\n  ours   %r" % (variables if o.templates else source, want, got))
    print("%d templates (%d texts, %d errors), %d differences, exit %d" % (len(jobs), counts["text"], counts["error"], bad, p.returncode))
    return 1 if bad or p.returncode or len(lines) != len(jobs) + 1 else 0


if __name__ == "__main__":
    sys.exit(main())
