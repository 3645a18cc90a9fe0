# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What members lose that are distilled on short text alone: short pieces, whole documents, or one after the other.

All families see equal tokens. Every run goes through NeMo, in this process, on one core.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.study.context_texts import KINDS, LENGTH, LEVELS, SHORT, WORDS, documents
from benchmarks.study.nemo_runs import Batch, NemoGround, Runs, block, dense, train_family, train_parent
from benchmarks.study.results import kept, markdown, spread
from nemo_elastic.core.family import Subnet
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.verdicts import wilson

AXES: dict[str, Any] = {
    "hidden": [128, 120, 112, 104, 96, 88, 80],
    "ffn": {"choices": [256, 224, 192, 160, 128], "stripes": 8},
    "mamba_heads": [8, 4],
    "mamba_head_dim": [32, 28, 24, 20, 16],
    "attention_heads": [8, 6, 4],
    "depth": [5, 4],
}
SIZES = {"72": 0.72, "50": 0.50}
#: documents of each split; `train` is the parent's, `train_long` the families'
DOCUMENTS = {"train": 6144, "train_long": 1024, "val": 256}
#: steps of the parent, which learns to look things up in short documents and then in long ones, and of both stages
PARENT_STEPS, STEPS = (1500, 1000), (200, 100)
PARENT_LR, LR = 2e-3, 5e-4
#: the same tokens per step at both lengths
NEAR, FAR = Batch(16, SHORT), Batch(2, LENGTH)
#: curriculum -> batches of its two stages
CURRICULA = {"short": (NEAR, NEAR), "two-stage": (NEAR, FAR), "long": (FAR, FAR)}
PARENT = "parent-context"
#: how a run's name begins -> what it is
WAYS = {PARENT: "the parent"} | {
    f"context-{name}": " then ".join(dict.fromkeys(f"{batch.length} tokens" for batch in batches))
    for name, batches in CURRICULA.items()
}


def write_documents(out: Path, counts: dict[str, int], length: int = LENGTH) -> Path:
    """A data folder, a token per word: no merge hides how far back it stands."""
    from nemo_elastic.demo.words import build_words

    if not out.is_dir():
        texts = {s: [" ".join(d.words) for d in islice(documents(s, length=length), n)] for s, n in counts.items()}
        build_words(out, WORDS, texts)
    return out


def held_out(data: Path) -> np.ndarray:
    """(documents, tokens of one): the held-out documents as they are trained on."""
    return np.asarray(DataFolder.open(data).tokens("val")).reshape(-1, LENGTH)


def answers(model: Any, data: Path, member: Subnet | None = None, batch: int = 8) -> dict[str, Any]:
    """What a model answers to the questions of held-out documents, and its loss near their start and behind it.

    Every token is predicted from the true ones before it; where all of an answer are the most probable, greedy
    decoding writes exactly this answer.

    Returns:
        {"right": {kind: {level: [right, asked]}}, "nats": {"first": of the first `SHORT` tokens of a document,
        "behind": of the others}}.
    """
    import torch
    import torch.nn.functional as F

    tokens = torch.as_tensor(held_out(data).astype("int64"))
    right: dict[str, dict[str, list[int]]] = {}
    first = behind = 0.0
    asked = documents("val")
    for rows in tokens.split(batch):
        with torch.no_grad():
            logits = model(rows[:, :-1], member)
        losses = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten(), reduction="none").view(len(rows), -1)
        first += float(losses[:, : SHORT - 1].double().sum())
        behind += float(losses[:, SHORT - 1 :].double().sum())
        hits = (logits.argmax(-1) == rows[:, 1:]).numpy()
        for hit, document in zip(hits, asked, strict=False):
            for q in document.questions:
                counts = right.setdefault(q.kind, {}).setdefault(str(q.level), [0, 0])
                counts[0] += int(hit[q.start - 1 : q.end - 1].all())
                counts[1] += 1
    split = len(tokens) * (SHORT - 1), len(tokens) * (tokens.shape[1] - SHORT)
    return {"right": right, "nats": {"first": first / split[0], "behind": behind / split[1]}}


def measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every run, made now where it has no result."""
    from benchmarks.study.model import ContextNemotronH
    from nemo_elastic.demo.quiet import quiet
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint

    quiet()
    runs, more = Runs(args.runs), LENGTH // SHORT
    short = write_documents(args.runs / "data_short", {s: more * n for s, n in DOCUMENTS.items()}, SHORT)
    near = NemoGround(ContextNemotronH, short)
    ground = NemoGround(ContextNemotronH, write_documents(args.runs / "data", DOCUMENTS), "train_long")
    steps, more_steps = args.parent_steps or PARENT_STEPS
    name = "parent-context-short"
    runs.run(name, steps, 0, lambda out: train_parent(near, out, steps, Batch(32, SHORT), PARENT_LR), keep=True)
    start = last_checkpoint(args.runs / name)

    def parent(out: Path) -> dict[str, Any]:
        result = train_parent(ground, out, more_steps, Batch(4, LENGTH), PARENT_LR, start)
        model = dense(last_checkpoint(out), ground.shape)
        return result | {"answers": {"full": answers(model, ground.data)}}

    runs.run(PARENT, more_steps, 0, parent, keep=True)
    ground = replace(ground, parent=last_checkpoint(args.runs / PARENT))
    for seed in args.seeds:
        for name, batches in CURRICULA.items():
            stages = [*zip(args.steps or STEPS, batches, strict=True)]
            runs.run(
                f"context-{name}-{seed}", stages[0][0], seed,
                lambda out, stages=stages, seed=seed: train_family(
                    ground, out, block(AXES, SIZES), stages, seed, LR, lambda model, m: answers(model, ground.data, m)
                ),
            )  # fmt: skip
    return runs.results


def answered(group: Sequence[dict[str, Any]], member: str, kinds: Sequence[str], levels: Sequence[int]) -> str:
    """Share of questions answered right over all runs, in percent, with its 95 % interval."""
    counts = [r["answers"][member]["right"][kind].get(str(level), (0, 0))
              for r in group for kind in kinds for level in levels]  # fmt: skip
    right, asked = (sum(column) for column in zip(*counts, strict=True))
    low, high = wilson(right, asked)
    return f"{100 * right / asked:.0f} ({100 * low:.0f}–{100 * high:.0f})"


def page(results: dict[str, dict[str, Any]]) -> str:
    """Answers to questions of held-out documents by their distance, curriculum and member; then by their kind."""
    by_distance, by_kind = [], []
    far = [level for level in LEVELS if level > SHORT]
    for start, title in WAYS.items():
        group = [r for name, r in results.items() if re.fullmatch(rf"{start}(-\d+)?", name)]  # of every seed
        cost = "" if start == PARENT else f"{statistics.mean(r['flops'] for r in group) / 1e12:.2f}"
        for member in group[0]["answers"] if group else ():
            nats = [spread([r["answers"][member]["nats"][part] for r in group]) for part in ("first", "behind")]
            by_distance.append([title, cost, member, *(answered(group, member, KINDS, [n]) for n in LEVELS), *nats])
            by_kind.append([title, member, *(answered(group, member, [kind], far) for kind in KINDS)])
    distances = [f"{low} to {high}, %" for low, high in pairwise((0, *LEVELS))]
    head = ["trained at", "TFLOP", "member", *distances, f"nats, first {SHORT}", "nats behind"]
    kinds = ["trained at", "member", *(f"{kind}, above {SHORT}, %" for kind in KINDS)]
    return markdown(head, by_distance) + "\n" + markdown(kinds, by_kind)


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, nargs=2, help="of both stages; 200 100")
    parser.add_argument("--parent-steps", type=int, nargs=2, help="in short documents and in long ones; 1500 1000")
    parser.add_argument("--kept", action="store_true", help="run nothing: the results that the documentation shows")


def study(args: argparse.Namespace) -> str:
    """The table."""
    return page(kept("context") if args.kept else measure(args))
