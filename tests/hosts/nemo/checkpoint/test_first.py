# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What fails on the first rank alone ends all of them at once, with its error; what it sees is so for all."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_elastic.hosts.common.checkpoints import LIST, NEMO
from tests.support.ranks import spawn

pytestmark = [pytest.mark.nemo, pytest.mark.dist]


def main(rank: int, port: int, folder: Path) -> None:
    """One of two ranks: what it raises where the first alone fails."""
    import torch.distributed as dist

    from nemo_elastic.hosts.nemo.checkpoint.resume import ElasticCheckpoint
    from nemo_elastic.hosts.nemo.curriculum.rank import save_whole

    soon = datetime.timedelta(seconds=60)  # by which gloo gives up
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=soon)
    checkpoint = folder / "step=3-last"
    trainer: Any = SimpleNamespace(
        is_global_zero=rank == 0, loggers=[], strategy=SimpleNamespace(barrier=dist.barrier),
        ckpt_path=checkpoint if rank == 0 else None,  # the other has seen it too late
    )  # fmt: skip
    callback = ElasticCheckpoint(dirpath=str(folder))
    ways: dict[str, Callable[[], Any]] = {
        "ranked": lambda: save_whole(trainer, folder / "a file" / "ranked"),
        "chosen": lambda: callback.setup(trainer, None, "fit"),
        "list": callback._get_finalize_save_checkpoint_callback(trainer, str(checkpoint), 3),
    }
    for name, way in ways.items():
        try:
            way()
        except Exception as error:
            (folder / f"{name}.{rank}").write_text(f"{type(error).__name__}: {error}")
    type(NEMO).is_whole = lambda *_: rank == 0  # the other sees the file later, and may not save alone
    trainer.global_step = callback._last_global_step_saved = 3
    callback._save_checkpoint(trainer, str(checkpoint))
    dist.destroy_process_group()


def test_no_rank_waits_for_a_first_that_failed(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "step=3-last" / LIST).mkdir(parents=True)
    spawn(main, tmp_path)
    for name in ("ranked", "chosen", "list"):
        first, second = ((tmp_path / f"{name}.{rank}").read_text() for rank in range(2))
        assert first == second and first.startswith("ElasticError: ")
