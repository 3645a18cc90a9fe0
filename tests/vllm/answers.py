# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Answers of a server: every member, pairs, `auto`, streams, and clients that ask at once."""

from __future__ import annotations

import collections
import random
import time
from concurrent.futures import ThreadPoolExecutor

from .expected import CLIENTS, COST, LARGE, PAIR, SMALL, Checks, Expected, figures_in_a_line
from .served import MEMBERS, SHAPES
from .server import NEW, Talk


def check_names(talk: Talk, checks: Checks) -> None:
    listed = [m.id for m in talk.api.models.list().data]
    wanted = [*SHAPES, "auto", "9b>12b", "6b>12b", "6b>9b"]
    checks.tell("names in `/v1/models`", set(wanted) <= set(listed) and "family" in listed, len(listed))


def check_members(talk: Talk, expected: Expected, checks: Checks) -> None:
    """Each alone, as a stream, and by chat."""
    for member in SHAPES:
        got = [talk.stream(member, ids) for ids in expected.ids]
        checks.equal(f"{member}, streamed one by one", [t for t, _ in got], expected.tokens[member])
        checks.tell(f"{member}, pieces of a stream", all(n > 1 for _, n in got), min(n for _, n in got))
        messages = [{"role": "user", "content": "The first"}]
        text = expected.family.select(member).generate(messages, NEW)
        text = text.rstrip("\ufffd")  # vLLM waits for whole characters
        report = talk.api.chat.completions.create(model=member, messages=messages, max_tokens=NEW, temperature=0)
        said = report.choices[0].message.content.rstrip("\ufffd")
        checks.tell(f"{member}, chat", said == text, f"{len(said)} characters", f"{said!r}, {text!r}")
    own = talk.complete("family", expected.ids[0])
    checks.equal("the folder's name is the largest", [own], [expected.tokens[LARGE][0]])
    extra = talk.complete("family", expected.ids[0], vllm_xargs={"member": SMALL})
    checks.equal("vllm_xargs.member", [extra], [expected.tokens[SMALL][0]])


def check_auto(talk: Talk, expected: Expected, checks: Checks) -> None:
    """The family chooses as its calibration does of the runtime's signals; the member says what it says alone."""
    chosen: list[str] = []
    for cost in (0, 0.25, 0.5, 0.75, 1):
        members, wanted = expected.auto(cost)
        got = [talk.complete("auto", ids, vllm_xargs={"cost": cost}) for ids in expected.ids]
        checks.equal(f"auto at {cost}", got, wanted)
        chosen += members if cost not in (0, 1) else []
    counts = collections.Counter(chosen)
    checks.tell(
        "members that auto has chosen between the ends", len(counts) == len(MEMBERS), figures_in_a_line(counts)
    )
    got = [talk.complete("auto", ids) for ids in expected.ids]
    checks.equal("auto at the server's own cost setting", got, expected.auto(COST)[1])
    extra = [talk.complete("family", ids, vllm_xargs={"member": "auto", "cost": 0.5}) for ids in expected.ids]
    checks.equal("vllm_xargs.member auto", extra, expected.auto(0.5)[1])


def check_who_answered(talk: Talk, expected: Expected, checks: Checks) -> None:
    """Every way to ask says who answered, in one piece and as a stream."""
    chosen = expected.auto(COST)[0]
    wrong, seen = [], 0
    asks = [(m, i, {m}) for i, m in enumerate((*SHAPES, PAIR))] + [("auto", i, {m}) for i, m in enumerate(chosen)]
    for model, i, wanted in [*asks, ("family", 0, {LARGE})]:
        for path in ("/v1/completions", "/invocations"):
            for stream in (False, True):
                got = talk.models(path, model=model, prompt=expected.ids[i], max_tokens=3, stream=stream)
                seen, wrong = seen + 1, wrong + ([] if got == wanted else [(path, model, stream, got)])
    messages = [{"role": "user", "content": "The first"}]
    for path, body in (
        ("/v1/chat/completions", {"messages": messages, "max_tokens": 3}),
        ("/v1/messages", {"messages": messages, "max_tokens": 3}),
        ("/v1/responses", {"input": "The first", "max_output_tokens": 3}),
    ):
        for model in (*SHAPES, PAIR, "auto"):
            for stream in (False, True):
                got = talk.models(path, model=model, stream=stream, **body)
                # a stream of responses begins before anybody is chosen
                right = got == {model} if model != "auto" else len(got - {"auto"}) == 1 and got <= {*MEMBERS, "auto"}
                seen, wrong = seen + 1, wrong + ([] if right else [(path, model, stream, got)])
    checks.tell(
        "answers and streams whose `model` is who answered", not wrong, f"{seen - len(wrong)} of {seen}", str(wrong)
    )
    several = talk.models("/v1/completions", model="auto", prompt=expected.ids, max_tokens=3)
    checks.tell("`model` of prompts that several members answered", several == {"auto"}, ", ".join(several))


def check_mixed(talk: Talk, expected: Expected, end: int, checks: Checks, seconds: float) -> None:
    """Clients at once, members and pairs mixed."""
    jobs: list[tuple[str, int, int | None]] = []
    for i in range(len(expected.ids)):
        jobs += [(m, i, None) for m in SHAPES] + [(PAIR, i, None), (PAIR, i, 5), ("auto", i, None)]
    random.Random(0).shuffle(jobs)

    def run(job: tuple[str, int, int | None]) -> list[int]:
        model, i, budget = job
        more = {} if budget is None else {"thinking_token_budget": budget}
        return talk.complete(model, expected.ids[i], **more)

    def want(job: tuple[str, int, int | None]) -> list[int]:
        model, i, budget = job
        if model == "auto":
            return autos[i]
        return expected.pair(i, end, budget) if model == PAIR else expected.tokens[model][i]

    autos = expected.auto(COST)[1]
    wanted = {job: want(job) for job in jobs}
    changed = sum(
        wanted[PAIR, i, None] not in (expected.tokens[SMALL][i], expected.tokens[LARGE][i]) for i in range(7)
    )
    checks.tell("pairs whose answer is neither member's own", changed >= 3, changed)
    before, rounds, started = talk.metric("vllm:num_preemptions_total"), 0, time.monotonic()
    while rounds == 0 or time.monotonic() - started < seconds:
        with ThreadPoolExecutor(CLIENTS) as pool:
            got = list(pool.map(run, jobs))
        rounds += 1
        if got != [wanted[job] for job in jobs]:
            break
    what = f"{CLIENTS} clients, members and pairs mixed, {rounds * len(jobs)} requests"
    checks.equal(what, got, [wanted[job] for job in jobs])
    switches = talk.metric("vllm:num_preemptions_total") - before
    checks.tell("pairs that changed their member", switches >= rounds * 7, int(switches))
