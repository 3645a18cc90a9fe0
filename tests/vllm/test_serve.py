# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family behind vLLM's server, every token compared with our runtime's: members, pairs, `auto`, streams, errors."""

from __future__ import annotations

import itertools
import json
import random
import re
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.serving.arguments import MOST_OF_BODY
from nemo_elastic.slicing.slicer import slice_checkpoint

from .expected import COST, LARGE, PAIR, SMALL, Expected
from .families import MEMBERS, SHAPES
from .server import KEY, NEW, Talk, serving, vllm_python

pytestmark = [pytest.mark.vllm, pytest.mark.long, pytest.mark.slow(minutes=6)]
CLIENTS, LENGTH = 32, 512
EAGER = "--enforce-eager"  # compiling takes minutes
FLAGS = ["--dtype=float32", f"--max-model-len={LENGTH}", "--max-num-seqs=16"]
#: fewer pages than the clients ask for, so that requests wait for memory
TIGHT = "--num-gpu-blocks-override=26"
MESSAGES = [{"role": "user", "content": "The first"}]


@pytest.fixture(scope="module")
def talk(expected: Expected, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    """`nemo-elastic serve`, with a key and an end of thinking of its own."""
    place = tmp_path_factory.mktemp("server")
    command = [str(vllm_python().with_name("nemo-elastic")), "serve", str(expected.folder)]
    own = json.dumps({"nemo_elastic": {"end_ids": [expected.ending()], "auto": COST}})
    flags = ["--", *FLAGS, f"--additional-config={own}", EAGER, TIGHT]
    with serving(place, command, flags, VLLM_API_KEY=KEY) as client:
        assert "MiB of weights" in client.logged()
        yield client


def test_names(talk: Talk) -> None:
    listed = {m["id"] for m in json.loads(talk.ask("/v1/models", key=KEY)[1])["data"]}
    assert listed >= {*SHAPES, "family", "auto", "9b>12b", "6b>12b", "6b>9b"}


@pytest.mark.parametrize("member", SHAPES)
def test_a_member_streams_and_chats(talk: Talk, expected: Expected, member: str) -> None:
    for ids, wanted in zip(expected.ids, expected.tokens[member], strict=True):
        pieces = talk.complete(member, ids, stream=True)
        assert len(pieces) > 1 and [i for ids in pieces for i in ids] == wanted
    (chat,) = talk.events("/v1/chat/completions", model=member, messages=MESSAGES, max_tokens=NEW, temperature=0)
    text = expected.family.select(member).generate(MESSAGES, NEW)
    # vLLM waits for whole characters
    assert chat["choices"][0]["message"]["content"].rstrip("\ufffd") == text.rstrip("\ufffd")


def test_the_familys_name_is_the_largest_members(talk: Talk, expected: Expected) -> None:
    assert talk.tokens("family", expected.ids[0]) == expected.tokens[LARGE][0]
    assert talk.tokens("family", expected.ids[0], vllm_xargs={"member": SMALL}) == expected.tokens[SMALL][0]


def test_auto_chooses_as_its_calibration_does_of_the_runtimes_signals(talk: Talk, expected: Expected) -> None:
    chosen: set[str] = set()
    for cost in (0, 0.25, 0.5, 0.75, 1):
        members, wanted = expected.auto(cost)
        assert [talk.tokens("auto", ids, vllm_xargs={"cost": cost}) for ids in expected.ids] == wanted, cost
        chosen |= {*members} if cost not in (0, 1) else set()
    assert chosen == {*MEMBERS}
    assert [talk.tokens("auto", ids) for ids in expected.ids] == expected.auto(COST)[1]
    extra = [talk.tokens("family", ids, vllm_xargs={"member": "auto", "cost": 0.5}) for ids in expected.ids]
    assert extra == expected.auto(0.5)[1]


def test_every_way_to_ask_says_who_answered(talk: Talk, expected: Expected) -> None:
    asks = [(m, i, {m}) for i, m in enumerate((*SHAPES, PAIR))]
    asks += [("auto", i, {m}) for i, m in enumerate(expected.auto(COST)[0])] + [("family", 0, {LARGE})]
    paths = ("/v1/completions", "/invocations")
    for (model, i, wanted), path, stream in itertools.product(asks, paths, (False, True)):
        got = talk.models(path, model=model, prompt=expected.ids[i], max_tokens=3, stream=stream)
        assert got == wanted, (path, model, stream)
    for path, body in (
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 3}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 3}),
        ("/v1/responses", {"input": "The first", "max_output_tokens": 3}),
    ):
        for model, stream in itertools.product((*SHAPES, PAIR, "auto"), (False, True)):
            got = talk.models(path, model=model, stream=stream, **body)
            # a stream of responses begins before anybody is chosen
            right = got == {model} if model != "auto" else len(got - {"auto"}) == 1 and got <= {*MEMBERS, "auto"}
            assert right, (path, model, stream, got)
    several = talk.models("/v1/completions", model="auto", prompt=expected.ids, max_tokens=3)
    assert several == {"auto"}, "of prompts that several members answered"


