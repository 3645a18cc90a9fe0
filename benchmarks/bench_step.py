# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Time of a training step at each member's size: sliced, masked, and the dense model of the same size.

All ways are timed in turn, in every round, so that a machine whose speed drifts slows them alike; medians of the
seconds, and of the ratios within a round, are printed: chance moves them less than ratios of the fastest. The bounds
beside a ratio hold its true median with a confidence of 90 %; a goal that the median exceeds is open where they hold
it, and missed where they do not. A step is forward and backward of a cross-entropy, gradients added to megatron-core's
buffer; the optimizer is the same for all and left out. "Dense" is the stock model of that size: the same layers
without elasticity. "Masked" runs at full size with gates of zeros and ones, as the public implementation does.
"Quantized" is a sliced step of `distill.quantize: nvfp4` with one micro-batch, for which all weights are rounded. Two
models: one of the demo's kind, and one with a large model's proportions.

    python -m benchmarks.bench_step [--rounds 5] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from scipy.stats import quantile_test

from benchmarks.output import arguments, deliver, markdown
from nemo_elastic.core.cost import flops_per_token, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.precision import NVFP4, default_rows
from nemo_elastic.megatron.rounding import Rounding
from nemo_elastic.nn.gates import Gates
from tests.support.models import build, distributed, start

PARENT = Parent("M-M-M*-M-M*-", 256, 1024, 1024, 32, 16, 4, 16, 4, 8, 2, 32, ffn_stripes=8)
TOKENS = (8, 256)
#: the proportions of Nano V2: 8 groups, head dim 64, FFN of 4 times the width
LARGE = Parent("M-M-M-M*-M-M-M*-", 768, 4096, 3072, 32, 64, 8, 64, 4, 12, 2, 64, ffn_stripes=8)
#: allowed: sliced / dense, sliced / full step above the share of parameters, full-width elastic / stock, quantized /
#: sliced
DENSE, ABOVE, STOCK, QUANTIZED = 1.05, 0.08, 1.03, 1.15


def members() -> dict[str, Subnet]:
    """Cuts of the small model on every axis, about 0.72 and 0.50 of the parameters."""
    keep = [i for i in range(12) if i not in (3, 5)]
    return {
        "1.00": PARENT.full,
        "0.72": PARENT.uniform(keep=keep, hidden=232, ffn=896),
        "0.50": PARENT.uniform(keep=keep, hidden=192, ffn=768, mamba_heads=28),
    }


def large_members() -> dict[str, Subnet]:
    """Cuts of the large one as those of the published 9B and 6B, with two layers fewer."""
    keep = [i for i in range(16) if i not in (3, 5)]
    return {
        "1.00": LARGE.full,
        "0.75": LARGE.uniform(keep=keep, hidden=704, ffn=2688),
        "0.50": LARGE.uniform(keep=keep, hidden=576, ffn=1728, mamba_heads=24),
    }


def dense(parent: Parent, member: Subnet) -> Any:
    """A model that has the member's size and knows nothing of widths."""
    widths = {axis: width for layer in member.layers for axis, width in layer.widths.items()}
    shape = replace(parent, pattern=member.pattern, hidden=member.hidden, **widths)
    return build(shape, elastic=False)


def step(
    model: Any, choice: Any, tokens: torch.Tensor, labels: torch.Tensor, rounding: Rounding | None = None
) -> float:
    """Seconds of one forward and backward; gradients are added up in `main_grad`."""
    if hasattr(model.module, "state"):
        model.module.state.choice, model.module.state.rounding = choice, rounding
    if rounding is not None:
        rounding.begin(rounding.step + 1)
    model.zero_grad_buffer()
    began = time.perf_counter()
    logits = model(tokens, None, None)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    return time.perf_counter() - began


