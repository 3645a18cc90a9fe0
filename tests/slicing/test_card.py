# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a card says of a shape that was not trained, of a folder without a tokenizer, and of what loads a member."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic import slice_checkpoint
from nemo_elastic.core.family import Subnet
from nemo_elastic.formats.schemes import COMPRESSED, LAYOUTS, MODELOPT, Stored, scheme_of
from nemo_elastic.slicing.loads import TRANSFORMERS, VLLM, where_it_runs
from tests.quantize.conftest import EXPERTS, FEW, dense  # noqa: F401
from tests.quantize.conftest import PARENT as WIDE
from tests.quantize.conftest import SMALL as CUT
from tests.quantize.damage import low
from tests.shapes import PARENT as SMALL_HEADS
from tests.vllm.low_precision import CASES, DENSE, RUNS

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


@pytest.mark.hf
def test_its_python_runs_without_a_tokenizer(family: Path, tmp_path: Path) -> None:
    slice_checkpoint(family, tmp_path / "cut", member="small")
    (code,) = re.findall(r"```python\n(.*?)```", card(tmp_path / "cut"), re.DOTALL)
    python = Path(
        os.environ.get("NEMO_ELASTIC_HF_PYTHON", Path(__file__).parents[2] / ".venv-hf/bin/python")
    ).absolute()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([python, "-c", code], cwd=tmp_path / "cut", env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("[1, 2, 3, ")


# ------------------------------------------------------------------ where a member runs

TWO = replace(SMALL_HEADS, pattern="M-M*-*", attention_head_dim=32)


@pytest.mark.parametrize(
    ("member", "line"),
    [
        (TWO.full, "transformers, vLLM, NeMo"),
        (
            Subnet(16, (TWO.layer(1, ffn=8), TWO.layer(3), TWO.layer(4))),
            "transformers (code in the folder), vLLM (code in the folder)",
        ),
        (Subnet(16, (TWO.layer(0, mamba_heads=4), TWO.layer(2), TWO.layer(3))), "transformers (code in the folder)"),
        (TWO.uniform([0, 1, 2, 4]), "transformers (slow without a cache), vLLM, NeMo"),
        (
            Subnet(16, (TWO.layer(0, mamba_heads=4), TWO.layer(2))),
            "transformers (code in the folder; slow without a cache)",
        ),
    ],
)
def test_a_member_runs_where_the_page_says(member: Subnet, line: str) -> None:
    assert str(where_it_runs(member.validate(TWO), TWO)) == line


@pytest.mark.parametrize(("heads", "size", "converted"), [(4, 16, True), (8, 12, False)])
def test_llama_cpp_takes_whole_64s_of_the_mamba_inner_size(heads: int, size: int, converted: bool) -> None:
    """As its converter asserts, and a tokenizer is never promised: no shape says which one a family has."""
    wide = replace(TWO, mamba_heads=8, mamba_head_dim=16)
    member = wide.uniform(mamba_heads=heads, mamba_head_dim=size)
    message = "llama.cpp (a tokenizer that its converter knows), " if converted else ""
    assert str(where_it_runs(member, wide)) == f"transformers, vLLM, {message}NeMo"


@pytest.mark.parametrize(
    ("size", "message"),
    [(48, "vLLM, "), (120, "vLLM (on a GPU, not tried), "), (512, "vLLM (on a CPU), "), (4, ""), (264, "")],
)
def test_vllm_is_named_where_it_has_attention_of_that_size(size: int, message: str) -> None:
    parent = replace(TWO, attention_head_dim=size)
    assert str(where_it_runs(parent.full, parent)) == f"transformers, {message}NeMo"
    without = parent.uniform([0, 1, 2, 4])
    assert "vLLM, NeMo" in str(where_it_runs(without, parent)), "it has no attention"


# ------------------------------------------------------------------ low precision

STORED = {(p, x): Stored(scheme_of(p, x), True) for p in ("nvfp4", "fp8") for x in LAYOUTS}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_named_is_what_was_seen(case) -> None:
    """`tests/vllm/low_precision.py` tries them; a kernel that a CPU has not is no reason against a GPU."""
    stored = Stored(scheme_of("nvfp4" if case.to == "w4a16" else case.to, case.layout), case.data)
    member, parent = (CUT, WIDE) if case.model == DENSE else (FEW, EXPERTS)
    seen = where_it_runs(member, parent, stored).needs
    assert (TRANSFORMERS in seen) == (case.transformers == RUNS)
    if case.model == DENSE:
        assert ("on a GPU, not tried" not in seen[VLLM]) == (case.vllm == RUNS)


@pytest.mark.parametrize(
    ("precision", "layout", "dense_line", "experts_line"),
    [
        ("nvfp4", MODELOPT, "vLLM (nemo-elastic's plugin on a CPU)", "nemo-elastic alone"),
        ("fp8", COMPRESSED, "transformers (compressed-tensors), vLLM (on a GPU, not tried)",
         "transformers (compressed-tensors)"),
    ],
)  # fmt: skip
def test_where_it_runs(precision: str, layout: str, dense_line: str, experts_line: str) -> None:
    stored = STORED[precision, layout]
    assert str(where_it_runs(CUT, WIDE, stored)) == dense_line
    assert str(where_it_runs(FEW, EXPERTS, stored)) == experts_line


@pytest.mark.parametrize(("precision", "layout"), [("nvfp4", MODELOPT), ("fp8", COMPRESSED)])
def test_cards(precision: str, layout: str, dense: Path, tmp_path: Path) -> None:  # noqa: F811
    family = low(dense, tmp_path / "family", precision, layout)
    slice_checkpoint(family, tmp_path / "cut", member="small")
    for folder, member in ((family, WIDE.full), (tmp_path / "cut", CUT)):
        text = card(folder)
        assert f"Runs in {where_it_runs(member, WIDE, STORED[precision, layout])}." in text
        assert ("AutoModelForCausalLM" in text) == (layout == COMPRESSED)
        assert f"\nlibrary_name: {'transformers' if layout == COMPRESSED else 'vllm'}\n" in text
    served = bool(re.search(r"^vllm serve \.", card(tmp_path / "cut"), re.MULTILINE))
    assert served and "vllm serve" not in card(family)
