# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Comparisons of runs see a number that is none, wherever it stands, on either side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parallel import compare, table
from tests.parallel.runs import Layout
from tests.support.figures import largest
from tests.vllm import parity
from tests.vllm.cases import CASES

pytestmark = pytest.mark.nemo
NAN = float("nan")
FINE: dict[str, Any] = {"losses": [3.0, 2.0], "weights": torch.ones(3), "far": [2.0, 3.0]}
BROKEN = {"losses": [3.0, NAN], "weights": torch.tensor([1.0, 1.0, NAN]), "far": [2.0, NAN]}


def write(folder: Path, losses: list[float], **_: Any) -> Path:
    folder.mkdir()
    steps = [{"kind": "step", "reduced_train_loss": loss} for loss in losses]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)))
    return folder


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("what", [None, *FINE])
def test_runs_are_apart_where_one_has_no_number(monkeypatch, tmp_path: Path, what: str | None, side: int) -> None:
    facts = [dict(FINE), dict(FINE)]
    if what is not None:
        facts[side][what] = BROKEN[what]
    runs = [write(tmp_path / str(i), **each) for i, each in enumerate(facts)]
    held = {run: {"a": torch.ones(2), "b": own["weights"], "c": torch.ones(1)} for run, own in zip(runs, facts)}
    monkeypatch.setattr(compare, "weights", held.get)
    loss, weight = compare.apart(*runs)
    far = table.far({"large": facts[0]["far"]}, {"large": facts[1]["far"]})
    row = {"loss": loss, "weight": weight, "members": far}
    wrong = table.wrong(Layout(), row)
    assert bool(wrong) == (what is not None)
    if what is None:
        compare.same(*runs)
    elif what != "far":
        with pytest.raises(AssertionError):
            compare.same(*runs)


@pytest.mark.parametrize(("values", "most"), [([], 0), ([2.0, 3.0, 1.0], 3), ([1.0, NAN], None), ([NAN, 1.0], None)])
def test_the_largest_is_no_number_where_one_is_none(values: list[float], most: float | None) -> None:
    assert largest(values) == most if most is not None else largest(values) != largest(values)


@pytest.mark.parametrize(
    ("lead", "logprobs", "faults"), [([1.0, 2.0], [0.0, 0.0], 0), ([1.0, 2.0], [0.0, NAN], 1), ([1.0, NAN], [0, 0], 1)]
)
def test_decoding_in_vllm_is_judged(lead: list[float], logprobs: list[float], faults: int) -> None:
    case = next(case for case in CASES.values() if not case.refused)
    tokens = list(range(parity.VARIED))
    ran = {"prompt": [1], "tokens": tokens, "lead": lead, "logprobs": [0.0, 0.0]}
    got = {"transformers": [ran], "runtime": [tokens], "vllm": [ran | {"logprobs": logprobs}]}
    assert len(parity.judge(case, got)["faults"]) == faults