class Ratio(NamedTuple):
    """A median over rounds, between bounds that hold the true one with a confidence of 90 %."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, each: list[float]) -> Ratio:
        return cls(statistics.median(each), *quantile_test(each, p=0.5).confidence_interval(0.9))

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.2f}-{self.high:.2f})"


def size_of(parent: Parent) -> str:
    """How large a model is, in words."""
    return f"{parameters(parent, parent.full) / 1e6:.0f}M parameters"


def measure(parent: Parent, cuts: dict[str, Subnet], shape: tuple[int, int], rounds: int) -> list[dict[str, Any]]:
    """One row per member with median seconds of each way, and medians of the ratios within a round."""
    elastic = distributed(build(parent))
    tokens, labels = (torch.randint(0, parent.vocab, shape) for _ in range(2))
    rounding = Rounding(NVFP4, default_rows(parent))
    ways: dict[tuple[str, str], tuple[Any, Any, Rounding | None]] = {}
    for name, member in cuts.items():
        ways[name, "sliced"] = (elastic, member, None)
        ways[name, "quantized"] = (elastic, member, rounding)
        ways[name, "dense"] = (distributed(dense(parent, member)), None, None)
        ways[name, "masked"] = (elastic, Gates.of(parent, member), None)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in ways}
    for model, choice, rounds_weights in ways.values():  # warms up
        step(model, choice, tokens[:1], labels[:1], rounds_weights)
    for r in range(rounds):
        turn = r % len(ways)  # nobody always comes first
        for key, (model, choice, rounds_weights) in [*ways.items()][turn:] + [*ways.items()][:turn]:
            times[key].append(step(model, choice, tokens, labels, rounds_weights))
        print(f"{size_of(parent)}, round {r + 1}", file=sys.stderr, flush=True)

    def ratio(above: tuple[str, str], below: tuple[str, str]) -> Ratio:
        return Ratio.of([a / b for a, b in zip(times[above], times[below], strict=True)])

    return [
        {
            "member": name,
            "parameters": parameters(parent, member) / parameters(parent, parent.full),
            "FLOPs": flops_per_token(parent, member, shape[1]) / flops_per_token(parent, parent.full, shape[1]),
            **{f"{way} s": statistics.median(times[name, way]) for way in ("sliced", "quantized", "masked", "dense")},
            "sliced / full step": ratio((name, "sliced"), ("1.00", "sliced")),
            "sliced / dense": ratio((name, "sliced"), (name, "dense")),
            "sliced / masked": ratio((name, "sliced"), (name, "masked")),
            "quantized / sliced": ratio((name, "quantized"), (name, "sliced")),
        }
        for name, member in cuts.items()
    ]


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """One line per goal."""

    def line(goal: str, ratios: list[tuple[str, Ratio, float]]) -> str:
        over = [
            f"{'missed' if most < value.low else 'open'} at {name}: {value} > {most:.3f}"
            for name, value, most in ratios
            if value.median > most
        ]
        return f"- {goal}: {', '.join(over) or 'met'}"

    whole, *cut = rows
    return [
        line(f"a full-width elastic step <= {STOCK} x stock", [("1.00", whole["sliced / dense"], STOCK)]),
        line(f"quantized <= {QUANTIZED} x sliced", [(r["member"], r["quantized / sliced"], QUANTIZED) for r in rows]),
        line(f"sliced <= {DENSE} x dense", [(r["member"], r["sliced / dense"], DENSE) for r in cut]),
        line(
            f"sliced <= (share of parameters + {ABOVE}) x full step",
            [(r["member"], r["sliced / full step"], r["parameters"] + ABOVE) for r in cut],
        ),
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, and the verdicts."""
    cells = [[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row.values()] for row in rows]
    return markdown([*rows[0]], cells) + "\n" + "\n".join(verdicts(rows)) + "\n"


def rounds(text: str) -> int:
    """A number of rounds that bounds can be had of."""
    if (number := int(text)) < 5:
        raise argparse.ArgumentTypeError(f"{number} is not allowed; at least 5, for bounds")
    return number


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=rounds, default=5, help="of the large model; the small one has twice as many")
    args = parser.parse_args()
    start()
    torch.set_num_threads(2)
    figures, page = {}, ""
    for parent, cuts, shape, times in ((PARENT, members(), TOKENS, 2), (LARGE, large_members(), (2, 512), 1)):
        millions = size_of(parent)
        figures[millions] = measure(parent, cuts, shape, times * args.rounds)
        page += f"{millions}, {shape[0]} x {shape[1]} tokens:\n\n{table(figures[millions])}\n"
    deliver(args, figures, page)


if __name__ == "__main__":
    main()
