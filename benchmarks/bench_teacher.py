# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the teacher costs: step time and memory by its precision, and by how many budgets share one pass of it.

- time: forward and backward of micro-batches of 384 tokens, through megatron-core's schedule, of a parent of 43M
  parameters shaped like Nano V2, in float32, with members of 1.00, 0.81 and 0.62 of it. In a round every way trains
  each of the three equally often, ways in turn micro-batch by micro-batch; medians over rounds.
- memory: bytes of the teacher's parameters, and bytes alive at the fullest moment of a micro-batch beside parameters
  and gradient buffers.
- loss: what a precision changes in what the teacher says, on a parent of 1.4M parameters that is trained here on the
  bytes of Python's own library.

    python -m benchmarks.bench_teacher [--rounds 2] [--steps 90] [--json FILE] [--markdown FILE]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.output import arguments, deliver
from nemo_elastic.config.sections import TEACHER_PRECISIONS, DistillConfig
from nemo_elastic.core.family import Parent
from nemo_elastic.plan import preset
from tests.support.elastic_model import batch_of, elastic_model, run_schedule, settings
from tests.support.models import distributed, start
from tests.support.peak import Peak

PARENT = Parent("M-M-M*-M-M*-", 640, 8192, 2560, 16, 80, 8, 32, 4, 10, 2, 64, ffn_stripes=8)
MEMBERS = [PARENT.full, PARENT.uniform(hidden=544, ffn=2240), PARENT.uniform(hidden=448, ffn=1792)]
BLOCK: dict[str, Any] = {
    "budgets": [{"name": "full"}, {"name": "middle", "ratio": 0.82}, {"name": "small", "ratio": 0.63}],
    "axes": {"hidden": [640, 544, 448], "ffn": [2560, 2240, 1792]},
    "shapes": "even",
}
LENGTH = 384
#: budgets of a round's micro-batches, by budgets_per_batch
SAMPLES = {1: [[0], [1], [2]], 2: [[0, 1], [0, 2], [1, 2]], 3: [[0, 1, 2]] * 3}
#: (teacher, budgets_per_batch): no teacher is cross-entropy, the other words are `teacher_precision`
WAYS = [("none", 1), ("null", 1), *((p, 1) for p in TEACHER_PRECISIONS), ("null", 2), ("null", 3)]

SMALL = replace(preset("nemotron-h-tiny"), vocab=256, ffn_stripes=4)


def fresh(parent: Parent) -> Any:
    """A model with initial weights."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    torch.manual_seed(0)
    with cuda_as_cpu():
        return settings(parent).configure_model(SimpleNamespace(vocab_size=parent.vocab))


def teacher(parent: Parent, path: Path, precision: str) -> Any:
    from nemo_elastic.megatron.cpu import cuda_as_cpu
    from nemo_elastic.megatron.models import build_teacher

    tokenizer, word = SimpleNamespace(vocab_size=parent.vocab), None if precision == "null" else precision
    with cuda_as_cpu():
        return build_teacher(lambda c: c.configure_model(tokenizer), settings(parent), str(path), word)


def write(parent: Parent, model: Any, folder: Path) -> Path:
    """The model as a NeMo checkpoint."""
    from nemo_elastic.hosts.nemo.checkpoint.write import write_nemo_checkpoint
    from tests.support.states import from_megatron

    tensors = from_megatron(parent, parent.full, dict(model.named_parameters()))
    return write_nemo_checkpoint(folder, parent, parent.full, {k: v.detach() for k, v in tensors.items()})


class Run:
    """One student; every way gives it a teacher and what to sample."""

    def __init__(self, folder: Path) -> None:
        start()
        path = write(PARENT, fresh(PARENT), folder / "parent")
        self.model = elastic_model(PARENT, BLOCK, MEMBERS, path)
        self.config = self.model.elastic_config
        self.teachers = {"null": self.model.host.frozen, "none": None}
        self.teachers |= {p: teacher(PARENT, path, p) for p in TEACHER_PRECISIONS}
        self.batch = batch_of(PARENT, 1, LENGTH)
        self.ddp = distributed(self.model.host.core)

    def step(self, way: tuple[str, int], budgets: list[int]) -> None:
        """Forward and backward of a micro-batch of these budgets."""
        from nemo_elastic.train.samples import BudgetSampler

        self.model.host.frozen = self.teachers[way[0]]
        self.model.family.config = replace(
            self.config, distill=DistillConfig(teacher="none" if way[0] == "none" else "frozen")
        )
        weights = [float(i in budgets) for i in range(len(MEMBERS))]
        self.model.family.sampler = BudgetSampler(weights, 0, 1, len(budgets))
        run_schedule(self.model, [self.batch])

    def round(self, turn: int) -> dict[tuple[str, int], float]:
        """Seconds of every way per micro-batch of each of the three budgets, the teacher's share included."""
        took = dict.fromkeys(WAYS, 0.0)
        for i in range(len(MEMBERS)):
            first = (turn * len(MEMBERS) + i) % len(WAYS)
            for way in WAYS[first:] + WAYS[:first]:
                began = time.perf_counter()
                self.step(way, SAMPLES[way[1]][i])
                took[way] += (time.perf_counter() - began) / way[1]
        return took

    def peak(self, way: tuple[str, int]) -> int:
        """Bytes at the fullest moment of the micro-batch that holds the most."""
        with Peak() as seen:
            self.step(way, SAMPLES[way[1]][0])
        return seen.most


