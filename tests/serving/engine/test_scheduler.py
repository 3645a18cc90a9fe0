# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whose turn a step is: members wait for a bounded number of steps, requests start in their order."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from tests.serving.engine.beside import beside_vllm

STATUS = SimpleNamespace(WAITING=0, PREEMPTED=1, RUNNING=2)
with beside_vllm("scheduler", {"vllm.v1.request": {"RequestStatus": STATUS}}) as scheduler:
    Turns, admissible = scheduler.Turns, scheduler.admissible

RING = ("12b", "9b", "6b", "3b")


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


def test_who_came_later_starts_later():
    before = int.__lt__
    assert admissible([3, 5, 9], None, before) == ([3, 5, 9], [])
    assert admissible([3, 4, 9], 5, before) == ([3, 4], [9])
    assert admissible([6, 9], 5, before) == ([], [6, 9])
    assert admissible([4, 3], 5, before) == ([4, 3], [])


def test_who_was_kept_behind_another_may_start_when_that_one_has():
    turns, started = Turns(RING), set()
    tried = turns.left_waiting({3, 5}, lambda r: r not in started)
    turns.served("12b", worked=False)  # its request came after 3, so that its turn started nothing
    assert tried == {3, 5} and turns.at_work({"6b": 1}, {"12b": 1}) == ["6b"]
    assert turns.left_waiting(tried, lambda r: r not in started) == tried
    assert turns.at_work({"6b": 1}, {"12b": 1}) == ["6b"]
    started.add(3)
    assert turns.left_waiting(tried, lambda r: r not in started) == {5}
    assert turns.at_work({"6b": 1}, {"12b": 1}) == ["6b", "12b"], "though nothing was given back"


def test_nobody_starves_in_a_server_that_is_always_full():
    """A small engine: four places, members that never stop asking, each request for its own number of steps."""
    dice = random.Random(0)
    turns = Turns(RING)
    running: list[tuple[int, str, int]] = []  # when it came, whose it is, steps that are left
    waiting: list[tuple[int, str, int]] = []
    started, tried, most = {}, set(), 0
    for now in range(1500):
        for _ in range(dice.choice((0, 0, 1))):
            request = (now, dice.choice(("12b", "12b", "12b", "6b", "9b")), dice.randint(1, 12))
            waiting.append(request)
            turns.arrived(request[1])
        tried = turns.left_waiting(tried, lambda r: r in waiting)
        counts = Counter(m for _, m, _ in running), Counter(m for _, m, _ in waiting)
        who = turns.next(*counts)
        if who is None:
            continue
        refused = min((r for r in waiting if r in tried and r[1] != who), default=None)
        may, _ = admissible([r for r in waiting if r[1] == who], refused, lambda a, b: a[0] < b[0])
        worked = any(m == who for _, m, _ in running)
        for request in may:
            if len(running) == 4:
                break
            waiting.remove(request)
            running.append(request)
            started[request[0]] = now
            worked = True
        tried.update(r for r in may if r in waiting)
        turns.served(who, worked)
        running = [(t, m, n - (m == who)) for t, m, n in running]
        if any(not n for _, _, n in running):
            running = [r for r in running if r[2]]
            turns.freed()
        most = max(most, len(waiting))
    order = sorted(started)
    overtaken = max(sum(started[b] < started[a] for b in order[i + 1 :]) for i, a in enumerate(order))
    assert most > 20, "it was full"
    assert overtaken <= (len(RING) - 1) * 4, "until its member's turn, then no more"
