# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Time of a training step at each member's size: sliced, masked, and the dense model of the same size.

All ways are timed in turn, round after round, so that a machine whose speed drifts slows them alike; medians of the
seconds, and of the ratios within a round, are printed: chance moves them less than ratios of the fastest. The bounds
beside a ratio hold its true median with a confidence of 90 %; a goal that the median exceeds is open where they hold
it, and missed where they do not. A step is
forward and backward of a cross-entropy, gradients added to megatron-core's buffer; the optimizer is the same for all
and left out. "Dense" is the stock model of that size: the same layers without elasticity. "Masked" runs at full size
with gates of zeros and ones, as the public implementation does. Two models: one of the demo's kind, and one with a
large model's proportions.

A profile says where the time goes: matrix products, copies of rows and columns, all else. What is not a matrix product
costs by its own measure: the inside of the Mamba layers (convolution, scan, gated norm) costs by heads, not by
parameters; it is timed alone, in the same rounds.

    python -m benchmarks.bench_step [--rounds 5] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from scipy.stats import quantile_test

from benchmarks.models import build, distributed, start
from benchmarks.output import arguments, deliver
from nemo_elastic.cost import flops_per_token, parameters
from nemo_elastic.family import Parent, Subnet
from nemo_elastic.nn.gates import Gates
from nemo_elastic.nn.mamba import mamba_inside

PARENT = Parent("M-M-M*-M-M*-", 256, 1024, 1024, 32, 16, 4, 16, 4, 8, 2, 32, ffn_stripes=8)
TOKENS = (8, 256)
#: the proportions of Nano V2: 8 groups, head dim 64, FFN of 4 times the width
LARGE = Parent("M-M-M-M*-M-M-M*-", 768, 4096, 3072, 32, 64, 8, 64, 4, 12, 2, 64, ffn_stripes=8)
#: allowed: sliced / dense, sliced / full step above the share of parameters, full-width elastic / stock
DENSE, ABOVE, STOCK = 1.05, 0.08, 1.03
#: masked steps, the inside of Mamba and profiles are seen every so many rounds
SELDOM = 5
#: operations of torch by what they do; whatever is in none is "all else"
KINDS = {
    "products": {"mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_"},
    "copies": {"copy_", "index_select", "index_add_", "cat", "add_"},
}


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
    first = {layer.type: layer for layer in member.layers}
    shape = replace(
        parent,
        pattern=member.pattern,
        hidden=member.hidden,
        ffn=first["mlp"].ffn or 0,
        mamba_heads=first["mamba"].heads or 0,
        mamba_head_dim=first["mamba"].head_dim or 0,
        attention_heads=first["attention"].heads or 0,
    )
    return build(shape, elastic=False)


