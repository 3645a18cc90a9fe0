# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Self-speculation at a size where weights dominate, with the acceptance of a trained family.

    python -m benchmarks.bench_speculation [--family FAMILY --data DATA] [--dtype bfloat16] [--json FILE]

Two figures make the gain, and no model that trains on two cores shows both. So they are taken apart:

- acceptance: a trained family (`make demo` makes one) decodes held-out text with each smaller member as the draft of
  the largest.
- time: a random family of over 300M parameters, whose largest member decodes plainly and with a draft, in turn. Its
  members know nothing, so every draft token is accepted by a coin that falls as often as tokens were accepted. All
  else is what `generate` runs.

Ends with exit code 1 if the draft of half the parameters, which is what SHARE was seen of, makes decoding less than
1.2 times as fast, and with 2 where there is no trained family.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.output import arguments, deliver
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.nn.generate import Decoding
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime, load_family
from nemo_elastic.runtime.speculation import Speculation, speed_up
from nemo_elastic.runtime.token_sampling import MostLikely, agreed

#: draft tokens at once; None for as many as pay, which is what users get
LENGTHS: tuple[int | None, ...] = (2, 3, None)
PROMPT, NEW, ROUNDS, GOAL = 64, 48, 7, 1.2
#: where `make demo` writes
DEMO = Path("runs") / "demo"
#: of the demo's family: draft tokens of a member with half of the parameters that stay where all before them did
SHARE = 0.92
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def shape() -> Parent:
    """The proportions of Nemotron Nano 12B v2 at two fifths of its width and few layers; 312M parameters."""
    return Parent(
        "M-M*-M-M-", hidden=2048, vocab=12288, ffn=8192, mamba_heads=64, mamba_head_dim=64, mamba_groups=8, state=128,
        attention_heads=16, kv_heads=4, attention_head_dim=128, ffn_stripes=8,
    )  # fmt: skip


def members(parent: Parent) -> dict[str, Subnet]:
    """The whole model, about a half and about a quarter of it."""
    half = {"hidden": 1536, "ffn": 5120, "mamba_heads": 48, "mamba_head_dim": 56, "attention_heads": 12}
    quarter = {"hidden": 1024, "ffn": 4096, "mamba_heads": 40, "mamba_head_dim": 48, "attention_heads": 8}
    shapes = {"large": parent.full, "half": parent.uniform(range(8), **half)}
    return shapes | {"quarter": parent.uniform(range(6), **quarter)}


class Coin(MostLikely):
    """Accepts every draft token with the same share, whatever it is.

    Args:
        share: of draft tokens that are accepted where all before them were.
        seed: fixes which.
    """

    def __init__(self, share: float, seed: int) -> None:
        self._share, self._random = share, random.Random(seed)

    def settle(self, logits_lv: torch.Tensor, drafted: Sequence[int], prompt: int) -> list[int]:
        said = logits_lv.argmax(-1).tolist()  # as long as it takes without a coin
        coins = [self._random.random() for _ in drafted]
        kept = [d if coin < self._share else d ^ 1 for d, coin in zip(drafted, coins, strict=True)]
        return agreed([*kept, said[-1]], drafted)


def accept(folder: Path, data: Path) -> dict[str, Any]:
    """What the largest member of a trained family accepts of each smaller one, greedily and sampled."""
    family, tokens = load_family(folder), DataFolder.open(data).tokens("val")
    large, prompts, new = family.select(family.path[0]), 24, 96
    starts = [int(i * (len(tokens) - new) / prompts) for i in range(prompts)]
    texts = [tokens[start : start + new].astype(int).tolist() for start in starts]
    figures: dict[str, Any] = {}
    for how in ({}, {"temperature": 1.0}):
        plain = large.generate(texts, new, (), **how)
        for name in family.path[1:]:
            for k in LENGTHS:
                stream = large.generate(texts, new, (), draft=name, k=k, stream=True, **how)
                out: list[list[int]] = [[] for _ in texts]
                for i, token in stream:
                    out[i].append(token)
                row = figures.setdefault(name, {"cost": family.select(name).parameters / large.parameters})
                row["sampled" if how else "greedy", k] = stream.acceptance
                if not how:
                    row["equal"] = row.get("equal", True) and out == plain
    return figures


def seconds(decoding: Decoding | Speculation) -> float:
    """Seconds per token behind the first, which comes with the prompt's reading."""
    steps = iter(decoding)
    next(steps)
    began = time.perf_counter()
    count = sum(map(len, steps))
    return (time.perf_counter() - began) / count


