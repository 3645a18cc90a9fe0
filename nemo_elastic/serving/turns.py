# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whose turn a step is. A step of the engine runs one member; members with work take turns.

Three rules, which `tests/serving/test_turns.py` holds:

- A member that has a running request is served at the latest after every other member with work was served once: with
  M members at work it waits for at most M - 1 steps, each of at most `--max-num-batched-tokens` tokens.
- Requests get a place and memory first come, first served over all members: from the turn in which one was left
  waiting on, no request that came after it starts before it, whosever it is.
- A member that only has requests which found no room is passed over until room is made.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

Item = TypeVar("Item", bound=Hashable)


class Turns:
    """Who is next, in a ring.

    Args:
        ring: all members, in any order.
    """

    def __init__(self, ring: Sequence[str]) -> None:
        self._ring = tuple(ring)
        self._last = len(self._ring) - 1

    def next(self, at_work: Iterable[str]) -> str | None:
        """The first of `at_work` after the one that was served last; None where nobody is at work."""
        wanted = set(at_work)
        number = len(self._ring)
        after = (self._ring[(self._last + 1 + i) % number] for i in range(number))
        return next((member for member in after if member in wanted), None)

    def served(self, member: str) -> None:
        """This member had its turn."""
        self._last = self._ring.index(member)


class Room:
    """Which members are known to find no room for what waits."""

    def __init__(self) -> None:
        self._made = 0
        self._full: dict[str, int] = {}

    def made(self) -> None:
        """A request gave its memory or its place back."""
        self._made += 1

    def none_for(self, member: str) -> None:
        """This member's turn started nothing."""
        self._full[member] = self._made

    def forget(self, member: str) -> None:
        """Something new waits for this member."""
        self._full.pop(member, None)

    def may_be_for(self, member: str) -> bool:
        """Whether a turn may start something."""
        return self._full.get(member) != self._made


def at_work(running: Mapping[str, int], waiting: Mapping[str, int], room: Room) -> list[str]:
    """Members whose turn may do something: one runs a request, or one waits that may find room.

    Where all that wait are known to find none, all of them are asked again: what they wait for may be no room.

    Args:
        running, waiting: how many requests of each member run and wait.
        room: what is known of the room.
    """
    able = [m for m, n in running.items() if n]
    able += [m for m, n in waiting.items() if n and m not in able and room.may_be_for(m)]
    return able or [m for m, n in waiting.items() if n]


def admissible(
    waiting: Iterable[Item], refused: Item | None, before: Callable[[Item, Item], bool]
) -> tuple[list[Item], list[Item]]:
    """Split one member's waiting requests into those that may start now, and those that came after a refused one.

    Args:
        waiting: in their order, in which they are tried until one finds no room.
        refused: the first of other members' requests that were left waiting in a turn, None for none.
        before: whether the first came before the second.
    """
    if refused is None:
        return list(waiting), []
    may, later = [], []
    for item in waiting:
        (may if before(item, refused) else later).append(item)
    return may, later


def left_waiting(tried: set[Item], waits: Callable[[Item], bool], room: Room) -> set[Item]:
    """Those of `tried` that still wait. Where one no longer does, what was kept behind it may start: room was made.

    Args:
        tried: requests that were left waiting in a turn of their member.
        waits: whether a request still does.
        room: what is known of the room.
    """
    left = {item for item in tried if waits(item)}
    if len(left) < len(tried):
        room.made()
    return left
