# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Does a family know by itself which member a prompt needs? Quality over cost: chosen, sampled at random, and fixed.

Prompts are split in halves by the seed, by documents where several are of one. A half is chosen for by a calibration
of the other half.

n: prompts, m: members from the smallest to the largest, s: signals; b: documents, l: length, v: vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_elastic.data.eval_data import EvalData
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.evaluation.known_answers import Measured, against_random, examples, measure, random_mix
from nemo_elastic.runtime.family_runtime import FamilyRuntime
from nemo_elastic.serving.calibration import SIGNALS, TAIL, price_of, shares, signals, worthiest

#: settings of the cost
COSTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
#: at which single signals are compared, and what perfect foresight would gain is reported
AT = 0.3
#: prompts of text and problems, tokens of a piece before and behind the place where it is cut
SAMPLES, PROMPT, ANSWER = 512, 96, 32
#: texts that ask questions
TEXTS = 128
Groups = np.ndarray


def answers(family: FamilyRuntime, data: Path, seed: int) -> dict[str, Any]:
    """Every question of held-out texts is a prompt: the text up to the answer, which is right or not."""
    from benchmarks.study.data import RECALL_LONG
    from benchmarks.study.facts import documents

    tokens_bl = torch.as_tensor(np.asarray(DataFolder.open(data).tokens("val"), dtype=np.int64))
    tokens_bl = tokens_bl.reshape(-1, RECALL_LONG)[:TEXTS]
    asked = [document.questions for document in islice(documents("val", RECALL_LONG), len(tokens_bl))]
    members = [family.select(name) for name in reversed(family.path)]
    signs, quality, groups = [], [], []
    for at in range(0, len(tokens_bl), 8):
        rows_bl = tokens_bl[at : at + 8]
        logits = [member(rows_bl) for member in members]
        for row, ids_l in enumerate(rows_bl.tolist()):
            for place, _ in asked[at + row]:
                tail = ids_l[max(0, place - TAIL) : place]
                signs.append(signals(logits[0][row, place - len(tail) : place], tail, place))
                said = [int(logits_blv[row, place - 1].argmax()) for logits_blv in logits]
                quality.append([float(token == ids_l[place]) for token in said])
                groups.append(at + row)
    names, counts = tuple(str(m.name) for m in members), tuple(m.parameters for m in members)
    return judged(Measured(names, counts, np.array(signs), np.array(quality)), np.array(groups), seed)


def text(family: FamilyRuntime, data: DataFolder, seed: int) -> dict[str, Any]:
    """Pieces of held-out text and worked problems. Quality is the log-probability of what follows, per token."""
    given = examples(EvalData.of(data), SAMPLES, PROMPT, ANSWER, seed)
    return judged(measure(family, given), np.arange(len(given)), seed)


def judged(measured: Measured, groups: Groups, seed: int) -> dict[str, Any]:
    """Every way at every cost setting.

    Args:
        measured: prompts, with the quality of every member.
        groups: prompts of one document.
        seed: of the halves.
    """
    halves = halved(groups, seed)
    costs, largest = shares(measured.parameters), measured.parameters[-1]

    def figures_of(chosen: np.ndarray) -> dict[str, float]:
        """A choice: its size per token of an answer, and of a prompt, which the smallest member reads first."""
        sizes = np.array(measured.parameters) / largest
        read = sizes[0] + np.where(chosen > 0, sizes[chosen], 0.0).mean()
        mixed = random_mix(sizes, measured.quality_nm.mean(0), min(float(read), 1.0)) @ measured.quality_nm.mean(0)
        gain = against_random(chosen, costs, measured.quality_nm, groups)
        return vars(gain) | {"size": float(sizes[chosen].mean()), "read": float(read), "random_read": float(mixed)}

    gains_nm = measured.quality_nm - measured.quality_nm[:, :1]
    perfect = worthiest(gains_nm, costs, price_of(gains_nm, costs, AT))
    return {
        "members": list(measured.members),
        "sizes": [count / largest for count in measured.parameters],
        "quality": measured.quality_nm.mean(0).tolist(),
        "prompts": len(groups),
        "auto": {f"{cost:g}": figures_of(crossed(measured, halves, cost)) for cost in COSTS},
        "single": {name: figures_of(crossed(measured, halves, AT, [i])) for i, name in enumerate(SIGNALS)},
        "perfect": figures_of(perfect),
        "explained": explained(measured, halves),
    }


def halved(groups: Groups, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the prompts of either half; no group is in both."""
    known = np.unique(groups)
    first = np.isin(groups, np.random.default_rng(seed).permutation(known)[: len(known) // 2])
    return np.flatnonzero(first), np.flatnonzero(~first)


def crossed(
    measured: Measured, halves: tuple[np.ndarray, np.ndarray], cost: float, columns: list[int] | None = None
) -> np.ndarray:
    """The member of each prompt, by the calibration of the other half; of some signals alone, all by default."""
    taken = measured if columns is None else vary(measured, lambda signals_ns: signals_ns[:, columns])
    chosen = np.zeros(len(measured.signals_ns), dtype=int)
    for fitted, asked in (halves, halves[::-1]):
        chosen[asked] = taken.calibrate(fitted).choose(taken.signals_ns[asked], cost)
    return chosen


def vary(measured: Measured, change: Callable[[np.ndarray], np.ndarray]) -> Measured:
    """The same with other signals."""
    return Measured(measured.members, measured.parameters, change(measured.signals_ns), measured.quality_nm)


def explained(measured: Measured, halves: tuple[np.ndarray, np.ndarray]) -> float:
    """Share of the variance of the largest member's gain over the smallest that signals tell of unseen prompts."""
    gain_n = measured.quality_nm[:, -1] - measured.quality_nm[:, 0]
    forecast_n = np.zeros(len(gain_n))
    for fitted, asked in (halves, halves[::-1]):
        forecast_n[asked] = measured.calibrate(fitted).gains(measured.signals_ns[asked])[:, -1]
    return float(1 - ((gain_n - forecast_n) ** 2).mean() / gain_n.var())
