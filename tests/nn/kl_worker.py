# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""One of two ranks of test_kl: ``python kl_worker.py RANK FOLDER`` (a script, so that no test module is pickled)."""

import pathlib
import sys

import torch
import torch.distributed as dist

from nemo_elastic.nn import forward_kl


def main(rank: int, folder: pathlib.Path) -> None:
    """Computes the divergence of this rank's half of the vocabulary and saves it with its gradient."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    student, teacher = torch.load(folder / "logits.pt")
    half = student.shape[1] // 2
    part = slice(half * rank, half * (rank + 1))
    mine = student[:, part].clone().requires_grad_()
    kl = forward_kl(mine, teacher[:, part], temperature=1.3, chunk_tokens=8, group=dist.group.WORLD)
    (kl * torch.arange(len(kl))).sum().backward()
    torch.save((kl.detach(), mine.grad), folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), pathlib.Path(sys.argv[2]))
