# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Signals of known logits. A calibration chooses at the cost that is asked for; its file is read as it was written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checksums import CHECKSUMS_FILE
from nemo_elastic.runtime import FamilyRuntime, load_family
from nemo_elastic.serving.calibration import (
    FILE,
    LEAST,
    SIGNALS,
    Calibration,
    fit,
    read_calibration,
    signals,
    write_calibration,
)
from tests.runtime.talking import talking_family
from tests.serving.calibrated import NAMES, PARAMETERS, calibration_of, made

SIGNALS_NS, QUALITY_NM = made()
CALIBRATION = fit(SIGNALS_NS, QUALITY_NM, NAMES, PARAMETERS)
COSTS = np.linspace(0, 1, 41)


def test_the_ends_are_exact_whatever_the_signals():
    far_ns = np.concatenate([SIGNALS_NS, 1e9 * np.ones((1, 6)), -1e9 * np.ones((1, 6))])
    assert (CALIBRATION.choose(far_ns, 0) == 0).all() and (CALIBRATION.choose(far_ns, 1.0) == 2).all()


def test_the_mean_cost_is_what_the_setting_says():
    for asked in COSTS:
        cost = CALIBRATION.costs[CALIBRATION.choose(SIGNALS_NS, asked)].mean()
        assert cost == pytest.approx(asked, abs=0.01)


def test_more_cost_never_gives_a_smaller_member():
    chosen = np.stack([CALIBRATION.choose(SIGNALS_NS, asked) for asked in COSTS])
    assert (np.diff(chosen, axis=0) >= 0).all() and set(chosen.ravel()) == {0, 1, 2}


def test_the_gain_is_learned_and_used():
    """On new prompts: the expected gain is the signal, and those that gain most climb."""
    signals_ns, quality_nm = made(seed=1)
    gains_nm = CALIBRATION.gains(signals_ns)
    assert np.abs(gains_nm[:, 1:] - signals_ns[:, :1] * [0.6, 1.0])[np.abs(signals_ns[:, 0]) < 3].max() < 0.05
    chosen = CALIBRATION.choose(signals_ns, 0.3)
    share = CALIBRATION.costs[chosen].mean()
    got = quality_nm[np.arange(len(chosen)), chosen].mean()
    assert got > share * quality_nm[:, 2].mean() + (1 - share) * quality_nm[:, 0].mean() + 0.2


def test_signals_that_say_nothing():
    """All prompts are alike: they are never spent on more than the setting says."""
    calibration = fit(np.ones((LEAST, 6)), np.tile([0.0, 1.0, 1.5], (LEAST, 1)), NAMES, PARAMETERS)
    costs = [calibration.costs[calibration.choose(np.ones((5, 6)), asked)].mean() for asked in COSTS]
    assert costs[0] == 0 and costs[-1] == 1 and all(c <= d + 1e-9 for c, d in zip(costs, COSTS, strict=True))


@pytest.mark.parametrize("cost", [-0.1, 1.1, float("nan"), "0.3"])
def test_no_cost_setting(cost):
    with pytest.raises(ElasticError, match=r"^cost: "):
        CALIBRATION.choose(SIGNALS_NS, cost)


def test_what_cannot_be_fitted():
    few, infinite = LEAST - 1, np.where(QUALITY_NM > 1, np.inf, QUALITY_NM)
    for wrong in (
        (SIGNALS_NS, QUALITY_NM[:, :1], NAMES[:1], PARAMETERS[:1]),
        (SIGNALS_NS, QUALITY_NM, NAMES, PARAMETERS[::-1]),
        (SIGNALS_NS[:few], QUALITY_NM[:few], NAMES, PARAMETERS),
        (SIGNALS_NS, infinite, NAMES, PARAMETERS),
    ):
        with pytest.raises(ElasticError):
            fit(*wrong)


@pytest.fixture
def folder(tmp_path) -> Path:
    return talking_family(tmp_path)


@pytest.fixture
def family(folder) -> FamilyRuntime:
    return load_family(folder)


@pytest.fixture
def calibration(family) -> Calibration:
    return calibration_of(family)


def sizes(calibration: Calibration) -> dict[str, int]:
    return dict(zip(calibration.members, calibration.parameters, strict=True))


def test_there_and_back(folder, calibration):
    assert read_calibration(folder, sizes(calibration)) is None
    path = write_calibration(folder, calibration)
    assert path == folder / FILE and read_calibration(folder, sizes(calibration)) == calibration
    with pytest.raises(ElasticError, match="it was not replaced"):
        write_calibration(folder, calibration)
    write_calibration(folder, calibration, replace=True)


def test_a_family_that_was_trained_on_is_another(folder, calibration):
    write_calibration(folder, calibration)
    sums = folder / CHECKSUMS_FILE
    kept = sums.read_text()
    sums.write_text(kept.replace("a", "b", 1))
    with pytest.raises(ElasticError, match="another family"):
        read_calibration(folder, sizes(calibration))
    sums.write_text(kept)
    with pytest.raises(ElasticError, match="another family"):
        read_calibration(folder, sizes(calibration) | {"6b": 1})


def test_what_is_no_calibration(folder, calibration):
    path = write_calibration(folder, calibration)
    data = json.loads(path.read_text())
    cases = [data | {name: data[name][::-1]} for name in ("prices", "members", "signals")]
    cases += [data | {"climbs": data["climbs"][:1]}, data | {"climbs": [[1e300] * 7] * 2}]
    cases += [data | {"members": data["members"][:1] * 3}, data | {"version": 2}]
    cases += [data | {"signals": [s | {"spread": 0} for s in data["signals"]]}]
    for case in cases:
        path.write_text(json.dumps(case))
        with pytest.raises(ElasticError):
            read_calibration(folder, sizes(calibration))


def named(logits_tv: torch.Tensor, tokens: list[int], length: int) -> dict[str, float]:
    return dict(zip(SIGNALS, signals(logits_tv, tokens, length), strict=True))


def test_signals_of_known_distributions():
    """First all alike, then 3/4 and 1/4: entropies, margins, and the surprise of the token between them."""
    even_v, sure_v = torch.zeros(4), torch.tensor([0.75, 0.25, 0.0, 0.0]).log().clamp(min=-1e30)
    actual = named(torch.stack([even_v, sure_v]), [3, 1], 10)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = {
        "entropy": entropy, "margin": math.log(3), "tail_entropy": (math.log(4) + entropy) / 2,
        "tail_margin": math.log(3) / 2, "tail_surprise": math.log(4), "log_length": math.log(10),
    }  # fmt: skip
    assert actual == pytest.approx(expected, rel=1e-5)


def test_signals_of_one_token_and_of_half_precision():
    """Without a token that was seen to come, surprise is what is expected of the next."""
    logits_tv = torch.tensor([[2.0, 0.0, -1.0]])
    actual = named(logits_tv, [1], 1)
    assert actual["tail_surprise"] == actual["entropy"] > 0 and actual["log_length"] == 0
    assert named(logits_tv.bfloat16(), [1], 1) == pytest.approx(actual, rel=1e-6)
