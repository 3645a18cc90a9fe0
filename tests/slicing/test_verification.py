# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Verify finds what is wrong, and nothing where all is well."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_elastic.core import layout
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.prefix import Grid, Selection
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checksums import CHECKSUMS_FILE
from nemo_elastic.formats.hf.reading import open_shard
from nemo_elastic.formats.hf.writing import SINGLE
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.nn.weights import random_state
from nemo_elastic.ranking import Ranking, sort
from nemo_elastic.slicing import verification as module
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.verification import not_finite, verify
from tests.shapes import PARENT

SMALL = PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4, mamba_head_dim=2, attention_heads=2)
TINY = PARENT.uniform([0, 3], hidden=4, mamba_heads=2, mamba_head_dim=2, attention_heads=2)
UP = "backbone.layers.1.mixer.up_proj.weight"


def make(out, parent=PARENT, dtype=torch.float32, state=None):
    state = state or random_state(parent, parent.full, 0, dtype=dtype)
    return write_family(out, parent, state, Family.of(parent, {"big": parent.full, "mid": SMALL, "low": TINY}))


@pytest.fixture
def family(tmp_path):
    return make(tmp_path / "family")


def change(folder, name, at, value):
    state = load_file(folder / "model.safetensors")
    state[name][at] = value
    save_file(state, folder / "model.safetensors")


def failed(report):
    return [check.name for check in report.checks if check.ok is False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_is_well(tmp_path, dtype):
    report = verify(make(tmp_path / "family", dtype=dtype))
    assert report.ok and [check.name for check in report.checks] == [
        "tensors", "big: counts", "mid: counts", "low: counts", "mid: nested", "low: nested", "config", "files",
        "finite", "checksums",
        "logits", "big: cut = masked", "mid: cut = masked", "low: cut = masked",
    ]  # fmt: skip
    assert all(check.ok for check in report.checks)
    data = report.to_json()
    assert data["ok"] is True and data["checks"][1]["figure"].startswith("6,404 in 32 tensors")


def test_a_tied_family(tmp_path):
    assert verify(make(tmp_path / "family", replace(PARENT, tied=True))).ok


def test_a_member_alone(family, tmp_path):
    slice_checkpoint(family, tmp_path / "mid", member="mid")
    report = verify(tmp_path / "mid")
    assert report.ok and report.checks[-1].ok is None and "whole parent" in report.checks[-1].figure
    assert [check.name for check in report.checks][:2] == ["tensors", "mid: counts"]


def test_a_member_beside_its_family(family, tmp_path):
    slice_checkpoint(family, tmp_path / "mid", member="mid")
    slice_checkpoint(tmp_path / "mid", tmp_path / "low", subnet=TINY)
    for name in ("mid", "low"):
        report = verify(tmp_path / name, parent=family)
        assert report.ok and all(check.ok for check in report.checks)
        assert [check.name for check in report.checks][-3:] == ["cut of the parent", "logits", "cut = masked"]
    other = make(tmp_path / "other", state=random_state(PARENT, PARENT.full, seed=1))
    assert failed(verify(tmp_path / "mid", parent=other)) == ["cut of the parent", "cut = masked"]
    assert failed(verify(tmp_path / "mid", parent=other, forward=False)) == ["cut of the parent"]
    with pytest.raises(ElasticError, match="another shape than the parent"):
        verify(tmp_path / "mid", parent=tmp_path / "low")


def flip(folder: Path, at: int, bit: int = 3) -> str:
    """Flip one bit of the weights, counted from the first tensor's first byte; give the tensor's name."""
    path = folder / SINGLE
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + at] ^= 1 << bit
    path.write_bytes(content)
    shard = open_shard(path)
    return next(n for n, raw in shard.items() if raw.extent and raw.extent.start <= start + at < raw.extent.stop)


def test_a_flipped_bit_is_found_wherever_it_is(family):
    """The first bit of each tensor, its last, and one between them."""
    rng, size = random.Random(0), 8 + int.from_bytes((family / SINGLE).read_bytes()[:8], "little")
    for i, tensor in enumerate(open_shard(family / SINGLE).values()):
        assert tensor.extent is not None
        first, last = tensor.extent.start - size, tensor.extent.stop - size - 1
        at = (first, last, rng.randint(first, last))[i % 3]
        name = flip(family, at, i % 8)
        checks = {check.name: check for check in verify(family, forward=False).checks}
        assert checks["checksums"].figure == f"1 tensors differ from the written ones, the first is {name}"
        flip(family, at, i % 8)
    assert verify(family, forward=False).ok


def test_checksums_are_those_that_anybody_would_compute(family, tmp_path):
    slice_checkpoint(family, tmp_path / "mid", member="mid")
    for folder in (family, tmp_path / "mid"):
        content = json.loads((folder / CHECKSUMS_FILE).read_text())
        assert content["algorithm"] == "crc32"
        tensors = open_shard(folder / SINGLE)
        assert content["tensors"] == {n: f"{zlib.crc32(t.words.tobytes()):08x}" for n, t in sorted(tensors.items())}
        digests = content["files"]
        assert set(digests) == {"config.json", "generation_config.json"}
        assert all(hashlib.sha256((folder / n).read_bytes()).hexdigest() == digest for n, digest in digests.items())


