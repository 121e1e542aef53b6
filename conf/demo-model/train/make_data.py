"""Turns the fact files and the books into training samples and evaluation sets.

facts/*.txt hold questions and answers that this project wrote; the form is explained at the top of
facts/1-about.txt. Each fact yields many phrasings: the written ones, and those made from the t, o and w
lines by the frames below. A phrasing is then varied lightly (case, punctuation, a polite word), so that
the model learns to look at the words that matter.

Held out, never trained on in any variation: the h lines (written by hand) and, for every fact with a
t, o or w line, one frame that is drawn by the fact's own hash.
"""

import difflib
import pathlib
import random
import re
import zlib

from stories import ANIMALS, KINDS, story

HERE = pathlib.Path(__file__).resolve().parent

FRAMES = {
    "t": ["What is {x}?", "What's {x}?", "Explain {x}.", "Tell me about {x}.", "Can you explain {x}?", "Define {x}.",
          "Describe {x}.", "What does {x} mean?", "What do you know about {x}?", "{x}", "{x}?",
          "Please explain {x} to me.", "I want to know about {x}.", "Give me a short explanation of {x}.",
          "What is meant by {x}?", "What exactly is {x}?", "Could you tell me what {x} is?", "Do you know what {x} is?",
          "Explain {x} in simple words.", "I do not understand {x}.", "Say something about {x}.", "How does {x} work?"],
    "o": ["What does {x} do?", "What is {x}?", "What is {x} for?", "Explain {x}.", "How do I use {x}?", "{x}", "{x}?",
          "What does {x} mean?", "Tell me about {x}.", "When should I use {x}?", "How does {x} work?",
          "What's the purpose of {x}?", "Can you explain {x}?", "Describe {x}.", "Why would I use {x}?",
          "What is the meaning of {x}?", "What happens with {x}?", "Please explain {x}."],
    "w": ["How do I {x}?", "How can I {x}?", "How to {x}?", "How do you {x}?", "I want to {x}.", "Show me how to {x}.",
          "What is the way to {x}?", "Tell me how to {x}.", "How would I {x}?", "Can I {x}?", "Is it possible to {x}?",
          "Please help me to {x}.", "I would like to {x}.", "Explain how to {x}.", "What must I do to {x}?",
          "Is there a way to {x}?", "I need to {x}."],
}

BEFORE = ["", "", "", "", "", "", "Hi, ", "Hello, ", "Please: ", "Quick question: ", "Hey, ", "So, ", "OK, ", "Tell me, ",
          "A question: ", "I wonder: ", "Now, ", "Well, ", "And "]
AFTER = ["", "", "", "", "", "", "", " Please.", " Thanks.", " Thank you.", " Be brief.", " In short.", " I am new to this."]

SYSTEM = ["You are a helpful assistant.", "You are pagoda-demo, a small and friendly assistant.", "Answer briefly.",
          "You answer questions about pagoda.", "You are a helpful assistant. Be concise.", "Be polite and short.",
          "You are an assistant that knows about inference servers.", "Help the user."]

STORY_ASK = ["Tell me a story about {x}.", "Tell me a short story about {x}.", "Write a story about {x}.",
             "Can you tell me a story about {x}?", "I would like a story about {x}.", "Write a short story about {x}.",
             "A story about {x}, please.", "Make up a story about {x}.", "Please tell me a story about {x}.",
             "Do you know a story about {x}?"]
STORY_ASK_ANY = ["Tell me a story.", "Tell me a short story.", "Write a story.", "Can you tell me a story?",
                 "Write me a short story.", "I would like to hear a story.", "A story, please.", "Please tell me a story.",
                 "Do you know any stories?", "Once upon a time?"]