def step(model: Any, choice: Any, tokens: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds of one forward and backward; gradients are added up in `main_grad`."""
    if hasattr(model.module, "state"):
        model.module.state.choice = choice
    model.zero_grad_buffer()
    began = time.perf_counter()
    logits = model(tokens, None, None)
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()).backward()
    return time.perf_counter() - began


def profile(model: Any, choice: Any, tokens: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Seconds of a step by kind, and how many operations of torch it calls, which no machine changes."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        whole = step(model, choice, tokens, labels)
    events = [(e.key.removeprefix("aten::"), e) for e in seen.key_averages() if e.key.startswith("aten::")]
    found = {
        kind: sum(e.self_cpu_time_total for name, e in events if name in names) / 1e6 for kind, names in KINDS.items()
    }
    return found | {"all else": whole - sum(found.values()), "operations": sum(e.count for _, e in events)}


def inside(parent: Parent, member: Subnet, shape: tuple[int, int]) -> float:
    """Seconds that the insides of a member's Mamba layers take, forward and backward."""
    layers = [layer for layer in member.layers if layer.type == "mamba"]
    heads, dim = layers[0].heads or 0, layers[0].head_dim or 0
    inner, maps = heads * dim, parent.mamba_groups * parent.state
    channels = inner + 2 * maps
    sizes = [(*shape, inner + channels + heads), (channels, parent.conv_kernel), (channels,), (heads,), (heads,),
             (heads,), (inner,)]  # fmt: skip
    tensors = [torch.randn(size).requires_grad_() for size in sizes]
    tensors[3] = -torch.ones(heads, requires_grad=True)
    began = time.perf_counter()
    for _ in layers:
        out = mamba_inside(*tensors, groups=parent.mamba_groups, state=parent.state, eps=1e-5)
        torch.autograd.grad(out, tensors, out.detach())
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


def measure(parent: Parent, cuts: dict[str, Subnet], shape: tuple[int, int], rounds: int) -> list[dict[str, Any]]:
    """One row per member with median seconds of each way, and medians of the ratios within a round."""
    elastic = distributed(build(parent))
    tokens, labels = (torch.randint(0, parent.vocab, shape) for _ in range(2))
    ways: dict[tuple[str, str], tuple[Any, Any]] = {}
    for name, member in cuts.items():
        ways[name, "sliced"] = (elastic, member)
        ways[name, "dense"] = (distributed(dense(parent, member)), None)
        ways[name, "masked"] = (elastic, Gates.of(parent, member))
    times: dict[tuple[str, str], dict[int, float]] = {k: {} for k in ways}
    alone: dict[str, list[float]] = {name: [] for name in cuts}
    profiles: dict[tuple[str, str], list[dict[str, float]]] = {k: [] for k in ways if k[1] != "masked"}
    for model, choice in ways.values():  # warms up
        step(model, choice, tokens[:1], labels[:1])
    for r in range(rounds):
        seldom = r % SELDOM == 1
        turn = r % len(ways)  # nobody always comes first
        for key, (model, choice) in [*ways.items()][turn:] + [*ways.items()][:turn]:
            if seldom or key[1] != "masked":
                times[key][r] = step(model, choice, tokens, labels)
        if seldom:
            for name, member in cuts.items():
                alone[name].append(inside(parent, member, shape))
            for key in profiles:
                profiles[key].append(profile(*ways[key], tokens, labels))

    def ratios(above: tuple[str, str], below: tuple[str, str]) -> list[float]:
        return [times[above][r] / seconds for r, seconds in times[below].items()]

    return [
        {
            "member": name,
            "parameters": parameters(parent, member) / parameters(parent, parent.full),
            "FLOPs": flops_per_token(parent, member, shape[1]) / flops_per_token(parent, parent.full, shape[1]),
            **{f"{way} s": statistics.median(times[name, way].values()) for way in ("sliced", "masked", "dense")},
            "sliced / full step": Ratio.of(ratios((name, "sliced"), ("1.00", "sliced"))),
            "sliced / dense": Ratio.of(ratios((name, "sliced"), (name, "dense"))),
            "sliced / masked": statistics.median(ratios((name, "sliced"), (name, "masked"))),
            "inside of Mamba s": statistics.median(alone[name]),
            "profile": {
                way: {k: statistics.median(p[k] for p in profiles[name, way]) for k in profiles[name, way][0]}
                for way in ("sliced", "dense")
            },
        }
        for name, member in cuts.items()
    ]


def verdicts(rows: list[dict[str, Any]]) -> list[str]:
    """One line per goal."""

    def line(goal: str, found: list[tuple[str, Ratio, float]]) -> str:
        over = [
            f"{'missed' if most < value.low else 'open'} at {name}: {value} > {most:.3f}"
            for name, value, most in found
            if value.median > most
        ]
        return f"- {goal}: {', '.join(over) or 'met'}"

    whole, *cut = rows
    scan = whole["inside of Mamba s"]
    shares = ", ".join(f"{r['inside of Mamba s'] / scan:.2f} of that at {r['member']}" for r in cut)
    rest = ", ".join(
        f"{(r['sliced s'] - r['inside of Mamba s']) / (whole['sliced s'] - scan):.2f} at {r['member']}" for r in cut
    )
    return [
        line(f"a full-width elastic step <= {STOCK} x stock", [("1.00", whole["sliced / dense"], STOCK)]),
        line(f"sliced <= {DENSE} x dense", [(r["member"], r["sliced / dense"], DENSE) for r in cut]),
        line(
            f"sliced <= (share of parameters + {ABOVE}) x full step",
            [(r["member"], r["sliced / full step"], r["parameters"] + ABOVE) for r in cut],
        ),
        f"- the inside of Mamba takes {scan / whole['sliced s']:.2f} of the full step, and {shares}; "
        f"all the rest, over the full step's: {rest}",
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, the verdicts, and the profiles."""
    names = [name for name in rows[0] if name != "profile"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        cells = [f"{row[n]:.3f}" if isinstance(row[n], float) else str(row[n]) for n in names]
        lines.append("| " + " | ".join(cells) + " |")
    kinds = [*KINDS, "all else"]
    heads = " | ".join(f"{kind} s | in dense" for kind in kinds)
    lines += [
        "",
        *verdicts(rows),
        "",
        f"| profile | {heads} | operations / dense |",
        "|---|" + "---|" * (2 * len(kinds) + 1),
    ]
    for row in rows:
        sliced, dense = row["profile"]["sliced"], row["profile"]["dense"]
        cells = [f"{p[kind]:.3f}" for kind in kinds for p in (sliced, dense)]
        more = sliced["operations"] / dense["operations"]
        lines.append(f"| {row['member']} | {' | '.join(cells)} | {more:.3f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of the large model; the small one has twice as many")
    args = parser.parse_args()
    if args.rounds < 5:
        parser.error(f"--rounds: {args.rounds} is not allowed; at least 5, for bounds")
    start()
    torch.set_num_threads(2)
    found, page = {}, ""
    for parent, cuts, shape, times in ((PARENT, members(), TOKENS, 2), (LARGE, large_members(), (2, 512), 1)):
        millions = f"{parameters(parent, parent.full) / 1e6:.0f}M parameters"
        found[millions] = measure(parent, cuts, shape, times * args.rounds)
        page += f"{millions}, {shape[0]} x {shape[1]} tokens:\n\n{table(found[millions])}\n"
    deliver(args, found, page)


if __name__ == "__main__":
    main()
