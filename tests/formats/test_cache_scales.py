# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Scales of a cache in FP8 go along with the layers that a member keeps, in both layouts, and are checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.quant_config import KEY, QUANT_FILE
from nemo_elastic.formats.low_precision import CACHE
from nemo_elastic.formats.schemes import COMPRESSED, MODELOPT
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.verification import verify
from tests.quantize.conftest import PARENT, SMALL, dense  # noqa: F401
from tests.quantize.damage import floats, low, with_json, with_tensors

#: the parent's attention layer, and the place that it has in the small member
MIXER, SMALLS = "backbone.layers.3.mixer.", "backbone.layers.2.mixer."
NAMES = {MODELOPT: ("k_proj.k_scale", "v_proj.v_scale"), COMPRESSED: ("k_scale", "v_scale")}


def cached(dense: Path, place: Path, layout: str, *values: Tensor) -> Path:  # noqa: F811
    """A family in FP8 with scales of its cache."""
    given = values or (floats(0.5), floats(0.25))
    family = low(dense, place / "low", "fp8", layout)

    def add(tensors: dict[str, Tensor]) -> None:
        tensors.update({MIXER + name: raw for name, raw in zip(NAMES[layout], given, strict=True)})

    return with_tensors(family, place / "family", add)


@pytest.mark.parametrize("layout", NAMES)
def test_they_go_along_with_their_layer(layout: str, dense: Path, tmp_path: Path) -> None:  # noqa: F811
    family = cached(dense, tmp_path, layout)
    assert [layer.index for layer in SMALL.layers] == [0, 1, 3, 4, 5, 6]
    slice_checkpoint(family, tmp_path / "cut", member="small")
    cut = open_source(tmp_path / "cut")
    assert {n: float(t.numpy()) for n, t in cut.tensors.items() if n.endswith(CACHE)} == {
        SMALLS + name: value for name, value in zip(NAMES[layout], (0.5, 0.25), strict=True)
    }
    said = cut.config[KEY]["kv_cache_scheme"]
    assert (said["num_bits"], said["type"]) == (8, "float")
    if layout == MODELOPT:
        file = json.loads((tmp_path / "cut" / QUANT_FILE).read_text())
        assert file["quantization"]["kv_cache_quant_algo"] == "FP8"
    checks = verify(tmp_path / "cut", parent=family).checks
    assert all(check.ok is not False for check in checks), [c for c in checks if c.ok is False]
    slice_checkpoint(family, tmp_path / "bare", subnet=PARENT.uniform([0, 1, 2]))
    assert not [name for name in open_source(tmp_path / "bare").tensors if name.endswith(CACHE)]
    load_family(family).select("small")  # it keeps its cache as it is


def test_a_member_with_another_scale_is_no_cut(dense: Path, tmp_path: Path) -> None:  # noqa: F811
    family = cached(dense, tmp_path, MODELOPT)
    slice_checkpoint(family, tmp_path / "cut", member="small")
    other = with_tensors(
        tmp_path / "cut", tmp_path / "other", lambda t: t.update({SMALLS + NAMES[MODELOPT][0]: floats(1)})
    )
    failed = [check.name for check in verify(other, parent=family).checks if check.ok is False]
    assert "cut of the parent" in failed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((floats(0.0), floats(1.0)), "is no positive number"),
        ((floats(float("nan")), floats(1.0)), "is no positive number"),
        ((floats(1.0, 2.0, shape=(2,)), floats(1.0)), r"shape \[2\], not one number"),
    ],
)
def test_wrong_ones_are_one_line(values: tuple[Tensor, Tensor], message: str, dense: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(ElasticError, match=message):
        open_source(cached(dense, tmp_path, MODELOPT, *values))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kv_cache_quant_algo", "NVFP4"),
        ("kv_cache_scheme", {"num_bits": 4, "type": "float"}),
        ("kv_cache_scheme", "x"),
    ],
)
def test_another_precision_is_refused(key: str, value: Any, dense: Path, tmp_path: Path) -> None:  # noqa: F811
    family = cached(dense, tmp_path, MODELOPT)
    damaged = with_json(family, tmp_path / "bad", "config.json", lambda config: config[KEY].update({key: value}))
    with pytest.raises(
        ElasticError, match=rf"quantization_config.{key}: .* is not allowed; .* or null: others cannot"
    ):
        open_source(damaged)


def test_a_folder_without_low_precision_has_none(dense: Path, tmp_path: Path) -> None:  # noqa: F811
    odd = with_tensors(dense, tmp_path / "odd", lambda t: t.update({MIXER + "k_scale": floats(1.0)}))
    with pytest.raises(ElasticError, match="k_scale' is no part of this model"):
        open_source(odd)