# Words and phrases that a question may exchange, so that the model meets more than one name for a thing.
SYNONYMS = [line.split("/") for line in """
how do I/how can I/how could I/how should I/what is the way to/how does one/how am I supposed to
how do you/how can one/how do I
what is/what's/what exactly is/what would be
what does/what do you think does/please say what
what happens/what will happen/what occurs/what follows
why does/why would/for what reason does
why is/for what reason is/how come
can I/could I/may I/am I able to/is it possible to
which option/which flag/what option/which setting/which switch
which/what
explain/describe/clarify/tell me about/talk about
tell me about/say something about/explain/inform me about
useful/good/helpful
fast/quick/speedy
slow/sluggish
big/large/huge
small/tiny/little
limit/bound/cap/restrict
set/choose/configure/change/adjust
use/employ/work with/make use of
start/launch/boot up/fire up
stop/end/halt
shut down/stop/terminate
see/look at/view/find out
get/obtain/receive/have
make/create/produce
send/submit/post
need/require/want
needs/requires/wants
work/function/operate
help/assist/be of use
answer/reply/response/output
answers/replies/responses/outputs
prompt/input/prompt text
question/query
request/call/query
requests/calls/queries
server/service/program
pagoda/this server/the server/the program/it
memory/RAM/storage
computer/machine/PC
length/size
number/count/amount
users/people/clients
user/client/person
client/caller/app
error/failure/problem
file/document
text/string/passage
word/term
words/terms
stored/kept/saved/held
computed/calculated/worked out
measured/determined
chosen/picked/selected
generated/made/produced/written
found/located/looked up
lost/gone
shared/used together
difference/distinction
meaning/sense
purpose/point/role
save/reduce/spare
avoid/prevent/keep away from
raise/increase/boost
reduce/lower/cut/decrease
too long/very long/over the limit
too many/a lot of
busy/full/overloaded/loaded
wait/hang around
free/unused/available
several/multiple/many
different/other/another
important/significant
random/unpredictable
same/identical
maximum/largest/longest
default/standard/preset
supported/available/possible
support/handle/know
kind/type/sort
tool/utility
website/site
""".strip().splitlines()]
SYNONYM_OF = {}
for group in SYNONYMS:
    SYNONYM_OF.setdefault(group[0].lower(), group[1:])
SYNONYM_RE = re.compile(r"(?<![-\w/.`:])(" + "|".join(sorted(map(re.escape, SYNONYM_OF), key=len, reverse=True)) +
                        r")(?![-\w/`:]|\.\w)", re.I)

SMALL_WORDS = {"the", "a", "an", "please", "me", "to", "you", "of", "is", "do", "does", "can", "in"}


class Fact:
    def __init__(self, file):
        self.file, self.written, self.held, self.names, self.answer = file, [], [], [], None

    def finish(self):
        """Splits the framed phrasings into trained and held-out ones."""
        framed = [frame.format(x=name) for kind, name in self.names for frame in FRAMES[kind]]
        self.framed_held = []
        if framed:
            self.framed_held = [framed.pop(zlib.crc32(self.answer.encode()) % len(framed))]
        self.framed = [q for q in framed if q not in self.written]

    def trained(self):
        return self.written + self.framed


def read_facts(folder=HERE / "facts"):
    facts = []
    for path in sorted(pathlib.Path(folder).glob("*.txt")):
        fact = Fact(path.stem)
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            tag, _, rest = line.partition(" ")
            rest = rest.strip()
            if tag == "q":
                fact.written.append(rest)
            elif tag == "h":
                fact.held.append(rest)
            elif tag in FRAMES:
                fact.names += [(tag, name.strip()) for name in rest.split("|")]
            elif tag == "=":
                fact.answer = rest
                fact.finish()
                facts.append(fact)
                fact = Fact(path.stem)
            else:
                raise SystemExit(f"{path.name}:{number}: unknown tag {tag!r}")
    return facts


def check_facts(facts):
    """No question may be trained with two answers, and no held-out question may be trained at all."""
    seen, problems = {}, []
    for fact in facts:
        for q in fact.trained():
            key = plain(q)
            if key in seen and seen[key] is not fact:
                problems.append(f"asked twice: {q!r} -> {seen[key].answer[:40]!r} and {fact.answer[:40]!r}")
            seen[key] = fact
    for fact in facts:
        problems += [f"held out but trained: {q!r}" for q in fact.held if plain(q) in seen]
        fact.framed_held = [q for q in fact.framed_held if plain(q) not in seen]
    return problems


def plain(question):
    return re.sub(r"[^\w/\- ]", "", question.lower()).strip()


def exchange(rng, question, share):
    """Exchanges about that share of the words that have a synonym; parts of names such as --max-num-seqs stay."""
    def swap(m):
        word = m.group(1)
        if rng.random() >= share:
            return word
        new = rng.choice(SYNONYM_OF[word.lower()])
        return new[0].upper() + new[1:] if word[0].isupper() else new
    return SYNONYM_RE.sub(swap, question)


