# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The curriculum as jobs: names that are known beforehand, the ranking's recipe, failing jobs."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun
from recipes import families
from tests.workers import environment

pytestmark = pytest.mark.nemo
CONF = Path(__file__).parents[2] / "conf"


def test_the_family_names_the_ranking_that_it_was_sorted_by() -> None:
    own = CurriculumRun("/parent", [], "/runs/12b", ElasticConfig.load(CONF / "elastic_12b.yaml"))
    recipe = families.family("nemotron_elastic_12b")
    assert recipe.slice_arguments(own)["ranking"] == "/runs/12b/rank/elastic/ranking"
    given = replace(own, block=replace(own.block, ranking="/rankings/12b"))
    assert recipe.slice_arguments(given)["ranking"] == "/rankings/12b"


def test_a_failed_job_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NeMo-Run says nothing in its exit code; ours must."""
    import nemo_run as run

    from nemo_elastic.hosts.common.experiment import local_executor
    from nemo_elastic.hosts.nemo.curriculum.jobs import run_family
    from nemo_elastic.slicing.family_folder import slice_family

    def without_torchrun(nodes: int, devices: int) -> run.LocalExecutor:
        executor = local_executor(nodes, devices)
        executor.launcher = None
        return executor

    monkeypatch.setattr("nemo_run.config._NEMORUN_HOME", str(tmp_path))  # read from the environment on import
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    nothing = run.Partial(slice_family, checkpoint=str(tmp_path / "nothing"), out=str(tmp_path))
    with pytest.raises(ElasticError, match=r"family: first failed; its log is in .*/first"):
        run_family("family", {"first": nothing}, without_torchrun)
    assert not (tmp_path / "family").exists()
    said = "".join(p.read_text(errors="replace") for p in (tmp_path / "experiments").rglob("*/first/**/*.log"))
    assert f"error: {tmp_path}/nothing: " in said and "Traceback" not in said, "it ran, and failed by itself"


def test_the_members_are_not_written_over_what_they_are_cut_from(tmp_path: Path) -> None:
    from nemo_elastic.slicing.family_folder import slice_family

    for name in ("family/end", "family/ranking", "stage2"):
        (tmp_path / name).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    for checkpoint, ranking in (("family/end", None), ("stage2", str(tmp_path / "family/ranking"))):
        with pytest.raises(ElasticError, match="which is an input; name"):
            slice_family(str(tmp_path / checkpoint), str(tmp_path), ranking)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_ranked_checkpoint_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    """The place alone: `tests/recipes/test_tiny.py` ranks for real."""
    from nemo_elastic.hosts.nemo.curriculum.rank import UNFINISHED, save_whole
    from nemo_elastic.io.outputs import sign

    class Full:
        """A trainer on a full disk."""

        is_global_zero = True
        strategy = SimpleNamespace(barrier=lambda: None)

        def save_checkpoint(self, path: Path, weights_only: bool) -> None:
            (path / "weights").mkdir()
            raise OSError(errno.ENOSPC, "No space left on device", str(path / "weights"))

    trainer: Any = Full()
    theirs = tmp_path / "a-unfinished"
    theirs.mkdir()
    (theirs / "thesis").touch()
    with pytest.raises(ElasticError, match="a-unfinished: is not an unfinished checkpoint that nemo-elastic wrote"):
        save_whole(trainer, tmp_path / "a")
    assert (theirs / "thesis").exists()
    (tmp_path / "b-unfinished" / "weights").mkdir(parents=True)  # of a killed run
    (tmp_path / "b-unfinished" / "weights" / "0.distcp").touch()
    sign(tmp_path / "b-unfinished", UNFINISHED, whole=False)
    with pytest.raises(ElasticError, match="b: no space left on the disk; nothing was changed there"):
        save_whole(trainer, tmp_path / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["a-unfinished"]
