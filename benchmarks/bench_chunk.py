# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""CPU time of the SSD scan, forward and backward, by the size of its chunks: what `kernels.chunk_for` was chosen by.

All chunk sizes take turns, round after round; a figure is the median over rounds of the ratio to the chunk that
`chunk_for` takes.

    python -m benchmarks.bench_chunk [--rounds 5] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import statistics
import time

import torch

from benchmarks.output import arguments, deliver
from nemo_elastic.kernels import chunk_for
from nemo_elastic.nn.ssd import ssd_chunked

CHUNKS = (8, 16, 32, 64, 128)
#: state, heads, head dim, groups: as in tiny models, and in those of Nemotron-H's proportions; one sequence of LENGTH
SHAPES = ((16, 16, 32, 4), (32, 16, 32, 4), (64, 16, 64, 4), (128, 16, 64, 2))
LENGTH = 2048


def step(tensors: list[torch.Tensor], chunk: int) -> float:
    """CPU seconds of one scan, forward and backward: other processes do not count."""
    began = time.process_time()
    out = ssd_chunked(*tensors, chunk_size=chunk)
    assert isinstance(out, torch.Tensor)
    torch.autograd.grad(out.sum(), tensors)
    return time.process_time() - began


def measure(shape: tuple[int, int, int, int], rounds: int) -> dict[int, float]:
    """Chunk size -> its time over that of `chunk_for`'s."""
    state, heads, dim, groups = shape
    g = torch.Generator().manual_seed(0)
    sizes = [
        (1, LENGTH, heads, dim),
        (1, LENGTH, heads),
        (heads,),
        (1, LENGTH, groups, state),
        (1, LENGTH, groups, state),
    ]
    tensors = [torch.randn(size, generator=g) for size in sizes]
    tensors[2] = -tensors[2].exp()
    for tensor in tensors:
        tensor.requires_grad_()
    times: dict[int, list[float]] = {chunk: [] for chunk in CHUNKS}
    for r in range(rounds + 1):
        for chunk in CHUNKS:
            seconds = step(tensors, chunk)
            if r:  # the first round warms up
                times[chunk].append(seconds)
    base = times[chunk_for(state)]
    return {c: statistics.median(a / b for a, b in zip(times[c], base, strict=True)) for c in CHUNKS}


def table(figures: dict[str, dict[int, float]]) -> str:
    """The ratios as Markdown."""
    lines = [
        f"| time of the scan, {LENGTH} positions | {' | '.join(f'chunks of {c}' for c in CHUNKS)} | chosen |",
        "|---|" + "---:|" * (len(CHUNKS) + 1),
    ]
    for (state, heads, dim, _), ratios in zip(SHAPES, figures.values(), strict=True):
        cells = [f"{ratios[c]:.2f}" for c in CHUNKS]
        lines.append(f"| state {state}, {heads} heads of {dim} | {' | '.join(cells)} | {chunk_for(state)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(2)
    figures = {str(shape): measure(shape, args.rounds) for shape in SHAPES}
    deliver(args, figures, table(figures))


if __name__ == "__main__":
    main()
