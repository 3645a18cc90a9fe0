# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Whether the backward passes that are written out for a CPU pay: the demo's step with them, and by autograd.

`nn.scan`, `nn.conv`, `nn.norm` and `nn.mamba` have backward passes of their own, a thousand lines. The same layers as
one writes them for autograd (`tests/support/plain_mamba.py`, `F.rms_norm`) take turns with them in whole training
steps of the demo's model, at the lengths of its two stages. They stay as long as a step without them takes more than
1.3 times as long, or twice the memory.

    python -m benchmarks.bench_backward [--rounds 7] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.bench_step import step
from benchmarks.output import arguments, deliver
from nemo_elastic.demo.settings import STAGE1, STAGE2
from nemo_elastic.nn import mixing, norm
from tests.support.models import build, distributed, start
from tests.support.peak import Peak
from tests.support.plain_mamba import plain_inside

#: how much slower a step has to be without them, or how much fuller
PAYS, SAVES = 1.3, 2.0


class _PlainNorm:
    """In place of `nn.norm`'s function."""

    @staticmethod
    def apply(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], weight, eps)


@contextmanager
def by_autograd() -> Iterator[None]:
    """No backward pass by hand in this block."""
    kept = mixing.mamba_inside, norm._RMSNorm
    mixing.mamba_inside, norm._RMSNorm = plain_inside, _PlainNorm  # pyright: ignore
    try:
        yield
    finally:
        mixing.mamba_inside, norm._RMSNorm = kept


def measure(shape: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Seconds and peak memory of a step both ways, and the ratios within a round."""
    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.hosts.nemo.tiny.model import TinyNemotronH

    parent = parent_of(TinyNemotronH(), TinyNemotronH().vocab_size)
    model = distributed(build(parent))
    g = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(parent.vocab, shape, generator=g) for _ in range(2))

    def once() -> float:
        return step(model, parent.full, tokens, labels)

    own, plain = [], []
    for _ in range(rounds + 1):
        own.append(once())
        with by_autograd():
            plain.append(once())
    with Peak() as by_hand:
        once()
    with by_autograd(), Peak() as plainly:
        once()
    return {
        "own": statistics.median(own[1:]),
        "plain": statistics.median(plain[1:]),
        "ratio": statistics.median(b / a for a, b in zip(own[1:], plain[1:], strict=True)),
        "memory": plainly.most / by_hand.most,
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| a step of the demo's model | by hand, s | by autograd, s | by autograd / by hand | memory, of by hand |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {r['own']:.3f} | {r['plain']:.3f} | {r['ratio']:.2f} | {r['memory']:.2f} |"
        for name, r in found.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    start()
    torch.set_num_threads(2)
    found = {f"{b} x {length} tokens": measure((b, length), args.rounds) for b, length in (STAGE1, STAGE2)}
    needless = [name for name, r in found.items() if r["ratio"] <= PAYS and r["memory"] <= SAVES]
    deliver(args, found, table(found), [f"{name}: {PAYS} x the time, or {SAVES} x the memory" for name in needless])


if __name__ == "__main__":
    main()
