# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What is written down inside a rehearsal's job: each start in a folder of its own, and the one that is cut short.

Whether a host saves what it starts with is what rehearsals themselves check (`ranked_loaded`, `optimizer_loaded`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.hosts.common.watch import Watch, link
from tests.support.ranks import spawn


def facts(folder: Path, start: int) -> dict[str, Any]:
    return json.loads((folder / "watched" / str(start) / "facts.json").read_text())


def begun(folder: Path, step: int, stop_after: int | None = None, own: Path | None = None) -> Watch:
    """A watch at the start of a job, whose state is an empty file."""
    watch = Watch(str(folder / "watched"), stop_after)
    watch.begin(step, lambda place: place.write_text("state"), own and (lambda place: link(own, place)))
    return watch


def test_every_start_has_a_folder_of_its_own_with_the_checkpoint_that_it_goes_on_from(tmp_path: Path) -> None:
    checkpoint = tmp_path / "last"
    checkpoint.mkdir()
    (checkpoint / "metadata.json").write_text("{}")
    begun(tmp_path, 0)
    begun(tmp_path, 7, own=checkpoint)
    (checkpoint / "metadata.json").unlink()
    assert [facts(tmp_path, start) for start in (0, 1)] == [{"step": step, "killed": False} for step in (0, 7)]
    second = tmp_path / "watched" / "1"
    assert (second / "start").read_text() == "state" and (second / "from" / "metadata.json").read_text() == "{}"


def job(rank: int, port: int, folder: Path, step: int, stop_after: int) -> None:
    """A job of four steps, on each of its ranks."""
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    watch = begun(folder, step, stop_after)
    for done in range(step + 1, 5):
        watch.reached(done)
    (folder / f"{rank}.ended").touch()


@pytest.mark.parametrize(("step", "stop_after", "ends"), [(0, 3, False), (2, 3, True)])
def test_the_first_start_alone_is_cut_short_on_all_ranks(
    tmp_path: Path, step: int, stop_after: int, ends: bool
) -> None:
    spawn(job, tmp_path, step, stop_after)
    assert [(tmp_path / f"{rank}.ended").exists() for rank in (0, 1)] == [ends, ends]
    assert facts(tmp_path, 0) == {"step": step, "killed": False} | ({} if ends else {"killed": True, "reached": 3})
    assert len(list((tmp_path / "watched").iterdir())) == 1
