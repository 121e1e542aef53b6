#!/usr/bin/env python3
"""Break the scheduler on purpose, one way at a time, and see the simulator notice.

    tests/sim/mutate.py [NAME-PART...] [--steps N]

Each entry of MUTATIONS replaces one piece of text in one file of a copy of the sources; the copy is
built and the simulator must fail on it. Prints what it said. Exit status 1 if one was missed, or if
an entry no longer applies. Needs a C compiler (CC, default cc); only the standard library.
About four seconds for each entry, so by hand, not in the test run.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BASE = "status check mem str arena hash rng clock queue thread utf8".split()
SIM = "sim client invariants fake".split()

# name, file, text, replacement
MUTATIONS = [
    ("hit 100% of a prompt", "plan.c",
     "(s->n_known - 1) / c->step.page_tokens",
     "s->n_known / c->step.page_tokens"),
    ("no copy of the partly filled page", "plan.c",
     "if (sh->n_tokens % c->step.page_tokens)",
     "if (0)"),
    ("copy from the wrong page", "plan.c",
     "(page_copy){sh->donor->pages[sh->n_pages],",
     "(page_copy){sh->donor->pages[0],"),
    ("fork shares the partly filled page", "plan.c",
     "(share){common, common / S, 0, 0, d, false}",
     "(share){common, (common + S - 1) / S, 0, 0, d, false}"),
    ("fork from a donor that is not far enough", "plan.c",
     "d->n_computed >= common",
     "d->n_computed >= 0"),
    ("pages ready at admission", "plan.c",
     "s->hashes[i], PAGE_PENDING",
     "s->hashes[i], PAGE_READY"),
    ("page published one token early", "seq.c",
     "i < n / S; i++",
     "i < (n + 1) / S; i++"),
    ("hash without its parent", "seq.c",
     "i ? s->hashes[i - 1] : s->g->root",
     "s->g->root"),
    ("kv_class ignored", "group.c",
     "if (c->step.kv_class)\n",
     "if (0)\n"),
    ("adapter left out of the class", "group.c",
     "r->n_prompt, g->rope_len, r->adapter)",
     "r->n_prompt, g->rope_len, 0)"),
    ("adapter left out of the plan", "plan.c",
     ".adapter = g->r->adapter",
     ".adapter = 0"),
    ("prompts in pieces where they must be whole", "plan.c",
     "c->step.whole_prompt ? MAX",
     "0 ? MAX"),
    ("whole prompts past the budget", "plan.c",
     "if (n_at_once(c, s, sh.n_tokens) > c->budget - c->last->plan.n_tokens) return NO_ROOM;",
     ""),
    ("prefixes of whole prompts shared", "core.c",
     "if (s.whole_prompt) c->o.prefix_cache = false;",
     ""),
    ("whole prompts longer than a step", "group.c",
     "c->step.whole_prompt && r->n_prompt > c->o.token_budget",
     "0"),
    ("leak of the first page", "seq.c",
     "while (s->n_pages > 0) pages",
     "while (s->n_pages > 1) pages"),
    ("computed not reset on preemption", "seq.c",
     "    s->n_computed = s->n_launched = 0;\n",
     "    if (s->n_computed < 3) s->n_computed = s->n_launched = 0;\n"),
    ("victim is the first", "plan.c",
     "c->running[c->n_running - 1];\n        seq_preempt",
     "c->running[0];\n        seq_preempt"),
    ("evicted page keeps its hash", "pages.c",
     "        ps->n_cached--;\n        map_remove(ps, id);\n    }\n    ps->p[id].refs = 1;",
     "        ps->n_cached--;\n    }\n    ps->p[id].refs = 1;"),
    ("revived page stays on the free list", "pages.c",
     "    list_unlink(ps, id);\n    ps->n_cached--;\n}",
     "    ps->n_cached--;\n}"),
    ("pending page survives its computer", "pages.c",
     "if (p->state == PAGE_PENDING) map_remove(ps, id);",
     "if (p->state == PAGE_PENDING) p->state = PAGE_READY;"),
    ("no token kept for those behind", "plan.c",
     "left - n_behind)",
     "left)"),
    ("budget of admissions not counted", "plan.c",
     "int32_t left = c->budget - c->last->plan.n_tokens;",
     "int32_t left = c->budget;"),
    ("ring not looked at", "group.c",
     "return group_room(g, g->n_open) > g->n_open;",
     "return true;"),
    ("ring: no slot kept for the ends", "group.c",
     "return group_room(g, g->n_open) > g->n_open;",
     "return group_room(g, 0) > 0;"),
    ("small requests pass a large one", "plan.c",
     "case NO_ROOM: return;",
     "case NO_ROOM: waitq_pass(&c->wait, s); n_passed++; break;\n        case 77: return;"),
    ("waiting for a prefix without end", "plan.c",
     "if (s->n_stuck >= DEFER_MAX) return false;",
     ""),
    ("reservation ignored", "plan.c",
     "n_free - c->n_reserved",
     "n_free"),
    ("revived pages not counted", "plan.c",
     "c->pages.n_free - sh->n_free",
     "c->pages.n_free"),
    ("headroom also for nobody", "plan.c",
     "<= n_free - c->n_running",
     "<= n_free - c->n_running - 1"),
    ("min_tokens ignored", "apply.c",
     "n_out > r->params.min_tokens && ",
     ""),
    ("one token too many", "apply.c",
     "s->n_known < s->g->len_max",
     "s->n_known <= s->g->len_max"),
    ("context end ignored", "group.c",
     "MIN(want, c->step.max_model_len)",
     "want"),
    ("other choices never start", "apply.c",
     "        group_release(c, g);\n    }\n    if",
     "    }\n    if"),
    ("no new lead", "seq.c",
     "if (s->choice == g->lead && !g->has_prompt) group_release",
     "if (0) group_release"),
    ("end is pushed twice", "seq.c",
     "    push_event(c, s, why, out);\n    g->ring_room--;",
     "    push_event(c, s, why, out);\n    if (why == FINISH_CANCEL) push_event(c, s, why, out);\n    g->ring_room--;"),
    ("cancel of a waiting request ignored", "core.c",
     "if (atomic_load_explicit(&r->cancel, memory_order_acquire)) {",
     "if (g->is_started && atomic_load_explicit(&r->cancel, memory_order_acquire)) {"),
    ("deadline of a waiting request forgotten", "core.c",
     "if (g->r->deadline_us) due = MIN",
     "if (g->r->deadline_us && g->is_started) due = MIN"),
    ("stall never cut", "core.c",
     "if (g->stalled_us && is_past(",
     "if (0 && is_past("),
    ("choice_done ignored when running", "core.c",
     "if (g->seqs[i].state != SEQ_DONE &&\n",
     "if (g->seqs[i].state == SEQ_WAITING &&\n"),
    ("order by address", "waitq.c",
     "va < vb : a->at->g->order < b->at->g->order",
     "va < vb : (a->at->g < b->at->g) ^ (clock() / 50 & 1)"),
    ("returning in any order", "waitq.c",
     "while (at && seq_cmp(at, s) < 0) at = at->next;",
     ";"),
    ("prompt logprobs from a cached prefix", "plan.c",
     "if (!s->g->has_prompt && (r->prompt_out || (",
     "if (!s->g->has_prompt && (("),
    ("admit although something was thrown back", "plan.c",
     "if (c->stats.n_preemptions == n_preemptions) plan_waiting",
     "plan_waiting"),
    ("failed device goes on", "core.c",
     "    end_all(c, FINISH_ERROR, &c->failure);\n    drop",
     "    drop"),
    ("the tenant that got most goes first", "waitq.c",
     "va < vb :",
     "va > vb :"),
    ("failed sequences keep their ring promise", "apply.c",
     "    s->g->ring_promised -= sample;\n",
     ""),
    ("moves are done again in the next step", "swap.c",
     "    p->n_moves = 0;\n",
     ""),
    ("slots are given away while pages are taken", "swap.c",
     "            pages_ref(slots, slot);\n",
     ""),
    ("a page is not moved in", "swap.c",
     "        add_move(c, (page_move){.page = id, .slot = slot, .aside = c->swap.is_over});\n",
     ""),
    ("a page is not moved out", "swap.c",
     "    add_move(c, (page_move){.page = id, .slot = slot, .out = true, .aside = c->swap.is_over});\n",
     ""),
    ("the wrong page is moved out", "swap.c",
     "evict(c, id);\n    c->swap.n_taken++;",
     "evict(c, (id + 1) % c->pages.n);\n    c->swap.n_taken++;"),
    ("a page that is taken is moved aside", "swap.c",
     ".out = true, .aside = c->swap.is_over",
     ".out = true, .aside = true"),
    ("a sequence is admitted before its pages are there", "swap.c",
     ".slot = slot, .aside = c->swap.is_over",
     ".slot = slot, .aside = true"),
    ("pages are moved ahead before planning", "plan.c",
     "    plan_running(c);",
     "    c->last->plan.n_seqs = 1, swap_ahead(c), c->last->plan.n_seqs = 0;\n    plan_running(c);"),
    ("fetched pages stay with who waits for them", "swap.c",
     "    while (s->n_pages > 0) pages_unref",
     "    while (s->n_pages > 1) pages_unref"),
    ("pages to be moved in take no room", "plan.c",
     "n_there = sh->n_pages - sh->n_host",
     "n_there = sh->n_pages"),
    ("a step's results are also for those that ended before", "apply.c",
     "if (s->state == SEQ_DONE) return;",
     ""),
    ("keys and values count though the pages are gone", "apply.c",
     "if (s->state == SEQ_RUNNING) seq_computed",
     "seq_computed"),
    ("ids of ended sequences stay unknown", "apply.c",
     "if (b->sample && st == OK) note_token",
     "if (b->sample && st == OK && s->state != SEQ_DONE) note_token"),
    ("records go while a step names them", "group.c",
     "if (!g->is_ended || g->is_ready || g->n_flight > 0) return;",
     "if (!g->is_ended || g->is_ready) return;"),
    ("records stay after the last step that names them", "apply.c",
     "        apply_one(c, f, i);\n        group_retire(c, f->planned[i]->g);",
     "        apply_one(c, f, i);"),
    ("chained to another's entry", "plan.c",
     ".chain = s->chosen_at",
     ".chain = 0"),
    ("chained to a step before the last", "plan.c",
     "s->chosen_by + 1 != c->n_launch",
     "0"),
    ("planned past its end", "plan.c",
     "known == s->g->len_max || ",
     ""),
    ("admitted before its last token is known", "plan.c",
     "if (s->n_flight > 0) return NO_ROOM;",
     ""),
    ("one step too many in flight", "core.c",
     "c->n_flight == c->step.depth) &&",
     "c->n_flight > c->step.depth) &&"),
    ("the pace forgets those who run", "plan.c",
     "MAX(pace_budget(&c->pace, &load), c->n_running)",
     "pace_budget(&c->pace, &load)"),
    ("the pace allows more than the budget", "pace.c",
     "return MIN(MAX(lo, must + LEAST), l->most);",
     "return MAX(lo, must + LEAST);"),
    ("admissions do not keep the pace", "plan.c",
     "while (c->last->plan.n_tokens < c->budget &&",
     "while (c->last->plan.n_tokens < c->o.token_budget &&"),
    ("prompts that run do not keep the pace", "plan.c",
     "    int32_t left = c->budget;",
     "    int32_t left = c->o.token_budget;"),
    ("wrong drafts stay computed", "apply.c",
     "    s->n_launched -= b->n_draft - (n_taken - 1);\n",
     ""),
    ("keys of wrong drafts are shared", "apply.c",
     "seq_computed(c, s, to + MAX(n - 1, 0))",
     "seq_computed(c, s, to + b->n_draft)"),
    ("what follows a stop among drafts is told", "apply.c",
     "->token)) return k + 1;",
     "->token)) return n;"),
    ("pages of wrong drafts stay", "apply.c",
     "if (b->n_draft && s->state == SEQ_RUNNING) seq_shrink(c, s);",
     ""),
    ("a right draft's token is not told", "apply.c",
     "int32_t n = 1 + (f->plan.seqs[i].n_draft ?",
     "int32_t n = 1 + (f->plan.seqs[i].n_draft > 1 ?"),
    ("the token after drafts is not written down", "apply.c",
     "ids[b->n_known + n] = token;",
     "ids[b->n_known] = chosen(c, f, i, 0)->token;"),
    ("drafts past the budget", "drafts.c",
     "c->budget - c->last->plan.n_tokens",
     "c->o.token_budget"),
    ("drafts past the end", "drafts.c",
     "g->len_max - s->n_known - 1)",
     "g->len_max)"),
    ("drafts without room in the ring", "drafts.c",
     "return MIN(n, group_room(g, g->n_open + MAX(n, 0)) - g->n_open);",
     "return n;"),
    ("drafts without pages", "drafts.c",
     "return MIN(n, s->n_pages * c->step.page_tokens - s->n_known);",
     "return n;"),
    ("drafts while steps are in flight", "drafts.c",
     "if (c->drafting.most == 0 || c->n_flight > 0 || c->pace.n_curve == 0) return;",
     "if (c->drafting.most == 0 || c->pace.n_curve == 0) return;"),
    ("a plan is made while drafts are in flight", "core.c",
     " || c->last->plan.n_drafts > 0",
     ""),
    ("drafts keep their ring promise", "apply.c",
     "return b->sample + b->n_draft;",
     "return b->sample;"),
    ("tokens that are still to be told have no promise", "apply.c",
     "    s->g->ring_promised += n;\n    for (int32_t k = 0; k < n; k++) {\n        s->g->ring_promised--;\n",
     "    for (int32_t k = 0; k < n; k++) {\n"),
    ("results of drafts all in one place", "drafts.c",
     "b->more0 = p->n_drafts;",
     "b->more0 = 0;"),
    ("the model's reading outlives a preemption", "seq.c",
     "    s->drafts.n_read = 0;\n",
     ""),
    ("pages given away count as read by the model", "swap.c",
     "    draft_model_page_taken(c, id);\n",
     ""),
    ("the model keeps wrong guesses", "draft_model.c",
     "s->n_known + MIN(n - 1, n_right));",
     "s->n_known + n - 1);"),
    ("the model keeps the guess that it did not read", "draft_model.c",
     "s->n_known + MIN(n - 1, n_right));",
     "s->n_known + MIN(n, n_right));"),
    ("the model reads others' pages before they are written", "draft_model.c",
     "if (m->pages[s->pages[i]] == UNREAD) m->pages[s->pages[i]] = BEING_READ;",
     "m->pages[s->pages[i]] = READ;"),
    ("pages count as read before their end", "draft_model.c",
     "if (to % c->step.page_tokens) m->pages[s->pages[to / c->step.page_tokens]] = UNREAD;",
     "if (to % c->step.page_tokens) m->pages[s->pages[to / c->step.page_tokens]] = READ;"),
    ("the model reads ids that it has not", "draft_model.c",
     "if (s->ids[i] >= m->step.vocab) {",
     "if (0) {"),
    ("guesses that are no token", "draft_model.c",
     "is_one ? token : 0;",
     "token;"),
    ("the model's text past its step", "draft_model.c",
     "n_text > m->room || ",
     ""),
    ("sibling ids not copied", "seq.c",
     "        memcpy(s->ids, lead->ids",
     "        if (0) memcpy(s->ids, lead->ids"),
]


def build(work):
    sources = [str(p) for p in sorted((work / "scheduler").glob("*.c"))]
    sources += [str(work / "tests/sim" / f"{name}.c") for name in SIM]
    sources += [str(work / "engine/base" / f"{name}.c") for name in BASE]
    subprocess.run(
        [os.environ.get("CC", "cc"), "-std=gnu11", "-O1", "-D_GNU_SOURCE", "-w", "-include",
         "time.h", f"-I{work}", *sources, "-o", str(work / "sim"), "-lpthread", "-lm"], check=True)


def simulate(work, steps):
    """(noticed, what it said)"""
    try:
        run = subprocess.run([str(work / "sim"), "--steps", str(steps)], capture_output=True,
                             text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return True, "does not end"
    said = (run.stdout + run.stderr).strip().splitlines()
    return run.returncode != 0, said[0] if said else f"exit status {run.returncode}"


def try_one(mutation, steps):
    name, file, text, replacement = mutation
    with tempfile.TemporaryDirectory() as tmp:
        work = pathlib.Path(tmp)
        for folder in ("scheduler", "tests/sim", "engine", "conf"):
            shutil.copytree(ROOT / folder, work / folder)
        path = work / "scheduler" / file
        source = path.read_text()
        if text not in source:
            return False, "no longer applies"
        path.write_text(source.replace(text, replacement, 1))
        build(work)
        return simulate(work, steps)


def main():
    args, steps = sys.argv[1:], 1000000
    if "--steps" in args:
        at = args.index("--steps")
        steps = int(args[at + 1])
        del args[at:at + 2]
    missed = 0
    for mutation in MUTATIONS:
        if args and not any(part in mutation[0] for part in args):
            continue
        noticed, said = try_one(mutation, steps)
        missed += not noticed
        print(f"{'caught' if noticed else 'MISSED'}  {mutation[0]}: {said}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
