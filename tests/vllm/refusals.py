# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a server refuses, and what clients that go away leave behind."""

from __future__ import annotations

import collections
import json
import re
import time
from http.client import HTTPConnection
from pathlib import Path

from .expected import CLIENTS, LARGE, LENGTH, MOST, PAIR, SMALL, Checks, Expected, figures_in_a_line
from .served import MEMBERS
from .server import KEY, Talk


def announce(address: str, path: str, length: int) -> int:
    """Status of a request whose body is announced and not sent, which the server would not read."""
    client = HTTPConnection(address.removeprefix("http://"), timeout=600)
    client.putrequest("POST", path)
    client.putheader("Authorization", f"Bearer {KEY}")
    client.putheader("Content-Length", str(length))
    client.endheaders()
    with client.getresponse() as answer:
        return answer.status


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
    large = announce(talk.address, "/invocations", MOST + 1)
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
        figures_in_a_line(codes),
    )


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
