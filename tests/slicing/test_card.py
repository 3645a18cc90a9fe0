# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a card says of a shape that was not trained, and of a folder without a tokenizer."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic import slice_checkpoint
from nemo_elastic.core.family import Subnet
from tests.shapes import PARENT as SMALL_HEADS

from .helpers import SMALL, random_values, write

#: with heads that vLLM has attention for
PARENT = replace(SMALL_HEADS, attention_head_dim=32)
NOT_TRAINED = "was not trained. Evaluate it before use."
BETWEEN = PARENT.uniform([0, 1, 3, 4], hidden=12, ffn=8, mamba_heads=4)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("family") / "family"
    return write(place, PARENT, {"small": SMALL}, tensors=random_values(PARENT))


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("subnet", "trained"), [(PARENT.full, True), (SMALL, True), (BETWEEN, False)], ids=["full", "small", "between"]
)
def test_a_shape_between_members_was_not_trained(family: Path, tmp_path: Path, subnet: Subnet, trained: bool) -> None:
    slice_checkpoint(family, tmp_path / "cut", subnet=subnet)
    assert (NOT_TRAINED in card(tmp_path / "cut")) is not trained
    if subnet == BETWEEN:  # a member of the family, but cut out of what is none of its members
        slice_checkpoint(tmp_path / "cut", tmp_path / "again", subnet=BETWEEN)
        assert NOT_TRAINED in card(tmp_path / "again")


def test_a_folder_without_a_tokenizer_has_a_card_without_one(family: Path, tmp_path: Path) -> None:
    slice_checkpoint(family, tmp_path / "cut", member="small")
    for folder in (family, tmp_path / "cut"):
        assert "AutoTokenizer" not in card(folder) and "This folder has no tokenizer" in card(folder)
        assert "vllm serve . --tokenizer PARENT" in card(folder)


def test_no_command_serves_heads_that_vllm_has_no_attention_for(tmp_path: Path) -> None:
    told = card(write(tmp_path / "family", SMALL_HEADS, {}))
    assert "vLLM has no attention for heads of 4 channels" in told and "vllm serve" not in told
    assert "Runs in transformers, NeMo." in told


def test_a_folder_with_one_reads_text(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text("{}")
    write(tmp_path / "family", PARENT, {"small": SMALL}, tokenizer_dir=tmp_path / "words")
    slice_checkpoint(tmp_path / "family", tmp_path / "cut", member="small")
    for folder in (tmp_path / "family", tmp_path / "cut"):
        assert "AutoTokenizer" in card(folder) and "no tokenizer" not in card(folder)
        assert re.search(r"^vllm serve \.$", card(folder), re.MULTILINE)


@pytest.mark.hf
def test_its_python_runs_without_a_tokenizer(family: Path, tmp_path: Path) -> None:
    slice_checkpoint(family, tmp_path / "cut", member="small")
    (code,) = re.findall(r"```python\n(.*?)```", card(tmp_path / "cut"), re.DOTALL)
    python = Path(
        os.environ.get("NEMO_ELASTIC_HF_PYTHON", Path(__file__).parents[2] / ".venv-hf/bin/python")
    ).absolute()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([python, "-c", code], cwd=tmp_path / "cut", env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("[1, 2, 3, ")