def held(model: Any) -> int:
    """Bytes of parameters and buffers."""
    return 0 if model is None else sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])


def costs(rounds: int, folder: Path) -> list[dict[str, Any]]:
    """Time and memory of every way."""
    run = Run(folder)
    torch.set_num_threads(2)
    peaks = {way: run.peak(way) for way in WAYS}  # warms up too
    figures = [run.round(turn) for turn in range(rounds)]
    times = {way: [x[way] for x in figures] for way in WAYS}
    base = times["null", 1]
    return [
        {
            "teacher": way[0], "budgets_per_batch": way[1], "teacher_MiB": held(run.teachers[way[0]]) / 2**20,
            "fullest_MiB": peaks[way] / 2**20, "seconds": statistics.median(times[way]),
            "ratio": statistics.median(t / b for t, b in zip(times[way], base, strict=True)),
        }
        for way in WAYS
    ]  # fmt: skip


def text(held_out: bool) -> torch.Tensor:
    """Bytes of the library's sources, as token ids."""
    from nemo_elastic.data.build import read_texts

    train, validation, _ = read_texts()
    chosen = validation if held_out else train
    return torch.frombuffer(bytearray("".join(row.text for row in chosen).encode()), dtype=torch.uint8).long()


@torch.enable_grad()
def train(steps: int) -> Any:
    """A small parent after some steps on text."""
    from nemo_elastic.megatron.cpu import cuda_as_cpu

    model, data, g = fresh(SMALL), text(held_out=False), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        at = torch.randint(0, len(data) - 257, (8,), generator=g)
        rows = torch.stack([data[i : i + 257] for i in at])
        with cuda_as_cpu():
            loss = F.cross_entropy(model(rows[:, :-1], None, None).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


@torch.no_grad()
def words(steps: int, folder: Path) -> list[dict[str, Any]]:
    """Loss of the teacher of every precision, and its divergence from the float32 one."""
    path = write(SMALL, train(steps), folder / "small")
    rows = text(held_out=True)[: 32 * 257].view(32, 257)
    logits = {}
    for precision in ("null", *TEACHER_PRECISIONS):
        model = teacher(SMALL, path, precision)
        logits[precision] = model(rows[:, :-1], None, None).float().flatten(0, 1)
    own, labels = logits["null"], rows[:, 1:].flatten()
    return [
        {
            "teacher": precision,
            "loss": float(F.cross_entropy(z, labels)),
            "kl": float(F.kl_div(z.log_softmax(-1), own.log_softmax(-1), log_target=True, reduction="batchmean")),
            "same_first_choice": float((z.argmax(-1) == own.argmax(-1)).float().mean()),
        }
        for precision, z in logits.items()
    ]


def table(figures: dict[str, list[dict[str, Any]]]) -> str:
    """Both tables, as Markdown."""
    lines = [
        "| teacher | budgets_per_batch | teacher's parameters, MiB | fullest moment, MiB | s per round | ratio |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for x in figures["costs"]:
        lines.append(
            f"| {x['teacher']} | {x['budgets_per_batch']} | {x['teacher_MiB']:.1f} | {x['fullest_MiB']:.1f} | "
            f"{x['seconds']:.3f} | {x['ratio']:.3f} |"
        )
    lines += [
        "",
        "| teacher | held-out loss, nats | KL from float32, nats | same first choice |",
        "|---|---:|---:|---:|",
    ]
    for x in figures["words"]:
        lines.append(f"| {x['teacher']} | {x['loss']:.5f} | {x['kl']:.2e} | {x['same_first_choice']:.2%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=90, help="of the small parent's training")
    args = parser.parse_args()
    from nemo_elastic.demo.quiet import quiet

    quiet()
    with tempfile.TemporaryDirectory() as folder:
        figures = {"costs": costs(args.rounds, Path(folder)), "words": words(args.steps, Path(folder))}
    deliver(args, figures, table(figures))


if __name__ == "__main__":
    main()
