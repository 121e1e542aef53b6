#!/usr/bin/env python3
"""What Python's re says about patterns over names of modules: makes
tests/unit/engine/name_regex.json, which test_name_regex.c holds engine/name_regex.c to.

    tests/tools/make_name_regex.py > tests/unit/engine/name_regex.json

"match" are groups of names and patterns, each pattern with a 1 for every name that it matches and a
0 for every other; "bad" are patterns that re refuses; "beyond" are patterns that re takes and
name_regex.h says it does not."""
import json
import random
import re
import warnings

NAMES = [
    "lm_head", "model.embed_tokens", "model.norm", "model.layers.0.self_attn.q_proj",
    "model.layers.0.self_attn.k_proj", "model.layers.3.mlp.gate", "model.layers.3.mlp.gate_proj",
    "model.layers.12.mlp.experts.7.up_proj", "model.layers.12.mlp.experts.63.down_proj",
    "model.layers.12.mlp.shared_expert.down_proj", "model.layers.1", "visual.blocks.31.attn.qkv",
    "vision_model.head", "layers.12.q", "x", "a", "aaa", "ab\n", "a b", "a-b", "a{2}", "a]b", "A_9",
    "\u00e9", "a\u00e9b",
]
PATTERNS = [
    # as quantisation configs and adapters have them
    r".*lm_head", r"lm_head", r".*\.mlp\.gate$", r".*mlp.gate$", r".*self_attn.*", r"vision_model.*",
    r".*\.(?:down|up)_proj$", r"model\.layers\.([0-4])\..*?gate", r".*\.12\..*experts.*",
    r".*\.layers\.\d+\.mlp\.experts\.\d+\.(gate|up|down)_proj$", r"(.*\.)?(q_proj)$",
    r"(.*\.)?(layers\.\d+\.q)$", r"(.*\.)?(b.k_proj|mlp\.gate)$", r"^(?!.*experts).*_proj$",
    r"^(?!lm_head|model\.embed).*", r".*\.(?!gate)\w+_proj", r"(?=.*layers)(?=.*proj).*0",
    r"model\.(?:layers\.(?:0|1|2|3)\.)?.*gate_proj", r"(?:visual|vision_model)\..*",
    # each construct
    r"", r"a", r"a|x", r"a||x", r"|a", r"a*", r"a+", r"a?x", r"a??x", r"a*?x", r"a+?$", r"a{3}$",
    r"a{2,}$", r"a{,2}$", r"a{2,3}$", r"a{1,2}?$", r"a{0}x", r"a{,}$", r"a{", r"a{}", r"a{2",
    r"a\{2\}", r"a{x}", r"a{,x}", r"(a)", r"(a)*$", r"(a|x)+$", r"(?:)", r"(?:)*a", r"()a", r"(a*)*$",
    r"(a*)+$", r"(a+)+$", r"(?:a{2}){1,2}$", r"(?:a|aa){2}$", r".", r".$", r"^a$", r"\Aa\Z", r"ab$",
    r"ab\Z", r"ab\n$", r"ab.", r"a.b$", r"a\sb", r"a\Sb", r"a\wb", r"a\Wb", r"\d", r"\D+$", r"\w+$",
    r".*\d$", r"[a-c]", r"[^a-c]", r"[]a]", r"a[]]b", r"[^]a]", r"[a\]]+b", r"[-a]", r"a[b-]", r"a[-]b",
    r"[\w.]+$", r"[^\W\d]+$", r"[\d.]", r"[\s\S]*$", r"[+*?.]", r"[a\-z]+$", r"[.]",
    r"a\b", r"a\B", r"\blm", r"\Blm", r".*\bgate\b", r".*\bgate\B", r"a\-b", r"a\.b", r"a\ b",
    r"(?!a)", r"(?!a).", r"(?=a)", r"(?=a)ab", r"(?!a(?!a))", r"(?=a(?=a))aa", r"(?:(?=a)a){3}$",
    r"(?!.*\.)", r".*(?=_proj$)", r".*(?!)", r"(?=)", r"(?:(?!_).)*$", r"(?=(?:a|ab)\n)", r"a(?=$)",
    r"(?!^)a", r"(?=a)*a", r"(?:^)*a", r"a(?=.b)", r"(?=[^.]*\.[^.]*$)", r"\.", r"}", r"]", r"a]b",
    r"[\[]", r"[.-9]+", r"[!-~]+$", r"[^\n]+$", r"\n", r"a\tb", r"[\t\n ]", r"[\b]",
]
BAD = [
    "(", ")", "a)", "(a", "(?", "(?:", "(?:a", "[", "[a", "[]", "[^]", "*", "+a", "?", "a**", "a+*",
    "a{2}{3}", "a{3,2}", "^*", "$+", "(|*)", "\\", "a\\", "[\\", "[z-a]", r"[\d-z]", r"[a-\d]", r"\q",
    r"[\q]", "{2}", "(?=a", "(?!", "(a|*)", "a???", "(?P<1>a)", "(?<a)", "a{1}*",
]
BEYOND = [
    r"(?i)a", r"(?i:a)", r"(?<=a)b", r"(?<!a)b", r"(a)\1", r"(?P<n>a)", r"(?P<n>a)(?P=n)", r"(?#c)a",
    r"a++", r"a*+", r"a?+", r"a{2}+", r"(?>a)", r"(a)?(?(1)a|b)", r"\x41", r"\u0041", r"\0", r"\101",
    r"[\x41]", "\u00e9", "[\u00e9]", "a{5000}", "(?:a{64}){65}", "((((((a{9}){9}){9}){9}){9}){9}){9}",
    "(?:(?:){999}){999}", "a" * 600,
]


def random_pattern(r, depth):
    """Of the whole grammar, over an alphabet that meets the names below."""
    kind = r.randrange(12 if depth else 5)
    if kind < 3:
        return r.choice("ab.")
    if kind == 3:
        return r.choice(["[ab]", "[^a]", r"\w", r"\d", ".", r"\.", "$", "^", r"\b"])
    if kind == 4:
        return ""
    sub = lambda: random_pattern(r, depth - 1)
    if kind < 8:
        return sub() + sub()
    if kind == 8:
        return "(?:" + sub() + "|" + sub() + ")"
    if kind == 9:
        return "(" + sub() + "b?)" + r.choice(["*", "+", "?", "{2}", "{1,3}", "{2,}", "*?", "{,2}"])
    if kind == 10:
        return "(?" + r.choice("=!") + sub() + ")"
    return sub() + "|" + sub()


def group(names, patterns):
    row = lambda p: [p, "".join("01"[bool(re.match(p, n, re.ASCII))] for n in names)]
    lines = ",\n".join(json.dumps(row(p)) for p in patterns)
    return '{"names": ' + json.dumps(names) + ', "patterns": [\n' + lines + "]}"


def main():
    warnings.simplefilter("ignore")
    r = random.Random(7)
    words = ["a", "b", "ab", "ba", "aab", "abab", "bbb", "a.b", "b.a", "7", "a7b.", "abba.ab"]
    some = dict.fromkeys(random_pattern(r, 5) for _ in range(600))
    for p in BAD:
        try:
            re.compile(p)
        except re.error:
            continue
        raise SystemExit("re takes " + p)
    for p in BEYOND:
        re.compile(p)
    print('{"match": [' + group(NAMES, dict.fromkeys(PATTERNS)) + ",\n"
          + group(words, [p for p in some if len(p) < 200]) + '],\n"bad": ' + json.dumps(BAD)
          + ',\n"beyond": ' + json.dumps(BEYOND) + "}")


main()