def test_checksums_that_lack_a_tensor_or_are_none(family):
    data = json.loads((family / CHECKSUMS_FILE).read_text())
    del data["tensors"]["backbone.norm_f.weight"]
    (family / CHECKSUMS_FILE).write_text(json.dumps(data))
    report = verify(family, forward=False)
    assert failed(report) == ["checksums"] and "backbone.norm_f.weight" in report.checks[-2].figure
    (family / CHECKSUMS_FILE).unlink()
    report = verify(family, forward=False)
    assert report.ok and report.checks[-2].ok is None and CHECKSUMS_FILE in report.checks[-2].figure
    for text, message in (
        ("[]", "a mapping with algorithm, tensors, files"),
        ('{"algorithm": "crc32", "tensors": {"a": "12"}, "files": {}}', "8 hexadecimal digits"),
    ):
        (family / CHECKSUMS_FILE).write_text(text)
        with pytest.raises(ElasticError, match=message) as caught:
            verify(family, forward=False)
        assert str(family / CHECKSUMS_FILE) in caught.value.message


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(family, value):
    change(family, UP, (3, slice(2)), value)
    report = verify(family, forward=False)
    assert failed(report) == ["finite", "checksums"]
    assert report.checks[-3].figure == f"2 values are not finite, the first in {UP}"
    assert report.checks[-1].figure == "skipped: not asked for"
    assert verify(family).checks[-1].figure == "skipped: values are not finite"


def test_the_parent_must_compute_the_same(family, tmp_path):
    slice_checkpoint(family, tmp_path / "same", member="big")
    report = verify(family, parent=tmp_path / "same")
    assert report.ok and "full = parent" in [check.name for check in report.checks]
    change(tmp_path / "same", UP, (0, 0), 5.0)
    assert failed(verify(family, parent=tmp_path / "same")) == ["full = parent"]
    slice_checkpoint(family, tmp_path / "mid", member="mid")
    with pytest.raises(ElasticError, match="another shape than the parent"):
        verify(family, parent=tmp_path / "mid")


def test_a_sorted_parent_computes_the_same(tmp_path):
    state = random_state(PARENT, PARENT.full)
    plain = make(tmp_path / "plain", state=state)
    trivial = Ranking.trivial(PARENT)
    orders = {
        n: o if "heads" in n else np.random.default_rng(0).permutation(len(o)) for n, o in trivial.orders.items()
    }
    made = make(tmp_path / "sorted", state=sort(state, replace(trivial, orders=orders), PARENT))
    report = verify(made, parent=plain)
    assert report.ok
    assert not verify(made, parent=make(tmp_path / "other", state=random_state(PARENT, PARENT.full, seed=1))).ok


def test_a_cut_of_other_channels_is_found(family, monkeypatch):
    """Were members cut as plain prefixes instead of block by block, two checks would tell."""
    right = layout.selection

    def plain_prefix(parent, row, dim, source, target, index=None):
        s = right(parent, row, dim, source, target, index)
        return Selection((Grid((s.size,), (s.kept_size,)),))

    monkeypatch.setattr(layout, "selection", plain_prefix)
    report = verify(family)
    assert failed(report) == ["mid: cut = masked", "low: cut = masked"]

    def last(parent, row, dim, source, target, index=None):
        """The right number of channels from the other end: not the same by way of a larger member."""
        s = right(parent, row, dim, source, target, index)
        kept = np.arange(s.size - s.kept_size, s.size) if source == PARENT.full else np.arange(s.kept_size)
        out = Selection(s.parts, s.outer)
        out.__dict__.update(indices=kept)
        return out

    monkeypatch.setattr(layout, "selection", last)
    assert "mid: nested" not in failed(verify(family, forward=False))  # from the whole it is the same either way
    assert "low: nested" in failed(verify(family, forward=False))


def test_a_count_that_does_not_agree(family, monkeypatch):
    right = module.parameters
    monkeypatch.setattr(module, "parameters", lambda parent, member: right(parent, member) + (member == SMALL))
    assert failed(verify(family, forward=False)) == ["mid: counts"]


def test_large_models_run_only_when_asked_for(family, monkeypatch):
    monkeypatch.setattr(module, "FORWARD_LIMIT", 10)
    report = verify(family)
    assert report.ok and "6,404 parameters would be in memory twice" in report.checks[-1].figure
    assert verify(family, forward=True).checks[-1].name == "low: cut = masked"


def test_without_torch(family, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    report = verify(family)
    assert report.ok and report.checks[-1].figure == "skipped: torch is not installed"
    with pytest.raises(ElasticError, match="needs torch"):
        verify(family, forward=True)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
)
def test_not_finite_is_what_torch_says(dtype):
    size = dtype.itemsize
    bits = torch.randint(-(2**62), 2**62, (4096,), generator=torch.Generator().manual_seed(0))
    words = {1: bits.to(torch.uint8), 2: bits.to(torch.int16), 4: bits.to(torch.int32), 8: bits}[size]
    tensor = words.view(dtype).clone()
    if size > 2:  # nearly none is at random
        tensor[5:9] = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0], dtype=dtype)
    expected = int((~torch.isfinite(tensor.double())).sum())
    assert expected > 2 and not_finite(Tensor.of(tensor).dtype, Tensor.of(tensor).words) == expected


def test_integers_are_always_finite():
    assert not_finite("I32", np.full(4, -1, np.int32)) == 0
