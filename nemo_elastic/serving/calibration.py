# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which member answers, from signals and a cost setting: fitted on prompts whose answers are known.

Signals are figures of the smallest member's logits on a prompt that tell how hard the prompt is.

Each climb from a member to the next larger one has a line: how much better the larger one is expected to be, given
the signals. A member's worth is the sum of the climbs up to it, less a price times its cost; the member of the
greatest worth answers. The price follows from the cost setting, which is the mean cost on the prompts of the
calibration. `auto.json` in a family folder has the calibration of this family.

n: prompts, s: signals, m: members from the smallest to the largest; t: positions at a prompt's end, v: vocabulary.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from nemo_elastic.core.manifest import CALIBRATION as FILE
from nemo_elastic.errors import ElasticError, bad, inside
from nemo_elastic.formats.checksums import family_digest
from nemo_elastic.io.fields import TEXT, Between, Length, check_version, read
from nemo_elastic.io.read import read_json
from nemo_elastic.io.values import number
from nemo_elastic.io.write import atomic_write
from nemo_elastic.nn.functional import work_dtype
from nemo_elastic.nn.generate import check_finite

#: positions at a prompt's end over which a mean is taken
TAIL = 16
#: in the order in which `signals` gives them
SIGNALS = ("entropy", "margin", "tail_entropy", "tail_margin", "tail_surprise", "log_length")
#: prices are kept for hundredths of the cost setting
STEPS = 100
#: pulls weights of standardised signals towards zero, as a share of the number of prompts
RIDGE = 1e-3
#: signals further from their mean, in standard deviations, count as this far: a line ends where nothing was seen
FAR = 4.0
#: minimum prompts for a fit: a line has one more coefficient than there are signals
LEAST = 32
#: bisection steps for a price
_HALVINGS = 30


def signals(logits_tv: torch.Tensor, tokens: Sequence[int], length: int) -> list[float]:
    """Signals of one prompt, in nats and in the order of `SIGNALS`, from the logits after each token of its tail.

    Entropy and margin (between the two most likely tokens, in log-probability) after the whole prompt, and their
    means over the tail; the mean surprise (negative log-probability) of the tail's tokens after those before them; and
    the logarithm of the whole prompt's length.
    """
    log_tv = check_finite(logits_tv).to(work_dtype(logits_tv)).log_softmax(-1)
    entropy_t = torch.special.entr(log_tv.exp()).sum(-1)
    best_t2 = log_tv.topk(2, -1).values
    margin_t = best_t2[:, 0] - best_t2[:, 1]
    if len(tokens) > 1:
        next_t = torch.tensor(tokens[1:], device=log_tv.device)
        surprise = -log_tv[:-1].gather(-1, next_t[:, None]).mean()
    else:
        surprise = entropy_t[0]  # expected surprise, for prompts of one token
    last = (entropy_t[-1], margin_t[-1])
    return [float(x) for x in (*last, entropy_t.mean(), margin_t.mean(), surprise)] + [math.log(length)]


def check_cost(cost: Any, name: str = "cost") -> float:
    """The cost setting of `auto`; `name` is the field that an error names."""
    return number(name, cost, 0, 1, "a number from 0, always the smallest member, to 1, always the largest")


@dataclass(frozen=True)
class Calibration:
    """What `fit` found.

    Attributes:
        members: names, from the smallest to the largest.
        parameters: of each.
        means: of each signal, over the prompts of the calibration.
        spreads: their standard deviations; 1 where a signal was the same for all.
        climbs: from each member to the next: a constant, and a weight for each standardised signal.
        prices: at cost settings of 0, 1/100, …, 1; none greater than the one before it.
    """

    members: tuple[str, ...]
    parameters: tuple[int, ...]
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    climbs: tuple[tuple[float, ...], ...]
    prices: tuple[float, ...]

    @property
    def costs(self) -> np.ndarray:
        """Cost of each member, [m]: 0 of the smallest, 1 of the largest, by parameters between them."""
        return shares(self.parameters)

    def gains(self, signals_ns: np.ndarray) -> np.ndarray:
        """How much better than the smallest each member is expected to be, [n, m], in what quality was measured in."""
        return _gains(signals_ns, self.means, self.spreads, self.climbs)

    def choose(self, signals_ns: np.ndarray, cost: float) -> np.ndarray:
        """The position in `members` of who answers each prompt, [n].

        A `cost` of 0 is always the smallest, 1 always the largest, between them the mean cost over prompts like those
        of the calibration.
        """
        check_cost(cost)
        if cost in (0, 1):
            return np.full(len(signals_ns), int(cost) * (len(self.members) - 1))
        price = float(np.interp(cost, np.linspace(0, 1, STEPS + 1), self.prices))
        return worthiest(self.gains(signals_ns), self.costs, price)


def shares(parameters: Sequence[int]) -> np.ndarray:
    """Costs of members from the smallest to the largest, [m]: 0 to 1."""
    counts = np.asarray(parameters, dtype=float)
    return (counts - counts[0]) / (counts[-1] - counts[0])


