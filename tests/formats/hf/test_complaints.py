# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What users report of pruned and converted Nemotron-H elsewhere: a table of such exports by us, which load.

Every export is loaded by transformers, computes what our own model computes, and is read as transformers saves it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from nemo_elastic.core.family import Subnet
from nemo_elastic.core.layout import is_exact
from nemo_elastic.formats.folders import open_source
from nemo_elastic.io.read import read_json
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.slicing.cutting import without_mtp
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.formats.hf.hf_client import Worker, worker
from tests.ranking.test_sorting import unstriped
from tests.shapes import MOE
from tests.slicing.helpers import large_biases, random_values, write
from tests.slicing.test_experts import mtp_of
from tests.slicing.test_prediction import valued

pytestmark = [pytest.mark.hf, pytest.mark.nemo]
PARENT = unstriped(MOE)
#: smaller on every axis of Nemotron 3
SMALL = PARENT.uniform([0, 1, 3, 4], hidden=12, mamba_heads=4, experts=6, expert_ffn=8, shared_ffn=12)
TOKENS = np.random.default_rng(0).integers(PARENT.vocab, size=(2, 23))
BIAS = "mixer.gate.e_score_correction_bias"


@dataclass(frozen=True)
class Complaint:
    """One report.

    Attributes:
        where: it stands.
        export: writes a folder of the kind into a new one, and gives its path.
        holds: of that folder, beside what holds of every one.
    """

    where: str
    export: Callable[[Path], Path]
    holds: Callable[[Path, Worker], None]


def source(place: Path) -> Path:
    """A parent of small numbers with layers that predict further tokens."""
    return valued(place / "parent", PARENT)


def marked_stages(place: Path) -> Path:
    """A pattern as today's megatron-core writes it: stages, and behind them the layers that predict."""
    slice_checkpoint(source(place), place / "megatron", subnet=PARENT.full, format="megatron")
    file = place / "megatron" / "release" / "run_config.yaml"
    config = yaml.safe_load(file.read_text())
    config["model"] |= {"hybrid_layer_pattern": "ME|M*|E/*E", "mtp_hybrid_override_pattern": None}
    file.write_text(yaml.safe_dump(config))
    slice_checkpoint(place / "megatron", place / "out", subnet=SMALL)
    return place / "out"


def plain_pattern(folder: Path, _: Worker) -> None:
    config = read_json(folder / "config.json")
    assert (config["hybrid_override_pattern"], config["mtp_hybrid_override_pattern"]) == (SMALL.pattern, "*E")
    assert config["num_nextn_predict_layers"] == 1 and mtp_of(folder)


def cut(member: Subnet, **options: object) -> Callable[[Path], Path]:
    return lambda place: slice_checkpoint(source(place), place / "out", subnet=member, **options).out  # pyright: ignore


def predicts(folder: Path, _: Worker) -> None:
    own, whole = mtp_of(folder), mtp_of(folder.parent / "parent")
    assert own["mtp.layers.1.mixer.gate.weight"].shape == (6, 12)
    bias = f"mtp.layers.1.{BIAS}"
    np.testing.assert_array_equal(own[bias].words, whole[bias].words[:6])


def predicts_nothing(folder: Path, _: Worker) -> None:
    assert not mtp_of(folder)
    assert not [name for name in read_json(folder / "config.json") if name.startswith("mtp_") or "nextn" in name]


def half(place: Path) -> Path:
    """Biases that bfloat16 would round by more than they differ."""
    write(place / "parent", PARENT, {"small": SMALL}, tensors=large_biases(random_values(PARENT)))
    return slice_checkpoint(place / "parent", place / "out", member="small", dtype="bf16").out


def whole_biases(folder: Path, hf: Worker) -> None:
    for name, tensor in open_source(folder).tensors.items():
        assert tensor.dtype == ("F32" if is_exact(name) else "BF16"), name
    biases = [dtype for name, dtype in hf.ask("dtypes", folder=str(folder)).items() if name.endswith(BIAS)]
    assert biases == ["float32"] * SMALL.pattern.count("E")


COMPLAINTS = {
    "a pattern with | and / in config.json": Complaint(
        "NVIDIA-NeMo/Megatron-Bridge#4107, NVIDIA/Model-Optimizer#2061", marked_stages, plain_pattern
    ),
    "layers that predict are lost": Complaint("NVIDIA/Model-Optimizer#1494", cut(SMALL), predicts),
    "layers that predict are said to be there and are not": Complaint(
        "NVIDIA/Model-Optimizer#2159", cut(SMALL, prediction=False), predicts_nothing
    ),
    "biases of experts are rounded": Complaint("NVIDIA-NeMo/Automodel#2553", half, whole_biases),
}


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    with worker(tmp_path_factory.mktemp("complaints")) as running:
        yield running


@pytest.mark.parametrize("name", COMPLAINTS)
def test_what_others_are_reported_for(hf: Worker, tmp_path: Path, name: str) -> None:
    complaint = COMPLAINTS[name]
    folder = complaint.export(tmp_path)
    theirs, report = hf.arrays("run", TOKENS, folder=str(folder), thorough=True)
    source = without_mtp(open_source(folder))
    kind = "NemotronHForCausalLM" if source.subnet.is_uniform else "NemotronHPuzzleForCausalLM"
    assert report == {"class": kind, "loading": {}, "same shapes when made anew": True, "finite": True}
    state = {key: torch.from_numpy(raw.numpy()).float() for key, raw in source.tensors.items()}
    ours = NemotronH(source.parent, state, source.subnet, trainable=False)(torch.from_numpy(TOKENS)).numpy()
    np.testing.assert_allclose(theirs["logits"], ours, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(theirs["grown"], theirs["again"])
    saved = open_source(folder.with_name(f"{folder.name}.saved"))
    assert saved.subnet.pattern == source.subnet.pattern
    assert all(np.array_equal(saved.tensors[key].numpy(), raw.numpy()) for key, raw in source.tensors.items())
    complaint.holds(folder, hf)
