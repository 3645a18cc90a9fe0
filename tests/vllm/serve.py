# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family behind vLLM's server, talked to by PyPI's `openai` client: every member, pairs, streams, errors.

Runs in vLLM's environment, where this project is installed: the server finds the plugin by its entry point. No part of
the default suite: `make test-vllm` runs

    .venv-vllm/bin/python -m tests.vllm.serve [--keep FOLDER] [--seconds 60] [--markdown FILE] [-- flags of vLLM]

The family has random weights in float32. Every token is compared with what our own runtime gives. The exit code is 1
unless every check holds.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nemo_elastic.io.atomic import atomic_write
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.slicer import slice_checkpoint

from .cases import ROOT
from .engines import check_drafted, check_engine
from .served import CLOSE, MEMBERS, SHAPES, write_served, wrong_heads
from .server import KEY, NEW, Talk, serving

CLIENTS, LENGTH, PLACES, EAGER = 32, 512, 16, "--enforce-eager"  # compiling takes minutes
FLAGS = ["--dtype=float32", f"--max-model-len={LENGTH}", f"--max-num-seqs={PLACES}"]
#: fewer pages than the clients ask for, so that requests wait for memory
TIGHT = "--num-gpu-blocks-override=26"
VLLM = [sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"]
LARGE, SMALL = "12b", "6b"
PAIR = f"{SMALL}>{LARGE}"
MOST = 2**20  # bytes of a body
DIAL = 0.4  # of `auto`, where a request has none


def prompts() -> list[str]:
    """Of several lengths, the longest above a chunk of Mamba's scan."""
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    return ["The first", " of the Work and any", text[:80], text[300:700], text[1000:1900], "def f(", "licence: 42-25"]


class Expected:
    """Greedy tokens of our own runtime."""

    def __init__(self, folder: Path) -> None:
        self.family = load_family(folder)
        self.ids = [self.family.tokenizer.encode(p) for p in prompts()]
        self.tokens = {m: self.family.select(m).generate(self.ids, NEW, ()) for m in self.family.names}

    def ending(self) -> tuple[str, int]:
        """A token that the small member says in the middle of many answers; it is then taken to end its thinking."""
        said = collections.Counter()
        for row in self.tokens[SMALL]:
            said.update({i for i in row[4:16] if i not in row[:4]})
        for token, _ in said.most_common():
            text = self.family.tokenizer.decode([token])
            if text.strip().isalnum() and self.family.tokenizer.encode(text, special=False) == [token]:
                return text, token
        raise SystemExit("the small member repeats no token over the prompts")

    def auto(self, cost: float) -> tuple[list[str], list[list[int]]]:
        """Who answers each prompt, and what it says."""
        chosen = self.family.auto(cost=cost).choose(self.ids)
        return chosen, [self.tokens[member][i] for i, member in enumerate(chosen)]

    def pair(self, i: int, end: int | None, budget: int | None, small: str = SMALL, large: str = LARGE) -> list[int]:
        """What the small member begins and the large one ends."""
        thought = self.tokens[small][i][: budget or NEW]
        if end in thought:
            thought = thought[: thought.index(end) + 1]
        if len(thought) == NEW:
            return thought
        return thought + self.family.select(large).generate(self.ids[i] + thought, NEW - len(thought), ())


class Checks:
    """What was seen, and what was wrong."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.faults: list[str] = []

    def tell(self, what: str, ok: bool, seen: object, more: str = "") -> None:
        """Note what was seen; `more` is for the screen and not for the table."""
        self.rows.append((what, str(seen)))
        print(f"{'ok   ' if ok else 'WRONG'} {what}: {seen} {more}", flush=True)
        if not ok:
            self.faults.append(f"{what}: {seen} {more}")

    def table(self) -> str:
        """In Markdown."""
        rows = [f"| {what.replace('>', '&gt;')} | {seen.replace('>', '&gt;')} |" for what, seen in self.rows]
        return "\n".join(["| Checked | Seen |", "|---|---:|", *rows]) + "\n"

    def equal(self, what: str, got: list[list[int]], expected: list[list[int]]) -> None:
        pairs = [(a, b) for x, y in zip(got, expected, strict=True) for a, b in zip(x, y, strict=False)]
        right, number = sum(a == b for a, b in pairs), sum(map(len, expected))
        self.tell(what, got == expected, f"{right} of {number}")


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
        told = talk.api.chat.completions.create(model=member, messages=messages, max_tokens=NEW, temperature=0)
        said = told.choices[0].message.content.rstrip("\ufffd")
        checks.tell(f"{member}, chat", said == text, f"{len(said)} characters", f"{said!r}, {text!r}")
    own = talk.complete("family", expected.ids[0])
    checks.equal("the folder's name is the largest", [own], [expected.tokens[LARGE][0]])
    extra = talk.complete("family", expected.ids[0], vllm_xargs={"member": SMALL})
    checks.equal("vllm_xargs.member", [extra], [expected.tokens[SMALL][0]])


def check_auto(talk: Talk, expected: Expected, checks: Checks) -> None:
    """The family chooses as the runtime does, and the chosen member says what it says alone."""
    chosen: list[str] = []
    for cost in (0, 0.25, 0.5, 0.75, 1):
        members, wanted = expected.auto(cost)
        got = [talk.complete("auto", ids, vllm_xargs={"cost": cost}) for ids in expected.ids]
        checks.equal(f"auto at {cost}", got, wanted)
        chosen += members if cost not in (0, 1) else []
    counts = collections.Counter(chosen)
    checks.tell("members that auto has chosen between the ends", len(counts) == len(MEMBERS), _told(counts))
    got = [talk.complete("auto", ids) for ids in expected.ids]
    checks.equal("auto at the server's own dial", got, expected.auto(DIAL)[1])
    extra = [talk.complete("family", ids, vllm_xargs={"member": "auto", "cost": 0.5}) for ids in expected.ids]
    checks.equal("vllm_xargs.member auto", extra, expected.auto(0.5)[1])


def check_told(talk: Talk, expected: Expected, checks: Checks) -> None:
    """Every way to ask says who answered, in one piece and as a stream."""
    chosen = expected.family.auto(cost=DIAL).choose(expected.ids)
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


def check_gate(talk: Talk, log: Path, checks: Checks) -> None:
    """Every route that vLLM has registered, and what is no route, without a key."""
    routes = re.findall(r"Route: (\S+), Methods: (.+)", log.read_text(errors="replace"))
    paths = sorted({path for path, _ in routes} - {"/health"}) + [
        "/nowhere",
        "//v1/models",
        "/health/",
        "/v1/../invocations",
    ]
    asks = [(path, body) for path in paths for body in (None, b'{"model": "x"}', b'{"prompt": "a", "max_tokens": 1}')]
    answers = [talk.ask(path, body, key) for path, body in asks for key in (None, "another")]
    let_in = sum(status != 401 for status, _ in answers)
    named = sum(f'"{m}"' in text or f" {m}," in text for _, text in answers for m in MEMBERS)
    checks.tell("paths of the server, each asked without its key", len(routes) > 20, len(paths))
    checks.tell("of those that let somebody in, or named a member", let_in + named == 0, f"{let_in}, {named}")
    checks.tell("the health check without a key", talk.ask("/health") == (200, ""), talk.ask("/health")[0])
    large = talk.ask("/invocations", b" " * (MOST + 1), KEY)[0]
    checks.tell("a body above the limit", large == 413, large)
    base = {
        "/v1/completions": {"prompt": "a"}, "/invocations": {"prompt": "a"}, "/v1/responses": {"input": "a"},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    }  # fmt: skip
    odd = [{"thinking_token_budget": b} for b in ("abc", -1, 1.5, [1])] + [
        {"vllm_xargs": x}
        for x in ({"thinking_token_budget": "abc"}, {"thinking_token_budget": -1}, {"member": []}, {"then": 5}, [1])
    ]
    codes = collections.Counter(
        talk.ask(path, json.dumps({"model": model, "max_tokens": 1, **body, **more}).encode(), KEY)[0]
        for path, body in base.items() for model in (LARGE, PAIR, "auto") for more in odd
    )  # fmt: skip
    checks.tell(
        "odd budgets and members that are a 400 or taken, and errors of the server",
        not any(c >= 500 for c in codes),
        _told(codes),
    )


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

    autos = expected.auto(DIAL)[1]
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


def check_errors(talk: Talk, log: Path, checks: Checks) -> None:
    long = "word " * LENGTH
    bad = "no\n\x1b[31mmember"
    for what, status, request in (
        ("an unknown member", 404, {"model": "7b"}),
        ("a name with an escape sequence", 404, {"model": bad}),
        ("a pair with an unknown member", 404, {"model": "6b>7b"}),
        ("a pair with an extra shape", 404, {"model": "code>12b"}),
        ("vllm_xargs with an unknown member", 400, {"extra_body": {"vllm_xargs": {"member": "7b"}}}),
        ("vllm_xargs against the model", 400, {"extra_body": {"vllm_xargs": {"member": SMALL}}}),
        ("a cost without auto", 400, {"extra_body": {"vllm_xargs": {"cost": 0.5}}}),
        ("a cost above 1", 400, {"model": "auto", "extra_body": {"vllm_xargs": {"cost": 1.5}}}),
        ("a budget of 0", 400, {"model": PAIR, "extra_body": {"thinking_token_budget": 0}}),
        ("a prompt that is too long", 400, {"model": SMALL, "prompt": long}),
    ):
        code, message = talk.error(**{"model": LARGE, **request})
        checks.tell(what, code == status and bool(message), code, repr(message[:90]))
    from openai import OpenAI

    other = Talk(talk.address)
    other.api = OpenAI(base_url=f"{talk.address}/v1", api_key="another", max_retries=0)
    checks.tell("a wrong key", other.error(model=LARGE)[0] == 401, other.error(model=LARGE)[0])
    checks.tell("a wrong key and an unknown member", other.error(model="7b")[0] == 401, other.error(model="7b")[0])
    checks.tell("no raw escape sequence in the log", b"\x1b[31mmember" not in log.read_bytes(), "none")


def check_gone(talk: Talk, expected: Expected, checks: Checks) -> None:
    """Clients that go away leave their places to others."""
    running = "vllm:num_requests_running"
    streams = [
        talk.api.completions.create(
            model=(*MEMBERS, PAIR)[i % 4], prompt=expected.ids[0], max_tokens=400, stream=True,
            extra_body={"ignore_eos": True},
        )
        for i in range(CLIENTS)
    ]  # fmt: skip
    until = time.monotonic() + 60
    while (most := talk.metric(running)) < 4 and time.monotonic() < until:
        time.sleep(0.5)
    for stream in streams:
        stream.close()
    until = time.monotonic() + 60
    while (left := talk.metric(running) + talk.metric("vllm:num_requests_waiting")) and time.monotonic() < until:
        time.sleep(0.5)
    checks.tell(
        "requests that run before all clients go away, and after", most >= 4 and left == 0, f"{most:.0f}, {left:.0f}"
    )
    after = [talk.complete(m, expected.ids[2]) for m in MEMBERS]
    checks.equal("answers after that", after, [expected.tokens[m][2] for m in MEMBERS])
    used = talk.metric("vllm:kv_cache_usage_perc")
    checks.tell("pages in use when nobody asks", used == 0, used)


def check_metrics(talk: Talk, checks: Checks) -> None:
    counted = {m: talk.metric("nemo_elastic_requests_total", model=m, code="200") for m in (*SHAPES, PAIR, "auto")}
    checks.tell("requests of each model in `/metrics`", all(counted.values()), _told(counted))
    said = {m: talk.metric("nemo_elastic_tokens_total", member=m) for m in SHAPES}
    whole = talk.metric("vllm:generation_tokens_total")
    # vLLM counts no token whose client was gone when it came: at most one of each that went away in `check_gone`
    checks.tell(
        "tokens of the members in `/metrics`, and vLLM's own sum",
        0 <= sum(said.values()) - whole <= CLIENTS,
        f"{sum(said.values()):.0f}, {whole:.0f}",
    )
    steps = {m: int(talk.metric("nemo_elastic_steps_total", member=m)) for m in SHAPES}
    checks.tell("steps of each member", all(steps.values()), _told(steps))
    running = sum(talk.metric("nemo_elastic_requests_running", model=m) for m in counted)
    checks.tell("nothing counted as running", running == 0, int(running))


def _told(figures: dict[str, float]) -> str:
    return ", ".join(f"{name}: {figure:.0f}" for name, figure in figures.items())


def check_own_command(place: Path, folder: Path, expected: Expected, checks: Checks, args: argparse.Namespace) -> None:
    """`nemo-elastic serve`, with a key and an end of thinking."""
    text, end = expected.ending()
    command = [str(Path(sys.executable).with_name("nemo-elastic")), "serve", str(folder), "--api-key", KEY]
    command += ["--end-of-thinking", text, "--auto", str(DIAL), "--max-body", str(MOST) + "B"]
    log = place / "serve.log"
    with serving(place, command, ["--", *FLAGS, EAGER, TIGHT, *args.flags], log) as address:
        talk = Talk(address)
        told = "MiB of weights" in log.read_text(errors="replace")
        checks.tell("the log says what the weights take", told, "yes" if told else "no")
        check_names(talk, checks)
        check_members(talk, expected, checks)
        check_errors(talk, log, checks)
        check_auto(talk, expected, checks)
        check_told(talk, expected, checks)
        check_gate(talk, log, checks)
        check_mixed(talk, expected, end, checks, args.seconds)
        check_gone(talk, expected, checks)
        check_metrics(talk, checks)


def check_vllm_alone(place: Path, folder: Path, expected: Expected, checks: Checks, flags: list[str]) -> None:
    """vLLM's own server finds the family by itself; compiled, as it is by default."""
    with serving(place, [*VLLM, "--model", str(folder)], [*FLAGS, *flags], place / "vllm.log") as address:
        talk = Talk(address)
        got = [talk.complete(m, expected.ids[3]) for m in (*SHAPES, str(folder))]
        checks.equal("vLLM's own server, compiled", got, [expected.tokens[m][3] for m in (*SHAPES, LARGE)])
        got = [talk.complete(PAIR, expected.ids[0], thinking_token_budget=9)]
        checks.equal("its pairs", got, [expected.pair(0, None, 9)])
        told = talk.error(model=PAIR)
        checks.tell("a pair without an end or a budget", told[0] == 200, told[0])  # </think> is a token


def check_plain(place: Path, folder: Path, expected: Expected, checks: Checks, flags: list[str]) -> None:
    """A folder that is no family is vLLM's own model."""
    member, log = place / "plain", place / "plain.log"
    slice_checkpoint(folder, member, member=SMALL)
    with serving(
        place, [*VLLM, "--model", str(member)], [*FLAGS, EAGER, "--no-enable-prefix-caching", *flags], log
    ) as address:
        talk = Talk(address)
        listed = [m.id for m in talk.api.models.list().data]
        checks.tell("a plain folder's names", listed == [str(member)], len(listed))
        got = [talk.complete(str(member), ids) for ids in expected.ids]
        checks.equal("a plain folder, the plugin installed", got, expected.tokens[SMALL])
    text = log.read_text(errors="replace")
    stock = "Resolved architecture: NemotronHForCausalLM" in text and "FamilyScheduler" not in text
    checks.tell("a plain folder has vLLM's own model and scheduler", stock, "yes" if stock else "no")


def main() -> int:
    own, flags = sys.argv[1:], []
    if "--" in own:
        own, flags = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="write the folders and the servers' logs here and leave them")
    parser.add_argument("--seconds", type=float, default=60, help="how long mixed clients ask")
    parser.add_argument("--markdown", type=Path, help="write the table to this file if all is well")
    parser.add_argument("--only", choices=("command", "engine", "drafted", "vllm", "plain"), help="one of the servers")
    args = parser.parse_args(own, argparse.Namespace(flags=flags))
    checks = Checks()
    checks.faults += wrong_heads()
    with tempfile.TemporaryDirectory() as temporary:
        place = (args.keep or Path(temporary)).resolve()
        place.mkdir(parents=True, exist_ok=True)
        folder = write_served(place)
        expected = Expected(folder)
        if args.only in (None, "command"):
            check_own_command(place, folder, expected, checks, args)
        if args.only in (None, "engine"):
            check_engine(place, folder, expected, checks)
        if args.only in (None, "drafted"):
            close = write_served(place / "close", CLOSE, {})
            check_drafted(place, close, Expected(close), checks)
        if args.only in (None, "vllm"):
            check_vllm_alone(place, folder, expected, checks, flags)
        if args.only in (None, "plain"):
            check_plain(place, folder, expected, checks, flags)
    if checks.faults:
        print("\n".join(checks.faults), file=sys.stderr)
    elif args.markdown:
        atomic_write(args.markdown, checks.table())
    return 1 if checks.faults else 0


if __name__ == "__main__":
    sys.exit(main())
