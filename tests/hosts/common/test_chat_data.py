# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Which folder of conversations a job of a run reads, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.data.packing import NPY, PARQUET
from nemo_elastic.data.prepare import prepare
from nemo_elastic.errors import ElasticError
from nemo_elastic.hosts.common.chat_data import chat_folder, packed_files
from nemo_elastic.hosts.common.curriculum_run import CurriculumRun
from nemo_elastic.plan.stages import Curriculum, Stage
from tests.data.large import sums, write_tokenizer
from tests.workers import ROOT

BLOCK = ElasticConfig.load(ROOT / "conf" / "elastic_tiny.yaml")
PLAN = Curriculum(Stage(128, 4, 4), Stage(256, 2, 2))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CurriculumRun:
    """A folder for each stage."""
    place = tmp_path_factory.mktemp("chats")
    (place / "chats.jsonl").write_text(sums(40))
    tokenizer = write_tokenizer(place / "t")
    for length in (128, 256):
        prepare(place / str(length), [place / "chats.jsonl"], tokenizer, length=length)
    data = [[str(place / str(length))] for length in (128, 256)]
    return CurriculumRun("/p", data[0], "/run", BLOCK, data[1], PLAN, chat=True)


def test_each_stage_reads_its_own_and_the_ranking_that_of_the_first(run: CurriculumRun) -> None:
    assert run.long_data is not None
    for job in ("rank", "stage1"):
        assert chat_folder(run, job, NPY) == run.data[0]
    assert chat_folder(run, "stage2", NPY) == run.long_data[0]
    assert chat_folder(replace(run, data=["/cluster/chats"]), "stage1", PARQUET) == "/cluster/chats", "by its name"
    alike = replace(run, long_data=None, curriculum=replace(PLAN, stage2=replace(PLAN.stage2, seq_length=128)))
    assert chat_folder(alike, "stage2", NPY) == run.data[0]


def test_the_files_are_those_that_were_written(run: CurriculumRun) -> None:
    files = packed_files(str(run.data[0]), NPY)
    assert {Path(file).name for file in files.values()} == {"training.npy", "validation.npy", "packed_metadata.jsonl"}
    assert all(Path(file).is_file() for file in files.values())


def test_what_does_not_fit_is_refused(run: CurriculumRun) -> None:
    with pytest.raises(ElasticError, match=r"^long_data: missing.* \[FOLDER\], .* --seq-length 256 --packed npy$"):
        chat_folder(replace(run, long_data=None), "stage2", NPY)
    for wrong in (["/a", "/b"], {"train": ["/a"], "validation": ["/b"]}, []):
        with pytest.raises(ElasticError, match=r"^data: "):
            chat_folder(replace(run, data=wrong), "stage1", NPY)
    with pytest.raises(ElasticError, match=r"^data: '.*/128, made with .* parquet$"):
        chat_folder(run, "stage1", PARQUET)
    with pytest.raises(ElasticError, match=r"^long_data: '.*/128, made with --seq-length 128 .* --seq-length 256"):
        chat_folder(replace(run, long_data=run.data), "stage2", NPY)