@pytest.mark.parametrize(
    ("status", "request_"),
    [
        (404, {"model": "7b"}),
        (404, {"model": "no\n\x1b[31mmember"}),
        (404, {"model": "6b>7b"}),
        (404, {"model": "code>12b"}),
        (400, {"vllm_xargs": {"member": "7b"}}),
        (400, {"vllm_xargs": {"member": SMALL}}),
        (400, {"vllm_xargs": {"cost": 0.5}}),
        (400, {"model": "auto", "vllm_xargs": {"cost": 1.5}}),
        (400, {"model": PAIR, "thinking_token_budget": 0}),
        (400, {"model": SMALL, "prompt": "word " * LENGTH}),
    ],
    ids=range(10),
)
def test_what_is_refused(talk: Talk, status: int, request_: dict[str, Any]) -> None:
    code, said = talk.error(**{"model": LARGE, **request_})
    assert code == status and said
    assert "\x1b[31mmember" not in talk.logged()
    assert [talk.error("another", model=model)[0] for model in (LARGE, "7b")] == [401, 401]


def test_no_route_of_vllms_lets_anybody_in_without_the_key(talk: Talk) -> None:
    routes = re.findall(r"Route: (\S+), Methods: (.+)", talk.logged())
    paths = {path for path, _ in routes} - {"/health"} | {"/nowhere", "//v1/models", "/health/", "/v1/../invocations"}
    assert len(routes) > 20
    for path, body, key in itertools.product(
        sorted(paths), (None, b'{"model": "x"}', b'{"prompt": "a", "max_tokens": 1}'), (None, "another")
    ):
        status, said = talk.ask(path, body, key)
        assert status == 401 and not any(f'"{m}"' in said or f" {m}," in said for m in MEMBERS), path
    assert talk.ask("/health") == (200, "")


def test_bodies_that_are_too_large_or_odd(talk: Talk) -> None:
    client = HTTPConnection(talk.address.removeprefix("http://"), timeout=600)
    client.putrequest("POST", "/invocations")
    client.putheader("Authorization", f"Bearer {KEY}")
    client.putheader("Content-Length", str(MOST_OF_BODY + 1))  # announced and not sent
    client.endheaders()
    assert client.getresponse().status == 413
    base = {
        "/v1/completions": {"prompt": "a"}, "/invocations": {"prompt": "a"}, "/v1/responses": {"input": "a"},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    }  # fmt: skip
    odd: list[dict[str, Any]] = [{"thinking_token_budget": b} for b in ("abc", -1, 1.5, [1])]
    odd += [{"vllm_xargs": x} for x in ({"thinking_token_budget": "abc"}, {"member": []}, {"then": 5}, [1])]
    for (path, body), model, more in itertools.product(base.items(), (LARGE, PAIR, "auto"), odd):
        status, said = talk.ask(path, json.dumps({"model": model, "max_tokens": 1, **body, **more}).encode(), KEY)
        assert status < 500, (path, model, more, said)


