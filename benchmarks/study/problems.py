# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A small parent that answers generated problems: a ground of several studies.

Plain torch and one core.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import NamedTuple
from zlib import crc32

import torch

from benchmarks.study.results import REPORTED, TUNED
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.layout import tensors
from nemo_elastic.data.reasoning import Problem, mixture
from nemo_elastic.nn.nemotron_h import NemotronH
from tests.train.torch_host import TorchHost

#: (task, level) -> how often
PROBLEMS = {("chain_sum", 1): 1.0, ("chain_sum", 2): 3.0, ("gcd", 1): 1.0}
#: a token each; the first ends a text
ALPHABET = ["<end>", *"\n %+-0123456789:=abcdefghijklmnopqrstuvwxyz"]
END, LENGTH, BATCH = 0, 48, 32
PARENT = Parent("M-M*-M-", 96, len(ALPHABET), 256, 8, 16, 2, 16, 4, 4, 2, 24, ffn_stripes=8)
AXES = {"hidden": [96, 80, 64, 48], "ffn": [256, 192, 128, 64], "mamba_heads": [8, 6, 4], "depth": [7, 6, 5]}
PARENT_STEPS, PARENT_LR, LR, WARM = 1500, 3e-3, 1e-3, 0.05


class MicroBatch(NamedTuple):
    """A micro-batch: token ids, their targets and the loss mask, all [b, s]."""

    tokens_bs: torch.Tensor
    labels_bs: torch.Tensor
    mask_bs: torch.Tensor


def encode(text: str) -> list[int]:
    return [ALPHABET.index(c) for c in text]


def problems(seed: int, held_out: bool | str) -> Iterator[Problem]:
    """Problems without end; `TUNED` and `REPORTED` are the two parts of those that are held out."""

    def wanted(problem: Problem) -> bool:
        part = (TUNED, REPORTED)[crc32(problem.text.encode()) % 2]
        return problem.held_out == bool(held_out) and held_out in (False, True, part) and len(problem.text) < LENGTH

    return filter(wanted, mixture(PROBLEMS, seed))


def batches(seed: int, held_out: bool | str = False) -> Iterator[MicroBatch]:
    """Problems with the prompt masked out, each a row, filled up with the token that ends it."""
    source = problems(seed, held_out)
    while True:
        ids = torch.full((BATCH, LENGTH + 1), END)
        mask = torch.zeros(BATCH, LENGTH)
        for row in range(BATCH):
            problem = next(source)
            text, prompt = encode(problem.text), len(problem.prompt)
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, prompt - 1 : len(text)] = 1
        yield MicroBatch(ids[:, :-1], ids[:, 1:], mask)


def fresh(seed: int, shape: Parent = PARENT) -> NemotronH:
    """A parent to train: norms of 1, and what layers add is small at first."""
    state = NemotronH.random(shape, seed).state_dict()
    for t in tensors(shape, shape.full):
        if "norm" in t.row.name:
            state[t.hf] = torch.ones_like(state[t.hf])
        elif t.row.name.endswith(("out_proj", "down", "attention.out")):
            state[t.hf] = state[t.hf] / math.sqrt(2 * shape.num_layers)
    return NemotronH(shape, state)


def rate(done: float) -> float:
    """Share of the peak rate after a share of the FLOPs: warm-up, then a cosine to a tenth."""
    return min(1.0, done / WARM + 0.02) * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done))))


def optimizer_of(model: NemotronH) -> torch.optim.AdamW:
    matrices, vectors = ([p for p in model.parameters() if (p.dim() > 1) == wide] for wide in (True, False))
    return torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.95))


def step(model: NemotronH, optimizer: torch.optim.AdamW, loss: torch.Tensor, lr: float) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()


def trained(model: NemotronH, data: Iterator[MicroBatch], steps: int) -> NemotronH:
    """A parent, by cross-entropy on the tokens that count."""
    optimizer = optimizer_of(model)
    for i in range(steps):
        rows = next(data)
        logits = model(rows.tokens_bs).flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(logits, rows.labels_bs.flatten(), reduction="none")
        weights = rows.mask_bs.flatten()
        step(model, optimizer, (losses * weights).sum() / weights.sum(), PARENT_LR * rate(i / steps))
    return model


def right(model: NemotronH, member: Subnet | None, asked: Sequence[Problem]) -> float:
    """Share of problems whose greedy answer is right."""
    prompts = [encode(p.prompt) for p in asked]
    limits = [LENGTH - len(p) for p in prompts]
    said = model.generate(prompts, limits, [END], member)
    texts = ("".join(ALPHABET[i] for i in new if i != END) for new in said)
    return mean(p.is_solved_by(p.prompt + text) for p, text in zip(asked, texts, strict=True))


def divergences(host: TorchHost, member: Subnet, source: Iterator[MicroBatch], count: int = 10) -> tuple[float, float]:
    """KL(parent || member) and KL(member || parent), nats per token that counts of so many micro-batches."""
    sums = torch.zeros(3, dtype=torch.float64)
    with torch.no_grad():
        for rows in islice(source, count):
            p, q = (m.log_softmax(-1) for m in (host.frozen(rows.tokens_bs), host.model(rows.tokens_bs, member)))
            each = (p.exp() * (p - q)).sum(-1), (q.exp() * (q - p)).sum(-1), torch.ones_like(rows.mask_bs)
            sums += torch.stack([(e * rows.mask_bs).sum() for e in each]).double()
    return float(sums[0] / sums[2]), float(sums[1] / sums[2])


def parent_of(runs: Path, steps: int) -> NemotronH:
    """The parent, as an earlier run left it."""
    kept = runs / "parent.pt"
    if not kept.exists():
        torch.save(trained(fresh(0), batches(100), steps).state_dict(), kept)
    return NemotronH(PARENT, torch.load(kept))


def asked(count: int) -> list[Problem]:
    """Held-out problems, each once."""
    source = problems(7, held_out=True)
    return list({p.question: p for p in islice(source, 3 * count)}.values())[:count]
