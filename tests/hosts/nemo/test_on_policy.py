# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""On-policy micro-batches through NeMo: the exported member says what is written, a killed run goes on the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.nn.documents import Documents
from nemo_elastic.runtime import load_family
from nemo_elastic.train.on_policy import prompts_of, seed_of
from tests.hosts.nemo.on_policy_worker import MICRO_BATCHES, STEPS, STOP
from tests.parallel.runs import BATCH, LENGTH
from tests.workers import work

pytestmark = [pytest.mark.nemo, pytest.mark.dist, pytest.mark.slow]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("on_policy")
    work("tests.hosts.nemo.on_policy_worker", place)
    return place


@pytest.fixture(scope="module")
def facts(place: Path) -> dict[str, Any]:
    return json.loads((place / "facts.json").read_text())


def test_what_is_written_is_what_the_exported_member_says(place: Path, facts: dict[str, Any]) -> None:
    """The first step's weights are those of the checkpoint that it was cut out of."""
    wrote = facts["packed"]
    (tokens, _, mask), (new_tokens, labels, counts) = wrote["rows"], wrote["new"]
    documents = Documents(tuple(map(tuple, wrote["ends"])))
    written = prompts_of(torch.tensor(mask), documents)
    assert len(written) > 1, "several documents lie in the row"
    prompts = [tokens[p.row][p.start : p.last + 1] for p in written]
    member = load_family(place / "large").select("large")
    limits, seed = [p.end - p.last for p in written], seed_of(*wrote["turn"], prompts)
    said = member.generate(prompts, limits, wrote["stop_ids"], temperature=1.0, seed=seed)
    for p, new in zip(written, said, strict=True):
        assert labels[p.row][p.last :][: len(new)] == new
        assert new_tokens[p.row][p.start : p.last + 1] == tokens[p.row][p.start : p.last + 1]
        assert new_tokens[p.row][p.last + 1 : p.end][: len(new)] == new[: p.end - p.last - 1]
    assert sum(map(sum, counts)) == sum(map(len, said))


def test_a_killed_run_goes_on_as_an_uninterrupted_one(facts: dict[str, Any]) -> None:
    whole, stopped = facts["whole"], facts["stopped"]
    assert stopped["from"] == STOP and stopped["losses"] == whole["losses"][STOP:]
    assert stopped["counted"] == whole["counted"][STOP * MICRO_BATCHES :]
    assert stopped["state"] == whole["state"]


def test_half_of_the_micro_batches_is_written_behind_half_of_their_text(facts: dict[str, Any]) -> None:
    counted = facts["whole"]["counted"]
    assert len(counted) == STEPS * MICRO_BATCHES and {own for own, _, _ in counted} == {True, False}
    for own, before, after in counted:
        assert before == BATCH * LENGTH
        assert BATCH <= after <= BATCH * (LENGTH // 2 + 1) if own else after == before
