# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Does a task's own shape beat the other task's? Code against worked problems, inside one trained family.

python -m benchmarks.study.specialize --family runs/demo/family --data runs/demo/data > docs/tables/study_specialize.md

Nothing is trained. The demo's held-out split has both kinds of text, which no training has seen; each is halved,
shapes are searched on one half of each, and all losses are of the other halves. Half an hour of one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.study.results import markdown
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import path
from nemo_elastic.data.encoded import Encoded
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.evaluation import Halves, Specialized, halves_of, specialize
from nemo_elastic.runtime import FamilyRuntime, load_family
from nemo_elastic.verdicts import Interval

#: the path has a shape close below each
RATIOS = (0.85, 0.66, 0.5)
TASKS = ("code", "reasoning")
#: how a problem begins (`data.reasoning.Problem.prompt`); no file of the corpus does
PROBLEM = "question: "


@dataclass(frozen=True)
class Size:
    """What was found at one size.

    Attributes:
        ratio: share of the parent's parameters.
        path: the path's shape; found: of each task, what the search found.
        results: of each task, what `specialize` said.
        halves: of each task's text.
        losses: (shape, task) -> loss of each held-out sequence, in nats.
    """

    ratio: float
    path: Subnet
    results: Mapping[str, Specialized]
    halves: Mapping[str, Halves]
    losses: Mapping[tuple[Subnet, str], np.ndarray]

    def shapes(self) -> dict[str, Subnet]:
        """Whose shape -> the shape."""
        return {"path": self.path} | {task: self.results[task].candidate for task in TASKS}

    def gain(self, better: Subnet, worse: Subnet, task: str) -> Interval:
        """By how much one shape's loss is below another's on a task, document by document."""
        gain = self.halves[task].held_out.gain(self.losses[worse, task], self.losses[better, task])
        assert gain is not None, "a half of one document"
        return gain


def documents(data: DataFolder) -> dict[str, list[np.ndarray]]:
    """The held-out documents of each task."""
    tokenizer, out = data.tokenizer(), {task: [] for task in TASKS}
    for ids in data.documents("val"):
        begin = tokenizer.decode(ids[:16].tolist())
        out["reasoning" if begin.startswith(PROBLEM) else "code"].append(ids)
    return out


def measure(
    family: FamilyRuntime, manifest: Family, halves: Mapping[str, Halves], ratio: float, candidates: int, seed: int
) -> Size:
    """Search for each task at one size, and run all shapes on all held-out halves."""
    shapes, budget = path(manifest), Budget("task", ratio=ratio)
    at = shapes.fit(ratio * manifest.members[0].parameters)
    assert at is not None, "the smallest member is larger"
    start, results, began = shapes[at], {}, time.monotonic()
    for task in TASKS:
        results[task] = specialize(family, manifest, start, budget, halves[task], candidates, seed)
        result = results[task]
        print(f"{ratio} {task}: {result.gain}, after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    losses = {}
    for subnet in dict.fromkeys([start, *(results[task].candidate for task in TASKS)]):
        for task in TASKS:
            losses[subnet, task] = halves[task].held_out.losses(family.select(subnet))
            family.release()
    return Size(ratio, start, results, halves, losses)


def in_words(interval: Interval, is_one: bool) -> str:
    """A mean and its interval; of one shape there is no difference."""
    if is_one:
        return "the same shape"
    return f"{interval.mean:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def shape_rows(parent: Family, sizes: Iterable[Size]) -> list[list[str]]:
    """Losses of every shape on both tasks."""
    rows = []
    for size in sizes:
        for whose, subnet in size.shapes().items():
            losses = [size.halves[task].held_out.loss(size.losses[subnet, task]) for task in TASKS]
            gains = [in_words(size.gain(subnet, size.path, task), subnet == size.path) for task in TASKS]
            rows.append([
                f"{size.ratio:g}", whose, f"{parameters(parent.parent, subnet):,}", words(subnet),
                *(f"{loss:.4f}" for loss in losses), *(gains if whose != "path" else ["–", "–"]),
            ])  # fmt: skip
    return rows


def duel_rows(sizes: Iterable[Size]) -> list[list[str]]:
    """Of each task at each size: its own shape against the other task's and against the path's."""
    rows = []
    for size in sizes:
        for task, other in (TASKS, TASKS[::-1]):
            own, others = size.results[task].candidate, size.results[other].candidate
            against = size.gain(own, others, task)
            verdict = "neither" if against.holds_zero else "own" if against.above_zero else "the other's"
            result = size.results[task]
            rows.append([
                f"{size.ratio:g}", task, f"{result.searched[0] - result.searched[1]:.4f}",
                in_words(size.gain(own, size.path, task), own == size.path), in_words(against, own == others), verdict,
                "own" if result.wins else "path's",
            ])  # fmt: skip
    return rows


def words(subnet: Subnet) -> str:
    """A shape in a cell: residual width, layers, and the widths of each kind of layer."""
    kinds: dict[str, list[str]] = {}
    for layer in subnet.layers:
        kinds.setdefault(layer.type, []).append("x".join(map(str, layer.widths.values())))
    own = (f"{len(levels)} {kind} {', '.join(dict.fromkeys(levels))}" for kind, levels in kinds.items())
    return f"{subnet.hidden}; {'; '.join(own)}"


def page(manifest: Family, halves: Mapping[str, Halves], sizes: Sequence[Size], candidates: int) -> str:
    """Both tables, and what they are of."""
    read = "; ".join(
        f"{task}: {half.search.tokens:,} tokens searched on, {half.held_out.tokens:,} held out"
        f" in {half.held_out.documents} documents"
        for task, half in halves.items()
    )
    gains = [f"{task}, gain" for task in TASKS]
    head = ["size", "shape of", "parameters", "hidden; layers", *(f"{task}, loss" for task in TASKS), *gains]
    duels = ["size", "task", "gain where searched", "own over path", "own over the other's", "better", "taken"]
    return (
        f"Held-out losses, and gains over the path's shape with intervals of 95% over documents, in nats a token:\n\n"
        f"{markdown(head, shape_rows(manifest, sizes))}\nOwn shapes against the path's and the other task's:\n\n"
        f"{markdown(duels, duel_rows(sizes))}\n{candidates} shapes measured for each task and size; {read}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", type=Path, default=Path("runs/demo/family"))
    parser.add_argument("--data", type=Path, default=Path("runs/demo/data"))
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=16_384)
    parser.add_argument("--seq-length", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    manifest, family = Family.load(args.family), load_family(args.family)
    texts = {task: [Encoded(None, ids) for ids in of] for task, of in documents(DataFolder.open(args.data)).items()}
    halves = {task: halves_of(texts[task], args.seq_length, args.tokens, args.seed, task) for task in TASKS}
    sizes = [measure(family, manifest, halves, ratio, args.candidates, args.seed) for ratio in RATIOS]
    print(page(manifest, halves, sizes, args.candidates), end="")


if __name__ == "__main__":
    main()
