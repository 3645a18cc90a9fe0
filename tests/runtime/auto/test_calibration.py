# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The dial: exact at its ends, near its word between them, and never a smaller member for more cost."""

from __future__ import annotations

import numpy as np
import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime.auto.calibration import LEAST, fit
from tests.runtime.auto.made import NAMES, PARAMETERS, made

SIGNALS_NS, QUALITY_NM = made()
CALIBRATION = fit(SIGNALS_NS, QUALITY_NM, NAMES, PARAMETERS)
DIALS = np.linspace(0, 1, 41)


def test_the_ends_are_exact_whatever_the_signals():
    far_ns = np.concatenate([SIGNALS_NS, 1e9 * np.ones((1, 6)), -1e9 * np.ones((1, 6))])
    assert (CALIBRATION.choose(far_ns, 0) == 0).all() and (CALIBRATION.choose(far_ns, 1) == 2).all()
    assert (CALIBRATION.choose(far_ns, 0.0) == 0).all() and (CALIBRATION.choose(far_ns, 1.0) == 2).all()


def test_the_mean_cost_is_what_the_dial_says():
    for dial in DIALS:
        cost = CALIBRATION.costs[CALIBRATION.choose(SIGNALS_NS, dial)].mean()
        assert cost == pytest.approx(dial, abs=0.01)


def test_more_cost_never_gives_a_smaller_member():
    chosen = np.stack([CALIBRATION.choose(SIGNALS_NS, dial) for dial in DIALS])
    assert (np.diff(chosen, axis=0) >= 0).all() and set(chosen.ravel()) == {0, 1, 2}
    assert (np.diff(CALIBRATION.prices) <= 0).all()


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
    """All prompts are alike: they are never spent on more than the dial says."""
    calibration = fit(np.ones((LEAST, 6)), np.tile([0.0, 1.0, 1.5], (LEAST, 1)), NAMES, PARAMETERS)
    costs = [calibration.costs[calibration.choose(np.ones((5, 6)), dial)].mean() for dial in DIALS]
    assert costs[0] == 0 and costs[-1] == 1 and all(c <= d + 1e-9 for c, d in zip(costs, DIALS, strict=True))


@pytest.mark.parametrize("cost", [-0.1, 1.1, float("nan"), "0.3", True, None])
def test_no_dial(cost):
    with pytest.raises(ElasticError, match=r"cost: .* is not allowed; a number from 0"):
        CALIBRATION.choose(SIGNALS_NS, cost)


def test_what_cannot_be_fitted():
    with pytest.raises(ElasticError, match="at least two members"):
        fit(SIGNALS_NS, QUALITY_NM[:, :1], NAMES[:1], PARAMETERS[:1])
    with pytest.raises(ElasticError, match="at least two members"):
        fit(SIGNALS_NS, QUALITY_NM, NAMES, PARAMETERS[::-1])
    with pytest.raises(ElasticError, match=f"samples: 31 is not allowed; at least {LEAST} prompts"):
        fit(SIGNALS_NS[:31], QUALITY_NM[:31], NAMES, PARAMETERS)
    with pytest.raises(ElasticError, match="infinities or NaN"):
        fit(SIGNALS_NS, np.where(QUALITY_NM > 1, np.inf, QUALITY_NM), NAMES, PARAMETERS)