def fit(
    signals_ns: np.ndarray, quality_nm: np.ndarray, members: Sequence[str], parameters: Sequence[int]
) -> Calibration:
    """Fit the expected gain of larger members to the signals, and find the price of each cost setting.

    `quality_nm`: quality of each member's answer, in any unit; more is better.
    """
    if len(members) < 2 or any(b <= a for a, b in pairwise(parameters)):
        raise ElasticError("calibrate: needs a family of at least two members, each larger than the one before it")
    if len(signals_ns) < LEAST:
        raise bad("samples", len(signals_ns), f"at least {LEAST} prompts")
    if not (np.isfinite(signals_ns).all() and np.isfinite(quality_nm).all()):
        raise ElasticError("calibrate: a member gives infinities or NaN; nemo-elastic verify finds damage")
    means, spreads = signals_ns.mean(0), signals_ns.std(0)
    spreads = np.where(spreads > 1e-9 * (1 + np.abs(means)), spreads, 1.0)
    z_ns = _standard(signals_ns, means, spreads)
    pull = RIDGE * len(z_ns) * np.diag([0.0] + [1.0] * (z_ns.shape[1] - 1))
    climbs = np.linalg.solve(z_ns.T @ z_ns + pull, z_ns.T @ np.diff(quality_nm, axis=1)).T
    gains_nm, costs = _gains(signals_ns, means, spreads, climbs), shares(parameters)
    prices = [price_of(gains_nm, costs, step / STEPS) for step in range(STEPS + 1)]
    return Calibration(
        tuple(members), tuple(parameters), tuple(means.tolist()), tuple(spreads.tolist()),
        tuple(tuple(climb) for climb in climbs.tolist()), tuple(np.minimum.accumulate(prices).tolist()),
    )  # fmt: skip


def _standard(signals_ns: np.ndarray, means: ArrayLike, spreads: ArrayLike) -> np.ndarray:
    """A one, for the constant, and the standardised signals, [n, 1 + s]."""
    z_ns = (np.asarray(signals_ns, dtype=float) - np.asarray(means)) / np.asarray(spreads)
    return np.concatenate([np.ones((len(z_ns), 1)), z_ns.clip(-FAR, FAR)], axis=1)


def _gains(signals_ns: np.ndarray, means: ArrayLike, spreads: ArrayLike, climbs: ArrayLike) -> np.ndarray:
    climbs_n = _standard(signals_ns, means, spreads) @ np.asarray(climbs).T
    return np.concatenate([np.zeros((len(climbs_n), 1)), climbs_n.cumsum(1)], axis=1)


def worthiest(gains_nm: np.ndarray, costs: np.ndarray, price: float) -> np.ndarray:
    """The member of the greatest worth; of equals the smaller."""
    return (gains_nm - price * costs).argmax(1)


def price_of(gains_nm: np.ndarray, costs: np.ndarray, cost: float) -> float:
    """The least price, to a rounding, at which the mean cost is no more than `cost`."""
    steepest = np.abs(np.diff(gains_nm, axis=1) / np.diff(costs)).max() + 1.0
    low, high = -steepest, steepest  # at which all are the largest, and the smallest
    if cost >= 1:
        return low
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if costs[worthiest(gains_nm, costs, middle)].mean() > cost:
            low = middle
        else:
            high = middle
    return high


VERSION = 1
#: no weight, mean or price of real signals is near it; sums of such numbers stay finite
MOST = 1e12
_Real = Annotated[float, Between(-MOST, MOST)]
_Climb = Annotated[tuple[_Real, ...], Length(len(SIGNALS) + 1, len(SIGNALS) + 1)]


@dataclass(frozen=True)
class _Member:
    name: Annotated[str, TEXT]
    parameters: Annotated[int, Between(1)]


@dataclass(frozen=True)
class _Signal:
    name: str
    mean: _Real
    spread: Annotated[float, Between(1e-12, MOST)]


@dataclass(frozen=True)
class _File:
    """`auto.json`."""

    version: int
    family: str
    members: Annotated[tuple[_Member, ...], Length(2)]
    signals: tuple[_Signal, ...]
    climbs: tuple[_Climb, ...]
    prices: Annotated[tuple[_Real, ...], Length(STEPS + 1, STEPS + 1)]


def write_calibration(
    folder: Path, calibration: Calibration, replace: bool = False, digest: str | None = None
) -> Path:
    """Write it into the folder of the family, whose `family_digest` was `digest` when it was measured."""
    signals = tuple(map(_Signal, SIGNALS, calibration.means, calibration.spreads))
    members = tuple(map(_Member, calibration.members, calibration.parameters))
    path = folder / FILE
    family = digest or family_digest(folder)
    file = _File(VERSION, family, members, signals, calibration.climbs, calibration.prices)
    atomic_write(path, json.dumps(asdict(file), indent=2) + "\n", replace)
    return path


def read_calibration(folder: Path, members: Mapping[str, int]) -> Calibration | None:
    """Read and check the calibration of a family with these members and parameters; None without one."""
    path = folder / FILE
    if not path.is_file():
        return None
    content = read_json(path)
    with inside(path):
        check_version(content, VERSION)
        file = read(_File, content, "")
        calibration = _calibration(file)
    ours = dict(zip(calibration.members, calibration.parameters, strict=True))
    if file.family != family_digest(folder) or ours != dict(members):
        raise ElasticError("was made for another family, or before the last training; calibrate again", path)
    return calibration


def _calibration(file: _File) -> Calibration:
    names, counts = [m.name for m in file.members], [m.parameters for m in file.members]
    if len(set(names)) != len(names):
        raise bad("members", names, "each name once")
    if sorted(set(counts)) != counts:
        raise bad("members.parameters", counts, "from the smallest to the largest")
    if [signal.name for signal in file.signals] != list(SIGNALS):
        raise bad("signals", [signal.name for signal in file.signals], f"{', '.join(SIGNALS)}, in this order")
    if len(file.climbs) != len(names) - 1:
        raise bad("climbs", f"{len(file.climbs)} of them", f"{len(names) - 1}, one from each member to the next")
    if sorted(file.prices, reverse=True) != list(file.prices):
        raise bad("prices", "a rising price", "prices that do not rise")
    means, spreads = tuple(s.mean for s in file.signals), tuple(s.spread for s in file.signals)
    return Calibration(tuple(names), tuple(counts), means, spreads, file.climbs, file.prices)
