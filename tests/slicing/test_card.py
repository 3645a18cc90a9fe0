# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a card says of a shape that was not trained, of a folder without a tokenizer, and of how to load a member."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic import slice_checkpoint
from nemo_elastic.core.family import Subnet
from nemo_elastic.formats.schemes import COMPRESSED, MODELOPT
from nemo_elastic.slicing.card import needs_eager_experts
from tests.formats.gguf.test_llama_cpp import other_width
from tests.formats.hf.hf_client import run_code
from tests.quantize.conftest import dense  # noqa: F401
from tests.quantize.damage import low
from tests.shapes import MOE
from tests.shapes import PARENT as SMALL_HEADS

from .helpers import SMALL, random_values, write

#: with heads that vLLM has attention for
PARENT = replace(SMALL_HEADS, attention_head_dim=32)
NOT_TRAINED = "was not trained. Evaluate the model before use."
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


def test_a_folder_with_a_tokenizer_reads_text(family: Path, tmp_path: Path) -> None:
    assert "AutoTokenizer" not in card(family) and "vllm serve . --tokenizer PARENT" in card(family)
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text("{}")
    write(tmp_path / "family", PARENT, {"small": SMALL}, tokenizer_dir=tmp_path / "words")
    slice_checkpoint(tmp_path / "family", tmp_path / "cut", member="small")
    for folder in (tmp_path / "family", tmp_path / "cut"):
        assert "AutoTokenizer" in card(folder) and "no tokenizer" not in card(folder)
        assert re.search(r"^vllm serve \.$", card(folder), re.MULTILINE)


def test_which_engines_read_the_member(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "tokenizer.json").write_text("{}")
    source = write(tmp_path / "family", PARENT, {"small": SMALL}, tokenizer_dir=tmp_path / "words")
    for name, layer, width, engines in (("ffn", 1, 8, ["vllm serve", "--format gguf"]), ("mamba_heads", 0, 4, [])):
        slice_checkpoint(source, tmp_path / name, subnet=other_width(PARENT.full, layer, **{name: width}))
        assert [line for line in ("vllm serve", "--format gguf") if line in card(tmp_path / name)] == engines
    assert "Not llama.cpp: this model has layers that differ in mamba_heads (4, 6)" in card(tmp_path / "mamba_heads")


@pytest.mark.hf
def test_its_python_runs_without_a_tokenizer(family: Path, tmp_path: Path) -> None:
    slice_checkpoint(family, tmp_path / "cut", member="small")
    (code,) = re.findall(r"```python\n(.*?)```", card(tmp_path / "cut"), re.DOTALL)
    done = run_code(code, place=tmp_path / "cut")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("[1, 2, 3, ")


def test_what_a_shape_needs_in_transformers() -> None:
    parent = replace(MOE, hidden=16, expert_ffn=16)
    assert not needs_eager_experts(parent.full) and needs_eager_experts(parent.uniform(hidden=12))
    assert needs_eager_experts(parent.uniform(expert_ffn=12)) and not needs_eager_experts(PARENT.uniform(hidden=12))


@pytest.mark.parametrize(("precision", "layout"), [("nvfp4", MODELOPT), ("fp8", COMPRESSED)])
def test_cards(precision: str, layout: str, dense: Path, tmp_path: Path) -> None:  # noqa: F811
    family = low(dense, tmp_path / "family", precision, layout)
    slice_checkpoint(family, tmp_path / "cut", member="small")
    for folder in (family, tmp_path / "cut"):
        text = card(folder)
        assert ("AutoModelForCausalLM" in text) == (layout == COMPRESSED)
        assert f"\nlibrary_name: {'transformers' if layout == COMPRESSED else 'vllm'}\n" in text
    served = bool(re.search(r"^vllm serve \.", card(tmp_path / "cut"), re.MULTILINE))
    assert served and "vllm serve" not in card(family)
