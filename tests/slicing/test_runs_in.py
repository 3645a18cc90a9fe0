# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Where members run: the rows of the table in docs/deploy.md."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_elastic.core.family import Subnet
from nemo_elastic.slicing.runs_in import runs_in
from tests.shapes import PARENT

TWO = replace(PARENT, pattern="M-M*-*", attention_head_dim=32)


@pytest.mark.parametrize(
    ("member", "line"),
    [
        (TWO.full, "transformers, vLLM, NeMo"),
        (TWO.uniform([0, 1, 3], hidden=8), "transformers, vLLM, NeMo"),
        (
            Subnet(16, (TWO.layer(1, ffn=8), TWO.layer(3), TWO.layer(4))),
            "transformers (its own code), vLLM (its own code)",
        ),
        (
            Subnet(16, (TWO.layer(3, attention_heads=2), TWO.layer(5, attention_heads=4))),
            "transformers (its own code), vLLM (its own code)",
        ),
        (Subnet(16, (TWO.layer(0, mamba_heads=4), TWO.layer(2), TWO.layer(3))), "transformers (its own code)"),
        (TWO.uniform([0, 1, 2, 4]), "transformers (no cache, so slow), vLLM, NeMo"),
        (
            Subnet(16, (TWO.layer(0, mamba_heads=4), TWO.layer(2))),
            "transformers (its own code; no cache, so slow)",
        ),
    ],
)
def test_a_member_runs_where_the_page_says(member: Subnet, line: str) -> None:
    assert runs_in(member.validate(TWO), TWO) == line


@pytest.mark.parametrize(("heads", "size", "converted"), [(8, 16, True), (4, 16, True), (8, 12, False), (4, 8, False)])
def test_llama_cpp_takes_whole_64s_of_the_mamba_inner_size(heads: int, size: int, converted: bool) -> None:
    """As its converter asserts, and a tokenizer is never promised: no shape says which one a family has."""
    wide = replace(TWO, mamba_heads=8, mamba_head_dim=16)
    member = wide.uniform(mamba_heads=heads, mamba_head_dim=size)
    told = "llama.cpp (a tokenizer that its converter knows), " if converted else ""
    assert runs_in(member, wide) == f"transformers, vLLM, {told}NeMo"


@pytest.mark.parametrize(
    ("size", "told"),
    [(48, "vLLM, "), (128, "vLLM, "), (8, "vLLM (on a GPU), "), (120, "vLLM (on a GPU), "), (512, "vLLM (on a CPU), "),
     (4, ""), (257, ""), (264, "")],
)  # fmt: skip
def test_vllm_is_told_where_it_has_attention_of_that_size(size: int, told: str) -> None:
    parent = replace(TWO, attention_head_dim=size)
    assert runs_in(parent.full, parent) == f"transformers, {told}NeMo"
    without = parent.uniform([0, 1, 2, 4])
    assert "vLLM, NeMo" in runs_in(without, parent), "it has no attention"
