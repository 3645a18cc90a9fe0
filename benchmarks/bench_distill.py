# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Memory and time of the distillation loss at a vocabulary of 131072: forward and backward, both heads included.

    python -m benchmarks.bench_distill [--rounds 2] [--json FILE] [--markdown FILE]

- memory: a process of its own per way and number of tokens. What counts is the peak of the resident memory above what
  it had with hidden states and heads in place, less one gradient of the student's head. For 8192 tokens the way with
  whole logits would need more than this machine has: its memory is measured at three sizes and continued as the line
  through the outer two, and the table says how far the middle one lies off that line.
- time: all ways in turn, round after round, each at its fastest.

Ends with exit code 1 if a target is missed. Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.output import arguments, deliver, markdown, resident
from nemo_elastic.nn.loss_head import Head, head_loss

VOCABULARY, WIDTH, TOKENS = 131072, 512, 8192
CHUNK = 512  # the default of elastic.distill.chunk_tokens
SIZES = (256, 512, 1024)  # naive memory is measured here
TIMED = 1024
MEMORY, TIME = 1 / 20, 0.9  # targets: at most this share of the naive loss
GB = 1e9


def naive(student: Head, teacher: Head) -> torch.Tensor:
    """Whole logits of both, in float32 from the head on."""
    s_tv, t_tv = (F.linear(*head).float() for head in (student, teacher))
    return F.kl_div(F.log_softmax(s_tv, -1), F.softmax(t_tv, -1), reduction="none").sum()


def modelopt(student: Head, teacher: Head) -> torch.Tensor:
    """ModelOpt's loss, of whole logits."""
    return modelopt_loss(*(F.linear(*head).unsqueeze(1) for head in (student, teacher)))


def modelopt_loss(student_sbv: torch.Tensor, teacher_sbv: torch.Tensor) -> torch.Tensor:
    """ModelOpt's LogitsKLLoss for Megatron, what NeMo's `llm.distill` runs, summed over tokens."""
    from modelopt.torch.distill.plugins.megatron import LogitsKLLoss

    config: Any = SimpleNamespace(tensor_model_parallel_size=1)
    losses_bs, *_ = LogitsKLLoss(config)(student_sbv, teacher_sbv)
    return losses_bs.sum()


def fused(student: Head, teacher: Head) -> torch.Tensor:
    """nn.loss_head, its weight gradient given to autograd."""
    return head_loss(student, teacher, chunk_tokens=CHUNK)[0]


def into_buffer(weight: torch.Tensor, piece: torch.Tensor, factor: torch.Tensor) -> None:
    weight.main_grad.addcmul_(piece, factor)


def buffered(student: Head, teacher: Head) -> torch.Tensor:
    """nn.loss_head as in training: the weight's gradient is added to the buffer that sums up micro-batches."""
    return head_loss(student, teacher, chunk_tokens=CHUNK, deliver=into_buffer)[0]


WAYS: dict[str, Callable[[Head, Head], torch.Tensor]] = {
    "naive": naive,
    "ModelOpt": modelopt,
    "fused": fused,
    "fused, into main_grad": buffered,
}
#: way, tokens of the processes that measure memory; in float32, for which every CPU has fast matrix products
MEASURED = (
    *((way, n) for way in ("naive", "fused") for n in SIZES),
    ("ModelOpt", SIZES[-1]),
    ("fused, into main_grad", TOKENS),  # as in training
)


def heads(tokens: int, vocabulary: int = VOCABULARY, width: int = WIDTH) -> tuple[Head, Head]:
    g = torch.Generator().manual_seed(0)

    def normal(rows: int, std: float) -> torch.Tensor:
        return torch.empty(rows, width).normal_(std=std, generator=g)

    student, teacher = (Head(normal(tokens, 1.0), normal(vocabulary, 0.05)) for _ in range(2))
    student.hidden_td.requires_grad_()
    student.weight_vd.requires_grad_()
    student.weight_vd.main_grad = torch.zeros(vocabulary, width).fill_(0.0)  # touched: it is there before
    return student, teacher


def step(way: str, student: Head, teacher: Head) -> tuple[float, float]:
    """Seconds of forward and backward of the mean over tokens, and the mean."""
    student.hidden_td.grad = student.weight_vd.grad = None
    began = time.perf_counter()
    loss = WAYS[way](student, teacher) / len(student.hidden_td)
    loss.backward()
    return time.perf_counter() - began, float(loss.detach())