def test_clients_at_once_members_and_pairs_mixed(talk: Talk, expected: Expected) -> None:
    end, autos = expected.ending(), expected.auto(COST)[1]
    wanted: dict[tuple[str, int, int | None], list[int]] = {}
    for i in range(len(expected.ids)):
        wanted |= {(m, i, None): expected.tokens[m][i] for m in SHAPES} | {("auto", i, None): autos[i]}
        wanted |= {(PAIR, i, budget): expected.pair(i, end, budget) for budget in (None, 5)}
    mixed = [wanted[PAIR, i, None] not in (expected.tokens[SMALL][i], expected.tokens[LARGE][i]) for i in range(7)]
    assert sum(mixed) >= 3, "pairs whose answer is neither member's"
    jobs = random.Random(0).sample(sorted(wanted, key=str), len(wanted))
    before = talk.metric("vllm:num_preemptions_total")

    def run(job: tuple[str, int, int | None]) -> list[int]:
        model, i, budget = job
        return talk.tokens(model, expected.ids[i], **({} if budget is None else {"thinking_token_budget": budget}))

    for _ in range(2):
        with ThreadPoolExecutor(CLIENTS) as pool:
            got = dict(zip(jobs, pool.map(run, jobs), strict=True))
        assert got == wanted
    assert talk.metric("vllm:num_preemptions_total") - before >= 2 * 7, "pairs change their member"


def test_clients_that_go_away_leave_their_places_to_others(talk: Talk, expected: Expected) -> None:
    def ask(i: int) -> Any:
        body = {"model": (*MEMBERS, PAIR)[i % 4], "prompt": expected.ids[0], "max_tokens": 400, "stream": True}
        raw = json.dumps(body | {"ignore_eos": True}).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        return urllib.request.urlopen(urllib.request.Request(f"{talk.address}/v1/completions", raw, headers))

    def until(reached: Any) -> float:
        """Requests that run or wait, once there are as many as that, or after a minute."""
        ends = time.monotonic() + 60
        while not reached(now := sum(map(talk.metric, counts))) and time.monotonic() < ends:
            time.sleep(0.5)
        return now

    counts = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    streams = [ask(i) for i in range(CLIENTS)]
    assert until(lambda n: n >= 4) >= 4
    for stream in streams:
        stream.close()
    assert until(lambda n: n == 0) == 0
    assert [talk.tokens(m, expected.ids[2]) for m in MEMBERS] == [expected.tokens[m][2] for m in MEMBERS]
    assert talk.metric("vllm:kv_cache_usage_perc") == 0


def stock(folder: Path) -> list[str]:
    """vLLM's own server of a folder."""
    return [str(vllm_python()), "-m", "vllm.entrypoints.launchers.api_server.entry", "--model", str(folder)]


def test_vllms_own_server_compiled_finds_the_family_by_itself(expected: Expected, tmp_path: Path) -> None:
    with serving(tmp_path, stock(expected.folder), FLAGS) as talk:
        got = [talk.tokens(m, expected.ids[3]) for m in (*SHAPES, str(expected.folder))]
        assert got == [expected.tokens[m][3] for m in (*SHAPES, LARGE)]
        assert talk.tokens(PAIR, expected.ids[0], thinking_token_budget=9) == expected.pair(0, None, 9)
        assert talk.error(model=PAIR)[0] == 200, "</think> is a token"


def test_a_folder_that_is_no_family_is_vllms_own_model(expected: Expected, tmp_path: Path) -> None:
    member = slice_checkpoint(expected.folder, tmp_path / "plain", member=SMALL).out
    with serving(tmp_path, stock(member), [*FLAGS, EAGER, "--no-enable-prefix-caching"]) as talk:
        assert [m["id"] for m in json.loads(talk.ask("/v1/models")[1])["data"]] == [str(member)]
        assert [talk.tokens(str(member), ids) for ids in expected.ids] == expected.tokens[SMALL]
        assert "Resolved architecture: NemotronHForCausalLM" in talk.logged()
        assert "FamilyScheduler" not in talk.logged()
