# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of a training step by its length: stock, distilled, with recomputation, and as this package does it.

    python -m benchmarks.bench_memory [--json FILE] [--markdown FILE]

One sequence of 4k, 8k and 16k tokens, forward and backward, in a new process for each point. What counts is the peak
of the resident memory above what the process has with models and gradients in place. Stock is the same layers without
elasticity. NeMo's Mamba models have no recomputation: "with recomputation" lends them ours, a layer keeps its input
alone, so that what is left between it and "elastic, both" is the loss. The slope is that of the line through the outer
points; the last column has the distance of the middle point from that line. Loss by chunks alone ends at 8k. Ends with
exit code 1 if a target is missed. Linux only: it reads /proc.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.output import arguments, deliver, markdown
from benchmarks.output import resident as in_memory
from nemo_elastic.config.sections import DistillConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.plan import preset
from tests.support.models import build, start

LENGTHS = (4096, 8192, 16384)
MIB = 2**20
SHARE, OFF = 0.5, 0.05  # targets: at most, of the slope of llm.distill with recomputation; off the line

PARENT = replace(preset("nemotron-h-tiny"), vocab=1024, ffn_stripes=8)


@dataclass(frozen=True)
class Way:
    """How a step is made: with elastic layers, with a frozen teacher, with recomputation, with the loss by chunks."""

    elastic: bool = True
    teacher: bool = True
    recompute: bool = False
    chunks: bool = False

    @property
    def lengths(self) -> tuple[int, ...]:
        """Those that are measured."""
        return LENGTHS[:-1] if self.chunks and not self.recompute else LENGTHS


DISTILL, FAIR, OURS = "stock, `llm.distill`", "stock, `llm.distill` with recomputation", "elastic, both"
WAYS = {
    "stock, `llm.pretrain`": Way(elastic=False, teacher=False),
    DISTILL: Way(elastic=False),
    FAIR: Way(elastic=False, recompute=True),
    "elastic, loss by chunks": Way(chunks=True),
    OURS: Way(recompute=True, chunks=True),
}


def models(way: Way) -> tuple[Any, Any]:
    """Student in training mode with gradients in place, and teacher or None."""
    more: dict[str, Any] = {}
    if way.recompute:
        more = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    student = build(PARENT, elastic=way.elastic, **more).train()
    for p in student.parameters():
        p.grad = torch.zeros_like(p).fill_(0.0)  # touched: it is there before
    teacher = build(PARENT, elastic=False, seed=1).eval().requires_grad_(False) if way.teacher else None
    return student, teacher


def modelopt_loss(student_sbv: torch.Tensor, teacher_sbv: torch.Tensor) -> torch.Tensor:
    """ModelOpt's LogitsKLLoss for Megatron, which NeMo's `llm.distill` runs, summed over tokens."""
    from modelopt.torch.distill.plugins.megatron import LogitsKLLoss

    config: Any = SimpleNamespace(tensor_model_parallel_size=1)
    losses_bs, *_ = LogitsKLLoss(config)(student_sbv, teacher_sbv)
    return losses_bs.sum()


