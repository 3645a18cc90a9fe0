# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family that several threads use at once: select, run, count and release in any order."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from nemo_elastic.core.family import Subnet
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime
from tests.shapes import PARENT

MEMBERS = {
    "full": PARENT.full,
    "mid": PARENT.uniform(keep=(0, 1, 3, 4), hidden=12, ffn=12, mamba_heads=4),
    "small": PARENT.uniform(keep=(0, 3, 4), hidden=8, ffn=8, mamba_heads=2),
}
OTHERS = [PARENT.uniform(hidden=width) for width in range(1, 16)]
TOKENS = torch.randint(PARENT.vocab, (2, 5), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def eager() -> Iterator[None]:
    """Threads take turns after every few steps."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*jobs: Callable[[], None]) -> None:
    """Run jobs until all that come to an end by themselves have; what one raises is raised here."""
    raised: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as exc:
            raised.append(exc)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def test_a_selection_beside_a_release_computes_the_same(eager: None) -> None:
    weights = NemotronH.random(PARENT, seed=3, dtype=torch.float64)
    family = FamilyRuntime(weights, MEMBERS)
    expected = {name: family.select(name)(TOKENS) for name in MEMBERS}
    left = threading.Semaphore(0)

    def use(which: str | Subnet, runs: bool) -> Callable[[], None]:
        def job() -> None:
            try:
                for i in range(300):
                    member = family.select(which)
                    assert member.subnet == (MEMBERS[which] if isinstance(which, str) else which)
                    if runs and i % 60 == 0 and isinstance(which, str):
                        assert torch.equal(member(TOKENS), expected[which])
            finally:
                left.release()

        return job

    users = [use(name, True) for name in MEMBERS] + [use(other, False) for other in OTHERS]

    def beside(what: Callable[[], object]) -> Callable[[], None]:
        def job() -> None:
            while left._value < len(users):
                what()

        return job

    at_once(*users, beside(family.release), beside(lambda: family.slice_bytes))
    family.release()
    assert family.slice_bytes == 0 and family.select("mid") is family.select("mid")


def test_a_release_between_the_looks_of_a_selection() -> None:
    """The same without luck: whatever was selected is released at once."""

    class Released(dict):
        def setdefault(self, key, value=None):
            actual = super().setdefault(key, value)
            self.clear()
            return actual

        def __contains__(self, key) -> bool:
            actual = super().__contains__(key)
            self.clear()
            return actual

    family = FamilyRuntime(NemotronH.random(PARENT, seed=3), MEMBERS)
    kept = family.select("small")
    family._selected = Released(family._selected)
    assert torch.equal(family.select("small")(TOKENS), kept(TOKENS))
    assert torch.equal(family.select("small")(TOKENS), kept(TOKENS))
