#!/usr/bin/env python3
"""Writes fixtures/templates.json: our own templates and the answers of Python's jinja2.

Needs: pip install jinja2. Run in tests/tokenizer/gen: make_templates.py > ../fixtures/templates.json

The first part is written by hand, one behaviour a case; the second is drawn by compare_jinja.py's
generator with a fixed seed.
"""
import copy
import json
import random
import re
import sys

from compare_jinja import CONTEXT, Gen, environment

CHATML = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + (m.content if m.content is string else "
          "m.content | map(attribute='text') | join) + '<|im_end|>\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
TOOLS = """{%- if tools %}
    {{- '<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}{{ tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools>\\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for m in messages[::-1] %}
    {%- set index = messages | length - 1 - loop.index0 %}
    {%- if m.role == 'user' and ns.last < 0 %}{% set ns.last = index %}{% endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if loop.first and m.role != 'system' %}{{- 'default\\n' }}{% endif %}
    {{- m.role }}: {{ m.content if m.content is string }}{{ '*' if loop.index0 == ns.last }}
    {%- if m.tool_calls %}
        {%- for call in m.tool_calls %}{{- '\\ncall ' ~ call.function.name ~ ' ' ~ call.function.arguments | tojson }}{% endfor %}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}"""

CASES = {
    "chatml": CHATML,
    "tools": TOOLS,
    "alternate": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}{% endfor %}",
    "scope of set in a loop": "{% set x = 0 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}",
    "scope of set in an if": "{% if l %}{% set x = 5 %}{% endif %}{{ x }}{% if k %}{% set s = 1 %}{% endif %}{{ s }}",
    "a branch hides the context": "{% if l %}{{ s }}{% set s = 1 %}{% else %}{% set s = 2 %}{% endif %}{{ s }}",
    "a later set hides the context from a macro": "{% macro m() %}[{{ s }}]{% endmacro %}{{ m() }}{% set s = 5 %}{{ m() }}",
    "macro closure": "{% for i in l %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
    "else after break": "{% for i in l %}{% break %}{% else %}else{% endfor %}",
    "else after continue": "{% for i in l %}{% continue %}{% else %}else{% endfor %}",
    "no else": "{% for i in l %}{{ i }}{% else %}else{% endfor %}",
    "recursive": "{% for i in [[1, [2, 3]], 4] recursive %}{{ loop.depth }}{% if i is iterable %}({{ loop(i) }}){% else %}{{ i }}{% endif %}{% endfor %}",
    "filtered loop": "{% for i in range(9) if i is odd %}{{ loop.index }}/{{ loop.length }}:{{ i }}{{ ',' if not loop.last }}{% endfor %}",
    "generator once": "{% set g = l | select %}{{ g | list }}{{ g | list }}",
    "caller": "{% macro box(t) %}<{{ t }}>{{ caller(t, 2) }}</{{ t }}>{% endmacro %}{% call(a, b=1) box('x') %}{{ a }}{{ b }}{% endcall %}",
    "no caller": "{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}",
    "varargs": "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}",
    "too many": "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
    "power is left": "{{ 2 ** 3 ** 2 }} {{ -2 ** 2 }}",
    "floats": "{{ [0.1, 1e16, 1e-5, 123456789.0, 1.0, -0.0, 1e22, 5e-324] }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 1e3 }}",
    "division": "{{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ -7.5 // 2 }} {{ 7.5 % -2 }}",
    "round": "{{ 2.5 | round }} {{ 0.5 | round }} {{ 1.25 | round(1) }} {{ 42.55 | round(1, 'floor') }} {{ 1234 | round(-2) }}",
    "compare chain": "{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 == true }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }}",
    "slices": "{{ u[::-1] }}|{{ u[1:-1] }}|{{ u[-3:] }}|{{ l[::-1] }}|{{ l[5:] }}|{{ w[-3:-1] }}|{{ x[4:0:-2] }}",
    "case": "{{ 'straße ŉ ΑΣ ǆ'.upper() }} {{ 'ΑΣ ΑΣΑ İ'.lower() }} {{ 'ǆ ßx it\\'s'.title() }} {{ 'ﬁx'.capitalize() }} {{ 'ß'.casefold() }}",
    "title filter": "{{ \"it's a-b (c d)\" | title }}|{{ \"it's a-b (c d)\".title() }}",
    "markup": "{{ '<a>' | safe + '<b>' }} {{ '<b>' + '<a>' | safe }} {{ ('<a>' | e) ~ '<' }} {{ ['<a>' | safe] }} {{ '<' | e | e }} {{ '%s' | safe % '<' }}",
    "repr": "{{ ['it\\'s', 'say \"x\"', 'both \\' \"', '\\n\\t\\\\', 'é\\x7f\\xa0', '🍂', none, true, (1,), {}] }}",
    "escapes": "{{ '\\x41\\u00e9\\U0001f342\\101\\q\\\n' }}",
    "undefined": "{{ nope }}|{{ nope is defined }}|{{ nope | default('d') }}|{{ d.nope }}|{{ nope | length }}|{{ nope ~ 'x' }}",
    "undefined attribute": "{{ nope.x }}",
    "undefined call": "{{ nope(1) }}",
    "undefined of none": "{{ n.x.y }}",
    "missing key": "{{ d.zz.y }}",
    "missing element": "{{ l[9] + 1 }}",
    "no else expression": "{{ ('x' if false).y }}",
    "concatenate": "{{ 'a' + 1 }}",
    "concatenate number": "{{ 1 + 'a' }}",
    "sandbox append": "{{ l.append(4) }}",
    "sandbox update": "{{ d.update({'a': 1}) }}",
    "sandbox class": "{{ ''.__class__.__mro__ }}",
    "sandbox namespace": "{% set ns = namespace() %}{% set ns._x = 1 %}{{ ns._x.y }}",
    "not a namespace": "{% set d.a = 1 %}",
    "range too big": "{{ range(100001) }}",
    "tojson": "{{ x | tojson }} {{ d | tojson(indent=2) }} {{ u | tojson(ensure_ascii=true) }} {{ [] | tojson(indent=2) }} {{ '</a>&' | tojson }}",
    "tojson of a generator": "{{ l | select | tojson }}",
    "tojson of keys": "{{ {1: 1, none: 2, true: 3, 1.5: 4} | tojson }}",
    "strftime": "{{ strftime_now('%d %b %Y %H:%M %j') }}",
    "trim and lstrip": "a\n  {% if true %}\n    b\n  {% endif %}\nc\n   {# x #}\nd {%+ if true %} e{% endif +%}\nf\n{%- set v = 1 -%}   \n g\n",
    "raw": "{% raw %}{{ x }}{% if %}{% endraw %}\n{%- raw -%}  y  {%- endraw -%}  z",
    "crlf": "a\r\n{% if true %}\r\nb\r{% endif %}\r\n",
    "integer keys": "{{ {1: 'a', 1.0: 'b', true: 'c'} }} {{ {0: 'x'}[false] }}",
    "groupby": "{% for g in p | groupby('age') %}{{ g.grouper }}{{ g.list | map(attribute='name') | list }}{% endfor %}",
    "sort": "{{ w | sort }} {{ w | sort(case_sensitive=true) }} {{ p | sort(attribute='t.v,name', reverse=true) | map(attribute='name') | list }}",
    "sort mixed": "{{ x | sort }}",
    "format": "{{ '%05.1f|%-5s|%+d|%x|%%|%r' % (2.55, 'ab', 3, 255, 'q') }} {{ '{:>5}|{:<5}|{:^5}|{:,}|{:.2%}|{!r}'.format('a', 'b', 'c', 1234567, 0.5, 's') }}",
    "cycler": "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set j = joiner('|') %}{{ j() }}1{{ j() }}2",
    "filter block": "{% filter upper | trim %} a{{ s }} {% endfilter %}",
    "set block": "{% set v | upper %}a{{ s }}{% endset %}[{{ v }}]",
    "with": "{% with a = 1, b = s %}{{ a }}{{ b }}{% set s = 2 %}{{ s }}{% endwith %}{{ s }}{{ a }}",
    "generation": "{% generation %}{{ s }}{% set s = 1 %}{% endgeneration %}{{ s }}",
    "unknown filter": "{{ s | nofilter }}",
    "unknown filter not reached": "{% if false %}{{ s | nofilter }}{% endif %}ok",
    "unknown filter reached": "{% if true %}{{ s | nofilter }}{% endif %}",
    "unknown tag": "{% do x %}",
    "break outside": "{% break %}",
}
RANDOM = 500