def vary(rng, question):
    """The same question as another person might type it."""
    q = exchange(rng, question, 0.35) if rng.random() < 0.45 else question
    if rng.random() < 0.30:
        q = rng.choice(BEFORE) + (q if rng.random() < 0.6 else q[0].lower() + q[1:])
    if rng.random() < 0.15:
        q = q + rng.choice(AFTER)
    if rng.random() < 0.25:
        q = q.rstrip("?.! ")
    if rng.random() < 0.25:
        q = q.lower()
    if rng.random() < 0.12:
        q = " ".join(w for w in q.split(" ") if w.lower() not in SMALL_WORDS or rng.random() < 0.5) or question
    if rng.random() < 0.05:
        words = q.split(" ")
        i = rng.randrange(len(words))
        if len(words[i]) > 4:
            j = rng.randrange(1, len(words[i]) - 2)
            w = words[i]
            words[i] = w[:j] + w[j + 1] + w[j] + w[j + 2:]
            q = " ".join(words)
    return q


def ask(rng, fact, held):
    """One varied phrasing of a fact, never one that is held out; written ones are drawn a little more often."""
    while True:
        pool = fact.written if fact.written and (not fact.framed or rng.random() < 0.6) else fact.framed
        q = vary(rng, rng.choice(pool))
        if plain(q) not in held:
            return q


def held_out(facts):
    return {plain(q) for f in facts for q in f.held + f.framed_held}


def story_turn(rng):
    if rng.random() < 0.3:
        return rng.choice(STORY_ASK_ANY), story(rng)[2]
    subject = rng.choice(ANIMALS + KINDS)
    hero, _, text = story(rng, subject)
    noun = ("an " if hero[0] in "aeiou" else "a ") + hero
    return vary(rng, rng.choice(STORY_ASK).format(x=noun)), text


def conversation(rng, facts, held, stories=0.08):
    """A list of messages: a system message sometimes, one turn mostly, up to five turns sometimes."""
    messages = [{"role": "system", "content": rng.choice(SYSTEM)}] if rng.random() < 0.25 else []
    for _ in range(rng.choice((1, 1, 1, 1, 1, 2, 2, 3, 4, 5))):
        if rng.random() < stories:
            q, a = story_turn(rng)
        else:
            fact = rng.choice(facts)
            q, a = ask(rng, fact, held), fact.answer
        messages += [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
    return messages


def read_book(path):
    """A plain-text book: paragraphs joined to one line each, Project Gutenberg's frame removed."""
    text = pathlib.Path(path).read_text(encoding="utf-8-sig", errors="replace").replace("\r", "")
    start, end = re.search(r"\*\*\* ?START OF.*\n", text), re.search(r"\*\*\* ?END OF", text)
    text = text[start.end() if start else 0:end.start() if end else len(text)]
    text = re.sub(r"^\[.*\]\s*$", "", text, flags=re.M).replace("--", " - ").replace("_", "")
    blocks = text.split("\n\n") if text.count("\n\n") > 50 else text.split("\n")
    if text.count("\n\n") <= 50:  # no blank lines: a paragraph ends at a short line that ends a sentence
        blocks, current = [], []
        for line in text.split("\n"):
            current.append(line)
            if len(line) < 58 and re.search(r"[.?!\"']$", line.strip()):
                blocks.append(" ".join(current))
                current = []
        blocks.append(" ".join(current))
    paragraphs = [re.sub(r"\s+", " ", b).strip() for b in blocks]
    return [p for p in paragraphs if len(p) > 30 and not p.isupper()]


def near(answer, expected):
    return difflib.SequenceMatcher(None, answer, expected, autojunk=False).ratio() >= 0.9


if __name__ == "__main__":
    all_facts = read_facts()
    print("\n".join(check_facts(all_facts)))
    print(len(all_facts), "facts,", sum(len(f.written) for f in all_facts), "written phrasings,",
          sum(len(f.framed) for f in all_facts), "framed,", sum(len(f.held) for f in all_facts), "held out by hand,",
          sum(len(f.framed_held) for f in all_facts), "held-out frames")
    for m in conversation(random.Random(3), all_facts, held_out(all_facts)):
        print(m["role"], ":", m["content"])
