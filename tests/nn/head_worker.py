# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One of two ranks of test_head."""

import pathlib

import torch
import torch.distributed as dist

from nemo_elastic.nn.loss_head import Head, head_loss
from tests.nn.squared import squared


def main(rank: int, port: int, folder: pathlib.Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    with squared():
        compute(rank, folder)
    dist.destroy_process_group()


def compute(rank: int, folder: pathlib.Path) -> None:
    """Every way of computing the loss on this rank's half of the vocabulary: sum, losses and both gradients."""
    (hidden, weight), (teacher_hidden, teacher_weight), batch, ways = torch.load(folder / "in.pt")
    half = len(weight) // 2
    part = slice(half * rank, half * (rank + 1))
    teacher = Head(teacher_hidden, teacher_weight[part])
    out = []
    for how in [*ways, {"terms": {"ce": 1.0}}]:
        student = Head(hidden.clone().requires_grad_(), weight[part].clone().requires_grad_())
        taught = teacher if how in ways else None
        loss, losses = head_loss(student, taught, **batch, **how, chunk_tokens=8, group=dist.group.WORLD)
        (loss * 0.37).backward()
        out.append((loss.detach(), losses, student.hidden_td.grad, student.weight_vd.grad))
    torch.save(out, folder / f"{rank}.pt")
    run, shared = len(hidden) // 2, []
    own = slice(run * rank, run * (rank + 1))
    teacher = Head(teacher_hidden[own], teacher_weight[part])
    all_tokens = {name: value[: 2 * run] for name, value in batch.items()}
    for chunk in (1, 6, 1000):
        for how in [*ways, {"terms": {"ce": 1.0}}]:
            student = Head(hidden[own].clone().requires_grad_(), weight[part].clone().requires_grad_())
            taught = teacher if how in ways else None
            loss, losses = head_loss(
                student, taught, **all_tokens, **how, chunk_tokens=chunk, group=dist.group.WORLD, shared_out=True
            )
            (loss * 0.37).backward()
            shared.append((loss.detach(), losses, student.hidden_td.grad, student.weight_vd.grad))
    torch.save(shared, folder / f"shared{rank}.pt")
