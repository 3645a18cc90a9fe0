# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What we write loads in stock transformers and computes what our own model computes.

transformers 5 lives in an environment of its own; the variable NEMO_ELASTIC_HF_PYTHON names its python. All folders go
through one process, because importing transformers takes longer than running them.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_elastic.export.family_folder import write_family
from nemo_elastic.export.hf import open_source
from nemo_elastic.export.slicer import slice_checkpoint
from nemo_elastic.family import Layer, Parent, Subnet
from nemo_elastic.manifest import Family
from nemo_elastic.nn.model import NemotronH
from nemo_elastic.nn.weights import random_state
from tests.shapes import PARENT

pytestmark = pytest.mark.hf
ROOT = Path(__file__).parents[2]
WIDE = Parent(
    pattern="M*-M--*M", hidden=24, vocab=40, ffn=20, mamba_heads=6, mamba_head_dim=5, mamba_groups=3, state=6,
    conv_kernel=3, attention_heads=6, kv_heads=2, attention_head_dim=7, ffn_stripes=2,
)  # fmt: skip
TIED = replace(PARENT, tied=True, norm_eps=1e-3)
UNEVEN = Subnet(
    12,
    (
        PARENT.layer(0, heads=4, head_dim=2),
        PARENT.layer(1, ffn=8),
        PARENT.layer(2),
        PARENT.layer(3, heads=2),
        PARENT.layer(4, ffn=12),
    ),
)


@dataclass(frozen=True)
class Case:
    parent: Parent
    member: Subnet
    kind: str = "NemotronHForCausalLM"
    dtype: torch.dtype = torch.float32


PUZZLE = "NemotronHPuzzleForCausalLM"
CASES = {
    "whole": Case(PARENT, PARENT.full),
    "uniform": Case(PARENT, PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4, attention_heads=2)),
    "channels": Case(WIDE, WIDE.uniform(hidden=20, ffn=14, mamba_heads=3, mamba_head_dim=4, attention_heads=2)),
    "depth": Case(WIDE, WIDE.uniform([0, 1, 4, 7])),
    "no attention": Case(WIDE, WIDE.uniform([0, 2, 3], hidden=11)),
    "tied": Case(TIED, TIED.uniform(hidden=9)),
    "bfloat16": Case(WIDE, WIDE.uniform(hidden=16, mamba_heads=3), dtype=torch.bfloat16),
    "ffn per layer": Case(
        WIDE,
        replace(WIDE.full, layers=tuple(replace(x, ffn=x.ffn and 2 + 2 * x.index) for x in WIDE.full.layers)),
        PUZZLE,
    ),
    "heads per layer": Case(PARENT, UNEVEN, PUZZLE),
    "tied per layer": Case(TIED, UNEVEN, PUZZLE),
    "two layers": Case(WIDE, Subnet(7, (Layer(1, "attention", heads=4), Layer(6, "attention", heads=2))), PUZZLE),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Every case's folder after the worker went through it, its logits by our own model, and what the worker told."""
    python = Path(os.environ.get("NEMO_ELASTIC_HF_PYTHON", ".venv-hf/bin/python"))
    python = python if python.is_absolute() else ROOT / python
    assert python.exists(), f"{python} is missing: `make venv` makes it, or set NEMO_ELASTIC_HF_PYTHON"
    place = tmp_path_factory.mktemp("hf")
    tokens = torch.randint(32, (2, 40), generator=torch.Generator().manual_seed(0))
    np.save(place / "tokens.npy", tokens.numpy())
    ours = {}
    for i, (name, case) in enumerate(CASES.items()):
        state = random_state(case.parent, case.parent.full, seed=i, dtype=case.dtype)
        family = write_family(place / f"{name}.family", case.parent, state, Family.of(case.parent, {"c": case.member}))
        slice_checkpoint(family, place / name, subnet=case.member)
        model = NemotronH(case.parent, {n: t.float() for n, t in state.items()}, trainable=False)
        ours[name] = model(tokens, case.member).numpy()
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    extra = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(place / "modules"), "OMP_NUM_THREADS": "1"}
    worker = [str(python), str(Path(__file__).with_name("hf_worker.py")), str(place), *CASES]
    done = subprocess.run(worker, env=clean | extra, cwd=place, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return place, ours, json.loads((place / "told.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_logits_and_decoding(ran, name):
    place, ours, told = ran
    got = np.load(place / f"{name}.npz")
    np.testing.assert_allclose(got["logits"], ours[name], rtol=1e-5, atol=1e-5)
    assert np.abs(ours[name]).max() > 0.5  # nothing to compare otherwise
    np.testing.assert_array_equal(got["grown"], got["again"])
    assert told["models"][name] == {
        "class": CASES[name].kind,
        "loading": {},  # no missing, unexpected or mismatched tensor
        "same shapes when made anew": True,
        "finite": True,
    }


@pytest.mark.parametrize("name", CASES)
def test_what_transformers_saves_is_read_again(ran, name):
    place, _, _ = ran
    ours, theirs = open_source(place / name), open_source(place / f"{name}.saved")
    assert [replace(x, index=i) for i, x in enumerate(ours.held.layers)] == list(theirs.held.layers)
    assert (theirs.held.hidden, theirs.parent.norm_eps) == (ours.held.hidden, ours.parent.norm_eps)
    assert theirs.parent.tied == ours.parent.tied
    for tensor in ours.tensors:
        np.testing.assert_array_equal(theirs.tensors[tensor].numpy(), ours.tensors[tensor].numpy())


def test_transformers_is_as_new_as_we_say(ran):
    version = tuple(map(int, ran[2]["transformers"].split(".")[:2]))
    assert version >= (5, 6)