def peak(way: str, tokens: int) -> dict[str, float]:
    """Most resident bytes of one step beyond its inputs and one gradient of the head; and its loss."""
    torch.set_num_threads(2)
    student, teacher = heads(tokens)
    if way == "ModelOpt":
        modelopt(*heads(1, 8, 8))  # importing it takes memory too
    F.linear(*heads(8, 8, 8)[0]).sum().backward()  # threads and their buffers are no loss's
    gradient = 0 if "main_grad" in way else student.weight_vd.nbytes
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    seconds, loss = step(way, student, teacher)
    return {"bytes": resident("VmHWM") - before - gradient, "seconds": seconds, "loss": loss}


def memory() -> dict[str, dict[int, int]]:
    """Bytes by way and tokens; the losses of one number of tokens must agree."""
    figures: dict[str, dict[int, int]] = {}
    losses: dict[int, float] = {}
    for way, tokens in MEASURED:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_distill", "--worker", way, str(tokens)]
        report = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
        )
        first = losses.setdefault(tokens, report["loss"])
        if abs(report["loss"] / first - 1) > 1e-5:
            raise SystemExit(f"{way} at {tokens} tokens: a loss of {report['loss']}, not {first}")
        figures.setdefault(way, {})[tokens] = int(report["bytes"])
        print(f"  {way}, {tokens} tokens: {report['bytes'] / GB:.2f} GB", file=sys.stderr, flush=True)
    return figures


def times(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of every way at its fastest, and their ratio to those of the naive loss."""
    torch.set_num_threads(2)
    student, teacher = heads(TIMED)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            taken[way].append(step(way, student, teacher)[0])
    return {way: {"seconds": min(each), "ratio": min(each) / min(taken["naive"])} for way, each in taken.items()}


def line(sizes: dict[int, int], tokens: int = TOKENS) -> tuple[float, float]:
    """Bytes at `tokens` on the line through the smallest and largest size; how far the middle one is off, relative."""
    low, middle, high = sorted(sizes)
    slope = (sizes[high] - sizes[low]) / (high - low)

    def at(n: int) -> float:
        return sizes[low] + slope * (n - low)

    return at(tokens), sizes[middle] / at(middle) - 1


def measure(rounds: int) -> dict[str, Any]:
    figures = {"memory": memory(), "time": times(rounds)}
    single = figures["memory"]
    figures["naive_at_8192"], figures["off_the_line"] = line(single["naive"])
    figures["ratio"] = {w: single[w][TOKENS] / figures["naive_at_8192"] for w in single if TOKENS in single[w]}
    return figures


def missed(figures: dict[str, Any]) -> list[str]:
    """Targets that what training runs does not meet."""
    ours = "fused, into main_grad"
    tests = {
        "memory at most 1/20 of naive": figures["ratio"][ours] <= MEMORY,
        f"time at most {TIME} of naive": figures["time"][ours]["ratio"] <= TIME,
    }
    return [name for name, met in tests.items() if not met]


def table(figures: dict[str, Any]) -> str:
    """The measurements as Markdown."""
    single = figures["memory"]

    def cell(way: str, tokens: int) -> str:
        return f"{single[way][tokens] / GB:.2f}" if tokens in single.get(way, {}) else ""

    columns = [f"{n} tokens" for n in (*SIZES, TOKENS)]
    head = ["float32, GB beyond the head's gradient", *columns, "of naive", f"seconds at {TIMED}", "of naive"]
    rows = []
    for way, took in figures["time"].items():
        cells = [cell(way, n) for n in (*SIZES, TOKENS)]
        share = f"1/{1 / figures['ratio'][way]:.0f}" if way in figures["ratio"] else ""
        if way == "naive":
            cells[-1], share = f"({figures['naive_at_8192'] / GB:.1f})", "1"
        rows.append([way, *cells, share, f"{took['seconds']:.2f}", f"{took['ratio']:.2f}"])
    note = (
        f"In parentheses: not measured but continued from {SIZES[0]} and {SIZES[-1]} tokens; {SIZES[1]} lie "
        f"{figures['off_the_line']:+.1%} off that line. Targets: memory at most 1/20, time at most {TIME}."
    )
    return f"{markdown(head, rows)}\n{note}\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(peak(args.worker[0], int(args.worker[1]))))
        return
    figures = measure(args.rounds)
    deliver(args, figures, table(figures), missed(figures))


if __name__ == "__main__":
    main()
