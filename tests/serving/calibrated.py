# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Made signals and qualities, where the first signal says what a larger member gains; and signals of a member."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nemo_elastic.runtime import FamilyRuntime, MemberModel
from nemo_elastic.serving.calibration import SIGNALS, TAIL, Calibration, fit, signals

NAMES, PARAMETERS = ("6b", "9b", "12b"), (6, 9, 12)


def made(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Signals [n, s], and the quality [n, 3] of three members: each climb is worth the first signal, with noise."""
    rng = np.random.default_rng(seed)
    signals_ns = rng.normal(size=(count, len(SIGNALS)))
    gain_n = signals_ns[:, 0]
    quality_nm = np.stack([0 * gain_n, 0.6 * gain_n, gain_n], 1) + 0.05 * rng.normal(size=(count, 3))
    return signals_ns, quality_nm


def calibration_of(family: FamilyRuntime) -> Calibration:
    """A calibration of a family's own members, of made signals."""
    names = tuple(reversed(family.names))
    return fit(*made(), names, [family.select(name).parameters for name in names])


def signals_of(member: MemberModel, ids: Sequence[int]) -> list[float]:
    """Signals of a prompt, by the runtime: one forward of all its tokens."""
    return signals(member(torch.tensor([list(ids)]))[0, -TAIL:], ids[-TAIL:], len(ids))
