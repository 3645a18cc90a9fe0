# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cards and `runs_in` of members in low precision name what was seen to load them, and show code for nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic.formats.schemes import COMPRESSED, LAYOUTS, MODELOPT, Stored, scheme_of
from nemo_elastic.formats.source import Origin
from nemo_elastic.slicing.card import member_card
from nemo_elastic.slicing.lineage import CARD
from nemo_elastic.slicing.loads import TRANSFORMERS, VLLM, runs_in, where_it_runs
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.quantize.conftest import EXPERTS, FEW, PARENT, SMALL, dense, sparse  # noqa: F401
from tests.quantize.damage import low
from tests.vllm.low_precision import CASES, DENSE, RUNS

STORED = {(p, x): Stored(scheme_of(p, x), True) for p in ("nvfp4", "fp8") for x in LAYOUTS}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_named_is_what_was_seen(case) -> None:
    """`tests/vllm/low_precision.py` tries them; a kernel that a CPU has not is no reason against a GPU."""
    stored = Stored(scheme_of("nvfp4" if case.to == "w4a16" else case.to, case.layout), case.data)
    member, parent = (SMALL, PARENT) if case.model == DENSE else (FEW, EXPERTS)
    seen = where_it_runs(member, parent, stored).needs
    assert (TRANSFORMERS in seen) == (case.transformers == RUNS)
    if case.model == DENSE:
        assert ("on a GPU, not tried" not in seen[VLLM]) == (case.vllm == RUNS)


@pytest.mark.parametrize(
    ("precision", "layout", "dense_line", "experts_line"),
    [
        ("nvfp4", MODELOPT, "vLLM (nemo-elastic's plugin on a CPU)", "nemo-elastic alone"),
        ("fp8", MODELOPT, "vLLM", "nemo-elastic alone"),
        (
            "nvfp4",
            COMPRESSED,
            "transformers (compressed-tensors), vLLM (nemo-elastic's plugin on a CPU)",
            "nemo-elastic alone",
        ),
        (
            "fp8",
            COMPRESSED,
            "transformers (compressed-tensors), vLLM (on a GPU, not tried)",
            "transformers (compressed-tensors)",
        ),
    ],
)
def test_where_it_runs(precision: str, layout: str, dense_line: str, experts_line: str) -> None:
    stored = STORED[precision, layout]
    assert runs_in(SMALL, PARENT, stored) == dense_line
    assert runs_in(FEW, EXPERTS, stored) == experts_line


def card(folder: Path) -> str:
    return (folder / CARD).read_text(encoding="utf-8")


@pytest.mark.parametrize(("precision", "layout"), STORED)
def test_cards(precision: str, layout: str, dense: Path, tmp_path: Path) -> None:  # noqa: F811
    family = low(dense, tmp_path / "family", precision, layout)
    slice_checkpoint(family, tmp_path / "cut", member="small")
    for folder, member in ((family, PARENT.full), (tmp_path / "cut", SMALL)):
        text = card(folder)
        assert f"Runs in {runs_in(member, PARENT, STORED[precision, layout])}." in text
        assert ("AutoModelForCausalLM" in text) == (layout == COMPRESSED)
        assert f"\nlibrary_name: {'transformers' if layout == COMPRESSED else 'vllm'}\n" in text
    served = bool(re.search(r"^vllm serve \.", card(tmp_path / "cut"), re.MULTILINE))
    assert served and "vllm serve" not in card(family)


def test_a_card_of_experts_in_nvfp4_shows_no_transformers(sparse: Path, tmp_path: Path) -> None:  # noqa: F811
    for precision in ("nvfp4", "fp8"):
        family = low(sparse, tmp_path / precision, precision, COMPRESSED)
        slice_checkpoint(family, tmp_path / f"{precision}-cut", member="few")
        text = card(tmp_path / f"{precision}-cut")
        assert ("AutoModelForCausalLM" in text) == (precision == "fp8")
        assert "vllm serve" not in text and ("library_name: transformers" in text) == (precision == "fp8")


@pytest.mark.parametrize(("size", "served"), [(512, False), (120, True)])
def test_a_card_serves_where_runs_in_says(size: int, served: bool) -> None:
    """On a CPU vLLM has heads of 512 channels and no kernels for these weights; on a GPU the other way round."""
    parent = replace(PARENT, attention_head_dim=size)
    text = member_card(parent, parent.full, Origin(), "BF16", False, low=STORED["fp8", COMPRESSED])
    assert ("vLLM" in runs_in(parent.full, parent, STORED["fp8", COMPRESSED])) == ("vllm serve" in text) == served