def measure(dtype: torch.dtype, share: float, rounds: int) -> dict[str, Any]:
    """Plain decoding and speculation in turn, with each draft and number of draft tokens."""
    parent = shape()
    shapes = members(parent)
    family = FamilyRuntime(NemotronH.random(parent, dtype=dtype), shapes)
    large = family.select("large").weights
    prompt = torch.randint(parent.vocab, (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
    ways = [(name, k) for name in list(shapes)[1:] for k in LENGTHS]
    taken: list[dict[Any, float]] = []
    accepted: dict[Any, list[int]] = {way: [0, 0] for way in ways}
    for number in range(rounds + 1):
        row: dict[Any, float] = {"plain": seconds(Decoding(large, [prompt], [NEW]))}
        for n, (name, k) in enumerate(ways):
            draft = family.select(name).weights
            run = Speculation(large, draft, [prompt], [NEW], (), Coin(share, number * len(ways) + n), k)
            row[name, k] = seconds(run)
            accepted[name, k][0] += run.accepted[0]
            accepted[name, k][1] += run.drafted[0]
        taken.append(row)
    taken = taken[1:]  # the first round cuts the layers
    count = {name: parameters(parent, member) for name, member in shapes.items()}
    figures: dict[str, Any] = {
        "parameters": count,
        "share": share,
        "plain": statistics.median(1 / row["plain"] for row in taken),
    }
    figures["ways"] = [
        {
            "draft": name,
            "k": k,
            "cost": count[name] / count["large"],
            "accepted": accepted[name, k][0] / accepted[name, k][1],
            "tokens_per_second": statistics.median(1 / row[name, k] for row in taken),
            "ratio": statistics.median(row["plain"] / row[name, k] for row in taken),
            "formula": speed_up(share, k, count[name] / count["large"]) if k else None,
        }
        for name, k in ways
    ]
    return figures


def named(k: int | None) -> str:
    """A number of draft tokens in words."""
    return "k by itself" if k is None else f"k = {k}"


def table(figures: dict[str, Any], trained: dict[str, Any], dtype: str) -> str:
    """The measurements as Markdown."""
    heads = [f"{way}, {named(k)}" for way in ("accepted", "sampled") for k in LENGTHS]
    lines = [
        f"| draft | parameters / largest | {' | '.join(heads)} | greedy tokens equal |",
        "|" + "---|" * (3 + 2 * len(LENGTHS)),
    ]
    for name, row in trained.items():
        cells = [f"{row[way, k]:.2f}" for way in ("greedy", "sampled") for k in LENGTHS]
        lines.append(f"| {name} | {row['cost']:.2f} | {' | '.join(cells)} | {'yes' if row['equal'] else 'no'} |")
    lines.append("")
    size = f"{figures['parameters']['large'] / 1e6:.0f}M, {dtype}"
    lines += [
        f"| {size} | parameters / largest | accepted, by coin | tokens/s | of plain decoding | by the formula |",
        "|" + "---|" * 6,
        f"| plain | | | {figures['plain']:.1f} | 1.00 | |",
    ]
    lines += [
        f"| {w['draft']}, {named(w['k'])} | {w['cost']:.2f} | {w['accepted']:.2f} | {w['tokens_per_second']:.1f} "
        f"| {w['ratio']:.2f} | {'' if w['k'] is None else format(w['formula'], '.2f')} |"
        for w in figures["ways"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--family", type=Path, default=DEMO / "family", help="trained; its acceptance is measured")
    parser.add_argument("--data", type=Path, default=DEMO / "data", help="of its tokenizer; held-out text is read")
    parser.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    parser.add_argument("--share", type=float, default=SHARE, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    if not args.family.is_dir():
        parser.error(f"--family: {args.family} is not there; make demo trains it")
    trained = accept(args.family, args.data)
    figures = measure(DTYPES[args.dtype], args.share, args.rounds)
    best = max(way["ratio"] for way in figures["ways"] if way["draft"] == "half")
    shown = {
        name: {" ".join(map(str, key)) if isinstance(key, tuple) else key: value for key, value in row.items()}
        for name, row in trained.items()
    }
    missed = [] if best >= GOAL else [f"{GOAL} x plain decoding with half of the parameters as draft: {best:.2f}"]
    deliver(args, figures | {"trained": shown}, table(figures, trained, args.dtype), missed)


if __name__ == "__main__":
    main()
