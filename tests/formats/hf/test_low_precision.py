# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Folders in low precision in stock transformers: what loads computes what our runtime does, or is known not to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nemo_elastic.formats.schemes import COMPRESSED
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.quantize.conftest import PARENT, family_of
from tests.quantize.damage import low, with_json
from tests.quantize.loads import (
    CASES,
    DENSE,
    MEMBERS,
    NOISE,
    RUNS,
    SPARSE,
    TOKENS,
    WRONG,
    Case,
    logits_of,
    write_member,
)

from .hf_client import Worker, worker

pytestmark = pytest.mark.hf
#: in blocks of 16 in each stripe
UNEVEN = {1: {"ffn": 128}, 5: {"mamba_heads": 8}}
KINDS = {"w4a16": ("nvfp4", False), "nvfp4": ("nvfp4", True), "fp8": ("fp8", True), "dynamic": ("fp8", False)}


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with worker(tmp_path_factory.mktemp("worker")) as running:
        yield running


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("families")
    return {model: family_of(place / model, parent, {"small": m}) for model, (parent, m) in MEMBERS.items()}


def weights_only(config: dict) -> None:
    """Rounded inputs differ wherever two programs round to either side of a half: that says little of weights."""
    for group in config["quantization_config"]["config_groups"].values():
        group["input_activations"] = None


def off(talk: Worker, folder: Path, wanted: Path) -> tuple[float, dict]:
    """By how much transformers' logits of a folder differ from ours of another, a share; what it says of loading."""
    arrays, report = talk.arrays("run", TOKENS, folder=str(folder), dtype="bfloat16")
    ours = logits_of(wanted)
    return float((torch.from_numpy(arrays["logits"][0]) - ours).norm() / ours.norm()), report["loading"]


@pytest.mark.parametrize("member", ["full", "small"])
@pytest.mark.parametrize(
    ("model", "kind"), [*((DENSE, kind) for kind in KINDS), *((SPARSE, kind) for kind in ("fp8", "dynamic"))]
)
def test_weights_are_those_of_our_runtime(
    model: str, kind: str, member: str, families: dict[str, Path], talk: Worker, tmp_path: Path
) -> None:
    precision, scaled = KINDS[kind]
    low(families[model], tmp_path / "low", precision, COMPRESSED, scaled)
    slice_checkpoint(tmp_path / "low", tmp_path / "cut", member=member)
    copied = with_json(tmp_path / "cut", tmp_path / "copied", "config.json", weights_only)
    differ, loading = off(talk, copied, tmp_path / "cut")
    assert differ < NOISE["w4a16"]
    # scales of inputs alone are left over, of which the copy says nothing
    left = {name.rpartition(".")[2] for name in loading.pop("unexpected_keys", [])}
    assert (
        left == ({"input_scale" if precision == "fp8" else "input_global_scale"} if scaled else set()) and not loading
    )


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[] if c.transformers in (RUNS, WRONG) else pytest.mark.long) for c in CASES],
    ids=str,
)
def test_a_folder_computes_what_our_runtime_does_or_is_known_not_to(case: Case, talk: Worker, tmp_path: Path) -> None:
    """Inputs are rounded a little: a scale that was its inverse would cut every one.

    Cards name transformers for none of those that load and are wrong; a version that reads them fails here.
    """
    folder = write_member(tmp_path, case)
    if case.transformers not in (RUNS, WRONG):
        with worker(tmp_path) as own, pytest.raises(AssertionError, match=case.transformers):  # its process ends
            off(own, folder, folder)
        return
    differ, loading = off(talk, folder, folder)
    if case.transformers == WRONG:
        assert differ > NOISE[case.to]
    else:
        assert (differ > 0.01) == (case.to != "w4a16") and differ < NOISE[case.to]
        assert case.model == SPARSE or not loading, "it reads no scales of the inputs of experts"


@pytest.mark.parametrize("kind", ["w4a16", "fp8"])
def test_layers_that_differ_in_width(kind: str, families: dict[str, Path], talk: Worker, tmp_path: Path) -> None:
    """Their folder brings code of its own; codes are read there, too."""
    uneven = replace(PARENT.full, layers=tuple(PARENT.layer(i, **UNEVEN.get(i, {})) for i in range(7)))
    low(families[DENSE], tmp_path / "low", *KINDS[kind][:1], COMPRESSED, KINDS[kind][1])
    slice_checkpoint(tmp_path / "low", tmp_path / "cut", subnet=uneven)
    copied = with_json(tmp_path / "cut", tmp_path / "copied", "config.json", weights_only)
    assert (copied / "modeling_nemotron_h_puzzle.py").exists()
    assert off(talk, copied, tmp_path / "cut")[0] < NOISE["w4a16"]
