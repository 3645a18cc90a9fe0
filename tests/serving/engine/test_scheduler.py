# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whose turn a step is: members wait for a bounded number of steps, requests start in their order."""

from __future__ import annotations

import random
from collections import Counter, deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.serving.names import Choice
from tests.serving.engine.beside import beside_vllm

STATUS = SimpleNamespace(WAITING=0, PREEMPTED=1, RUNNING=2, BLOCKED=3)
PLACES = 4


class Queue(deque):
    """First come, first served, with vLLM's names."""

    add_request, prepend_request, remove_request = deque.append, deque.appendleft, deque.remove
    pop_request = deque.popleft

    def peek_request(self) -> Any:
        return self[0]

    def remove_requests(self, requests: Any) -> None:
        for request in requests & set(self):
            self.remove(request)


class Request:
    """A request that came `at` a time, and counts how often it was looked at."""

    looks = 0

    def __init__(self, at: int, member: str, steps: int = 1, status: int = STATUS.WAITING) -> None:
        self.request_id, self.at, self.steps, self.state = str(at), at, steps, status
        self.sampling_params = SimpleNamespace(extra_args={"member": member})
        self.cache_salt, self.block_hashes, self.update_block_hashes = None, [], lambda: None

    def __lt__(self, other: Request) -> bool:
        Request.looks += 1
        return self.at < other.at

    @property
    def status(self) -> int:
        Request.looks += 1
        return self.state


class Scheduler:
    """As much of vLLM's scheduler as there is to see: some places, each for a request's steps, and queues."""

    def __init__(self) -> None:
        self.vllm_config, self.policy, self.max_num_active_reqs = SimpleNamespace(), None, PLACES
        self.vllm_config.additional_config, self.vllm_config.model_config = {}, SimpleNamespace(model="family")
        self.requests, self.running = {}, []

    def add_request(self, request: Request) -> None:
        self.requests[request.request_id] = request
        self.waiting.add_request(request)

    def schedule(self) -> Any:
        skipped = deque()
        while self.waiting and len(self.running) < self.max_num_active_reqs:
            request = self.waiting.pop_request()
            if request.state == STATUS.BLOCKED:
                skipped.appendleft(request)
                continue
            request.state = STATUS.RUNNING
            self.running.append(request)
        self.waiting.prepend_requests(skipped)
        return SimpleNamespace(total_num_scheduled_tokens=len(self.running), ran=[*self.running])

    def update_from_output(self, output: Any, result: Any) -> Any:
        for request in output.ran:
            request.steps -= 1
            if not request.steps:
                self.running.remove(request)
                self._free_request(request)
        return {}

    def _free_request(self, request: Request) -> None:
        del self.requests[request.request_id]

    def _preempt_request(self, request: Request, *_: Any, **named: Any) -> None:
        request.state = STATUS.PREEMPTED
        self.waiting.prepend_request(request)


HAS = {
    "vllm.v1.request": {"RequestStatus": STATUS},
    "vllm.v1.core.sched.scheduler": {"Scheduler": Scheduler},
    "vllm.v1.core.sched.request_queue": {"create_request_queue": lambda policy: Queue(), "RequestQueue": object},
}
with beside_vllm("scheduler", HAS) as scheduler:
    Turns, Waiting = scheduler.Turns, scheduler.Waiting