def case(env, name, template):
    c = {"name": name, "template": template}
    try:
        c["expected"] = env.from_string(template).render(**copy.deepcopy(CONTEXT))
    except Exception as e:  # noqa: BLE001
        c["error"] = "%s: %s" % (type(e).__name__, e)
    return c


def keep(c):
    """Random cases whose answer is a text that says nothing of Python's memory or of complex numbers."""
    return "expected" in c and len(c["expected"]) < 600 and not re.search(r"0x7|<gen|<func|<built|<bound|<class|at 0x|\dj\)", c["expected"])


def main():
    env = environment()
    cases = [case(env, n, t) for n, t in CASES.items()]
    for c in cases:  # our syntax errors have one name and end in their line
        if re.match(r"Template(Syntax|Assertion)Error: ", c.get("error", "")):
            words = c["error"].split(": ", 1)[1].split(" Jinja was looking")[0]
            c["error"] = "TemplateSyntaxError: %s (line 1)" % words
        if c["name"] == "break outside":  # Python's own compiler finds this one
            c["error"] = "TemplateSyntaxError: 'break' outside loop (line 1)"
    i = 0
    while len(cases) < len(CASES) + RANDOM:
        c = case(env, "random %d" % i, Gen(random.Random("fixture/%d" % i)).template())
        i += 1
        if keep(c):
            cases.append(c)
    json.dump({"vars": CONTEXT, "cases": cases}, sys.stdout, indent=0, ensure_ascii=True)
    print()


if __name__ == "__main__":
    main()
