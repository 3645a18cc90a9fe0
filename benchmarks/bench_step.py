# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Time of a training step at each member's size: sliced, masked, and the dense model of the same size.

The three are timed in turn, round after round, so that a machine whose speed drifts slows all of them alike; medians
are printed. A step is forward and backward of a cross-entropy on 2048 tokens; the optimizer is the same for all.

    python -m benchmarks.bench_step [--rounds 7] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import build, start
from nemo_elastic.cost import parameters
from nemo_elastic.family import Parent, Subnet
from nemo_elastic.nn.gates import Gates

PARENT = Parent("M-M-M*-M-M*-", 256, 1024, 1024, 32, 16, 4, 16, 4, 8, 2, 32, ffn_stripes=8)
TOKENS = (8, 256)


def members() -> dict[str, Subnet]:
    """Cuts on every axis, about 0.72 and 0.50 of the parameters."""
    keep = [i for i in range(12) if i not in (3, 5)]
    return {
        "1.00": PARENT.full,
        "0.72": PARENT.uniform(keep=keep, hidden=232, ffn=896),
        "0.50": PARENT.uniform(keep=keep, hidden=192, ffn=768, mamba_heads=28),
    }


def dense(member: Subnet) -> Any:
    """A model that has the member's size and knows nothing of widths."""
    first = {layer.type: layer for layer in member.layers}
    shape = replace(
        PARENT,
        pattern=member.pattern,
        hidden=member.hidden,
        ffn=first["mlp"].ffn or 0,
        mamba_heads=first["mamba"].heads or 0,
        mamba_head_dim=first["mamba"].head_dim or 0,
        attention_heads=first["attention"].heads or 0,
    )
    return build(shape, elastic=False)


def step(model: Any, choice: Any, tokens: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds of one forward and backward."""
    if hasattr(model, "state"):
        model.state.choice = choice
    model.zero_grad(set_to_none=True)
    began = time.perf_counter()
    logits = model(tokens, None, None)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    return time.perf_counter() - began


def measure(rounds: int) -> list[dict[str, float | str]]:
    """One row per member with median seconds of each way, and ratios."""
    start()
    torch.set_num_threads(2)
    elastic = build(PARENT)
    tokens, labels = torch.randint(0, PARENT.vocab, TOKENS), torch.randint(0, PARENT.vocab, TOKENS)
    rows: list[dict[str, float | str]] = []
    ways: dict[tuple[str, str], tuple[Any, Any]] = {}
    for name, member in members().items():
        ways[name, "sliced"] = (elastic, member)
        ways[name, "masked"] = (elastic, Gates.of(PARENT, member))
        ways[name, "dense"] = (dense(member), None)
    times: dict[tuple[str, str], list[float]] = {k: [] for k in ways}
    for r in range(rounds + 1):
        for key, (model, choice) in ways.items():
            seconds = step(model, choice, tokens, labels)
            if r:  # the first round warms up
                times[key].append(seconds)
    median = {k: statistics.median(v) for k, v in times.items()}
    for name, member in members().items():
        sliced, masked, alone = (median[name, w] for w in ("sliced", "masked", "dense"))
        rows.append(
            {
                "member": name,
                "parameters": parameters(PARENT, member) / parameters(PARENT, PARENT.full),
                "sliced_s": sliced,
                "masked_s": masked,
                "dense_s": alone,
                "sliced/full": sliced / median["1.00", "sliced"],
                "sliced/dense": sliced / alone,
                "sliced/masked": sliced / masked,
            }
        )
    return rows


def table(rows: list[dict[str, float | str]]) -> str:
    """The rows as a Markdown table."""
    head = [
        "member",
        "parameters",
        "sliced s",
        "masked s",
        "dense s",
        "sliced / full step",
        "sliced / dense",
        "sliced / masked",
    ]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["member"], *(f"{v:.3f}" for k, v in row.items() if k != "member")]
        lines.append("| " + " | ".join(str(c) for c in cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    rows = measure(args.rounds)
    print(table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text(table(rows))


if __name__ == "__main__":
    main()