RING = ("12b", "9b", "6b", "3b")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A scheduler of a family; `add` gives it a request."""
    names = SimpleNamespace(shapes=RING, calibration=None, from_extra=lambda extra: Choice(extra["member"]))
    monkeypatch.setattr(scheduler, "family_names", lambda *_: names)
    monkeypatch.setattr(scheduler, "Settings", SimpleNamespace(read=lambda _: SimpleNamespace(auto=None, end_ids=())))
    return scheduler.FamilyScheduler()


def step(engine: Any) -> Any:
    """One step, and its results."""
    output = engine.schedule()
    engine.update_from_output(output, None)
    return output


@given(st.lists(st.sets(st.sampled_from(RING)), max_size=60))
def test_nobody_at_work_waits_longer_than_the_others_have_a_turn_each(steps):
    """Members come and go as they like: one that stays at work is served before anyone is served twice."""
    turns, since = Turns(RING), {m: Counter() for m in RING}
    for at in steps:
        who = turns.next(dict.fromkeys(at, 1), {})
        assert (who is None) == (not at)
        for member in RING:
            if member not in at or member == who:
                since[member].clear()
            elif who is not None:
                since[member][who] += 1
                assert since[member][who] == 1, "somebody was served twice meanwhile"
                assert since[member].total() <= len(RING) - 1
        if who is not None:
            turns.served(who)


def test_who_is_at_work():
    turns = Turns(RING)
    assert turns.at_work({}, {}) == []
    assert turns.at_work({"6b": 2}, {"12b": 1}) == ["6b", "12b"]
    turns.served("12b", worked=False)
    assert turns.at_work({"6b": 2}, {"12b": 1}) == ["6b"], "there is known to be no capacity for it"
    assert turns.at_work({"12b": 1}, {"12b": 1}) == ["12b"], "what runs goes on"
    assert turns.at_work({}, {"12b": 1}) == ["12b"], "it may wait for something else"
    turns.freed()
    assert turns.at_work({"6b": 2}, {"12b": 1}) == ["6b", "12b"]
    turns.served("12b", worked=False)
    turns.arrived("12b")
    assert turns.at_work({"6b": 2}, {"12b": 1}) == ["6b", "12b"]


@pytest.mark.parametrize(
    ("mine", "refused", "started"),
    [
        ([3, 5, 9], None, [3, 5, 9]),
        ([3, 4, 9], 5, [3, 4]),
        ([6, 9], 5, []),
        ([-9, 3, -4, 6], 5, [3]),  # those below 0 wait for something else
        ([-9, -8], 5, []),
    ],
)
def test_who_came_later_starts_later(mine: list[int], refused: int | None, started: list[int]) -> None:
    waiting = Waiting(Queue, lambda request: request.sampling_params.extra_args["member"])
    for at in mine:
        waiting.add_request(Request(abs(at), "6b", status=STATUS.BLOCKED if at < 0 else STATUS.WAITING))
    waiting.add_request(Request(1, "9b"))
    running, before = SimpleNamespace(waiting=waiting, running=[], max_num_active_reqs=99), len(waiting)
    with waiting.only("6b", None if refused is None else Request(refused, "9b")):
        assert len(waiting) == len(mine) and [r.at for r in waiting] == [abs(at) for at in mine]
        Scheduler.schedule(running)  # pyright: ignore
    assert [r.at for r in running.running] == started
    assert len(waiting) == before - len(started) and waiting.counts() == {"6b": len(mine) - len(started), "9b": 1}
    with waiting.only(None, None):
        assert not waiting


def test_who_was_kept_behind_another_may_start_when_that_one_has() -> None:
    turns = Turns(RING)
    turns.served("9b", left=3)
    turns.served("12b", worked=False, left=5)  # its request came after 3, so that its turn started nothing
    assert turns.left == {"9b": 3, "12b": 5} and turns.at_work({"6b": 1}, {"12b": 1}) == ["6b"]
    turns.served("9b", left=3)
    assert turns.at_work({"6b": 1}, {"12b": 1}) == ["6b"]
    turns.served("9b")
    assert turns.left == {"12b": 5}
    assert turns.at_work({"6b": 1}, {"12b": 1}) == ["6b", "12b"], "though nothing was given back"


def test_a_request_that_another_member_answers_waits_first_in_its_queue(engine: Any) -> None:
    first, second = Request(0, "6b", steps=2), Request(1, "9b")
    for request in (first, second):
        engine.add_request(request)
    engine.changes = [SimpleNamespace(
        before_update=lambda *_: None, after_update=lambda *_: {"0": "9b"} if first in engine.running else {},
        forget=lambda _: None,
    )]  # fmt: skip
    while first not in engine.running:
        engine.changes, changes = [], engine.changes
        output, engine.changes = engine.schedule(), changes
    engine.update_from_output(output, None)
    assert first.cache_salt == "9b|" and first not in engine.running
    assert +engine.waiting.counts() == {"9b": 1} and engine.waiting.first("9b") is first
    while engine.requests:
        engine.changes = []
        assert step(engine).member == "9b"


@pytest.mark.parametrize("requests", [200, 2000])
def test_a_step_takes_no_longer_where_more_wait(engine: Any, requests: int) -> None:
    for at in range(requests):
        engine.add_request(Request(at, RING[at % 3], steps=99))
    for _ in RING:
        step(engine)
    Request.looks = 0
    for _ in RING:
        step(engine)
    assert Request.looks <= 10 * len(RING)


def test_nobody_starves_in_a_server_that_is_always_full(engine: Any) -> None:
    """A small engine: four places, members that never stop asking, each request for its own number of steps."""
    dice, started, most, idle = random.Random(0), {}, 0, 0
    for now in range(1500):
        for _ in range(dice.choice((0, 0, 1))):
            engine.add_request(Request(now, dice.choice(("12b", "12b", "12b", "6b", "9b")), dice.randint(1, 12)))
        ran = step(engine).ran
        idle += bool(engine.requests) and not ran
        for request in ran:
            started.setdefault(request.at, now)
        most = max(most, len(engine.waiting))
    order = sorted(started)
    overtaken = max(sum(started[b] < started[a] for b in order[i + 1 :]) for i, a in enumerate(order))
    assert most > 20, "it was full"
    assert idle < len(started), "who has no capacity is passed over until some is freed"
    assert overtaken <= (len(RING) - 1) * PLACES, "until its member's turn, then no more"
