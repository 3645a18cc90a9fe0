# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A small family whose widths are blocks of 16, and one of experts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.family_folder import write_family
from tests.slicing.conftest import run as run

PARENT = Parent(
    pattern="M-M*-M-", hidden=64, vocab=320, ffn=256, mamba_heads=16, mamba_head_dim=16, mamba_groups=4, state=8,
    attention_heads=4, kv_heads=2, attention_head_dim=32, ffn_stripes=4,
)  # fmt: skip
SMALL = PARENT.uniform([0, 1, 3, 4, 5, 6], hidden=48, ffn=128, mamba_heads=8, attention_heads=2)
#: its FFN is no blocks of 16 in each stripe
TORN = PARENT.uniform(hidden=48, ffn=144)
EXPERTS = Parent(
    pattern="ME*M", hidden=64, vocab=320, mamba_heads=8, mamba_head_dim=16, mamba_groups=2, state=8, attention_heads=4,
    kv_heads=2, attention_head_dim=32, experts=4, expert_ffn=64, shared_ffn=64, top_k=2, routed_scaling=2.0,
)  # fmt: skip
FEW = EXPERTS.uniform(hidden=32, experts=2, expert_ffn=32, shared_ffn=48, mamba_heads=4)


def family_of(folder: Path, parent: Parent, members: dict[str, Subnet], dtype: str = "bfloat16") -> Path:
    import torch

    family = Family.of(parent, {"full": parent.full} | members)
    return write_family(folder, parent, random_state(parent, parent.full, dtype=getattr(torch, dtype)), family)


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_of(tmp_path_factory.mktemp("dense") / "family", PARENT, {"small": SMALL})


@pytest.fixture(scope="session")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_of(tmp_path_factory.mktemp("sparse") / "family", EXPERTS, {"few": FEW})


@pytest.fixture(scope="session")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_of(tmp_path_factory.mktemp("torn") / "family", replace(PARENT), {"torn": TORN})