def loss_of(way: Way, student: Any, teacher: Any, tokens_bs: torch.Tensor, labels_bs: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of the loss that each way trains with."""
    from nemo_elastic.megatron.vocabulary import distill_loss, hidden_states

    if teacher is None:
        return student(tokens_bs, None, None, labels=labels_bs).sum()
    with torch.no_grad():
        taught_sbd = hidden_states(teacher, tokens_bs)
        taught_sbv = torch.empty(0) if way.chunks else teacher.output_layer(taught_sbd)[0]
    own_sbd = hidden_states(student, tokens_bs)
    if way.chunks:
        return distill_loss(DistillConfig(), (student, own_sbd), (teacher, taught_sbd), labels_bs)[0]
    del taught_sbd
    return modelopt_loss(student.output_layer(own_sbd)[0], taught_sbv)


def step(way: Way, student: Any, teacher: Any, length: int) -> torch.Tensor:
    """Forward and backward of one sequence; returns its loss per token."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    tokens_bs, labels_bs = torch.randint(0, student.vocab_size, (2, 1, length))
    with cuda_as_cpu():
        loss = loss_of(way, student, teacher, tokens_bs, labels_bs) / length
        loss.backward()
    return loss.detach()


def give_back_at_once() -> None:
    """Let malloc map every large block and keep none: what it would keep depends on chance, and no step needs it."""
    libc = ctypes.CDLL(None)
    for option, value in ((-3, 2**20), (-1, 2**20), (-8, 1)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_ARENA_MAX
        if libc.mallopt(option, value) != 1:
            raise OSError(f"mallopt({option}, {value}) is refused: this benchmark needs glibc")


def resident(way: str, length: int) -> dict[str, float]:
    """Peak of the resident bytes of one step above what was there, its seconds and its loss."""
    give_back_at_once()
    start()
    torch.set_num_threads(2)
    held = models(WAYS[way])
    step(WAYS[way], *held, 64)  # threads and their buffers are no step's
    for p in held[0].parameters():
        p.grad.zero_()
    ctypes.CDLL(None).malloc_trim(0)
    torch.manual_seed(length)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, began = in_memory("VmRSS"), time.perf_counter()
    loss = float(step(WAYS[way], *held, length))
    return {"bytes": in_memory("VmHWM") - before, "seconds": time.perf_counter() - began, "loss": loss}


def apart(function: Any, *args: Any) -> Any:
    """Call in a new process, a fork that has everything imported and nothing computed."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(function, args)


def line(sizes: dict[int, int]) -> tuple[float, float | None]:
    """Bytes per token between the outer points; how far the middle one is off their line, relative."""
    low, *middle, high = sorted(sizes)
    slope = (sizes[high] - sizes[low]) / (high - low)
    return slope, sizes[middle[0]] / (sizes[low] + slope * (middle[0] - low)) - 1 if middle else None


def measure() -> dict[str, dict[int, int]]:
    """Bytes by way and length; ways with a teacher must agree about the loss."""
    from modelopt.torch.distill.plugins import megatron  # noqa: F401  # once for all processes

    import nemo_elastic.megatron.vocabulary  # noqa: F401

    figures: dict[str, dict[int, int]] = {}
    losses: dict[int, float] = {}
    for name, way in WAYS.items():
        sizes = figures.setdefault(name, {})
        for n in way.lengths:
            point = apart(resident, name, n)
            sizes[n] = int(point["bytes"])
            if way.teacher and abs(point["loss"] / losses.setdefault(n, point["loss"]) - 1) > 1e-4:
                raise SystemExit(f"{name}, {n} tokens: a loss of {point['loss']}, not {losses[n]}")
            message = f"{name}, {n} tokens: {sizes[n] / MIB:.0f} MiB in {point['seconds']:.0f} s"
            print(f"  {message}", file=sys.stderr, flush=True)
    return figures


def table(figures: dict[str, dict[int, int]]) -> str:
    """The measurements as Markdown."""
    head = ["way", *(f"{n // 1024}k tokens, MiB" for n in LENGTHS), "KiB per token",
            "of `llm.distill` with recomputation", "of `llm.distill`", "8k off the line"]  # fmt: skip
    bases = [line(figures[way])[0] for way in (FAIR, DISTILL)]
    rows = []
    for way, sizes in figures.items():
        slope, off = line(sizes)
        cells = [f"{sizes[n] / MIB:.0f}" if n in sizes else "" for n in LENGTHS]
        more = [f"{slope / 1024:.1f}", *(f"{slope / base:.2f}" for base in bases)]
        rows.append([way, *cells, *more, "" if off is None else f"{off:+.1%}"])
    verdicts = [f"- {text}: {'met' if met else 'missed'}" for text, met in goals(figures)]
    return "\n".join([f"{parameters(PARENT, PARENT.full):,} parameters:\n", markdown(head, rows), *verdicts]) + "\n"


def goals(figures: dict[str, dict[int, int]]) -> list[tuple[str, bool]]:
    """What memory with recomputation and the loss by chunks has to be, and whether it is."""
    (slope, off), (fair, _) = line(figures[OURS]), line(figures[FAIR])
    return [
        (
            f"with both, memory grows no faster than the length: 8k is at most {OFF:.0%} below the line",
            off is not None and off >= -OFF,
        ),
        (
            f"with both, a token takes at most {SHARE} of what it takes in `llm.distill` with recomputation",
            slope <= SHARE * fair,
        ),
    ]


def main() -> None:
    parser = arguments(__doc__)
    args = parser.parse_args()
    figures = measure()
    deliver(args, figures, table(figures), [text for text, met in goals(figures) if not met])


if __name__ == "__main__":
    main()
