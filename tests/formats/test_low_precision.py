# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Codes and scales, of weights and of a cache: cut with their layers; refused in one line where they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.quant_config import KEY, QUANT_FILE
from nemo_elastic.formats.hf.writing import SINGLE
from nemo_elastic.formats.low_precision import CACHE, find_quantized, stored_values
from nemo_elastic.formats.schemes import COMPRESSED, LAYOUTS, MODELOPT
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.verification import verify
from tests.quantize.conftest import PARENT, SMALL
from tests.quantize.damage import Tensors, floats, low, with_json, with_tensors, word

of = Tensor.of_words
UP = "backbone.layers.1.mixer.up_proj."
Folder = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def folder(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    place, made = tmp_path_factory.mktemp("low"), dict[tuple[str, str], Path]()

    def of(precision: str, layout: str) -> Path:
        if (precision, layout) not in made:
            made[precision, layout] = low(dense, place / f"{precision}-{layout}", precision, layout)
        return made[precision, layout]

    return of


def put(name: str, value: Tensor | None) -> Callable[[Tensors], object]:
    """Put another tensor in its place, or none."""
    return lambda tensors: tensors.pop(UP + name) if value is None else tensors.update({UP + name: value})


def changed(name: str, value: int) -> Callable[[Tensors], object]:
    """Another word in one place."""
    return lambda tensors: tensors.update({UP + name: word(tensors[UP + name], (3, 1), value)})


CASES: list[tuple[str, str, Callable[[Tensors], object], str]] = [
    # scales of a whole weight
    *(
        (p, x, put(name, value), f"'{{}}{name}' is a scale that is not a positive")
        for p, x, name, value in (
            ("nvfp4", MODELOPT, "weight_scale_2", floats(0.0)), ("nvfp4", MODELOPT, "weight_scale_2", floats(np.nan)),
            ("nvfp4", MODELOPT, "input_scale", of("BF16", np.zeros((), "<u2"))),
            ("fp8", MODELOPT, "weight_scale", floats(1e36)),
            ("nvfp4", COMPRESSED, "weight_global_scale", floats(5e-36, shape=(1,))),
            ("fp8", COMPRESSED, "weight_scale", floats(*[1.0] * 255, -1.0, shape=(256, 1))),
        )
    ),
    # missing
    ("nvfp4", MODELOPT, put("weight_scale", None), "codes of nvfp4 need the scale '{}weight_scale', which is missing"),
    ("nvfp4", MODELOPT, put("input_scale", None),
     "{}weight is nvfp4 without a scale of its inputs, but quantization_config says nvfp4 with a scale"),
    # codes
    ("nvfp4", MODELOPT, put("weight", None), "'{}input_scale' has no codes"),
    ("nvfp4", COMPRESSED, put("weight", of("BF16", np.zeros((256, 64), np.uint16))),
     "tensors '{}weight' and '{}weight_packed' have the same weight"),
    ("nvfp4", MODELOPT, put("weight", of("U8", np.zeros((256, 31), np.uint8))),
     "'{}weight' has shape [256, 31], not [256, 32]"),
    # of another shape or dtype
    ("nvfp4", MODELOPT, put("weight_scale", of("F32", np.ones((256, 4), np.uint32))),
     "'{}weight_scale' has dtype 'F32'; nvfp4 has F8_E4M3"),
    ("nvfp4", MODELOPT, put("weight_scale_2", floats(1.0, 1.0, shape=(2,))),
     "'{}weight_scale_2' has shape [2], not []"),
    ("fp8", MODELOPT, put("weight_scale", floats(*[1.0] * 256, shape=(256, 1))),
     "'{}weight_scale' has shape [256, 1], not []"),
    # of others
    ("fp8", MODELOPT, put("k_scale", floats(1.0)), "tensor '{}k_scale' is no part of this model"),
]  # fmt: skip


@pytest.mark.parametrize(("precision", "layout", "change", "says"), CASES, ids=range(len(CASES)))
def test_what_does_not_fit_is_refused(
    precision: str, layout: str, change: Callable[[Tensors], object], says: str, folder: Folder, tmp_path: Path
) -> None:
    broken = with_tensors(folder(precision, layout), tmp_path / "broken", change)
    with pytest.raises(ElasticError) as refused:
        open_source(broken)
    line = str(refused.value)
    assert line.startswith(f"{broken}: ") and says.replace("{}", UP) in line and "\n" not in line


@pytest.mark.parametrize(
    ("precision", "name", "value"), [("fp8", "weight", 0xFF), ("nvfp4", "weight_scale", 0xB8)], ids=["fp8", "nvfp4"]
)
def test_codes_and_scales_of_blocks_that_are_no_numbers(
    precision: str, name: str, value: int, folder: Folder, tmp_path: Path
) -> None:
    """They are not read when a folder is opened; who computes with them, or asks `verify`, hears of them."""
    broken = with_tensors(folder(precision, COMPRESSED), tmp_path / "broken", changed(name, value))
    with pytest.raises(ElasticError, match=f"^{broken}: {UP}weight: 1 "):
        load_family(broken)
    report = {check.name: check for check in verify(broken, forward=False).checks}
    assert report["finite"].ok is False and f"the first in {UP}{name}" in report["finite"].figure
    for scale in (0x80, 0x7E):  # zero, as ModelOpt 0.37 writes for blocks of tiny numbers, and the largest
        load_family(with_tensors(folder("nvfp4", MODELOPT), tmp_path / "whole", changed("weight_scale", scale)))


def test_columns_that_are_no_blocks() -> None:
    given = {"a.weight": of("U8", np.ones((4, 20), np.uint8)), "a.weight_scale_2": floats(1.0)}
    given["a.weight_scale"] = of("F8_E4M3", np.full((4, 2), 0x38, np.uint8))
    for shape, words in ((4, 40), "not whole blocks of 16"), ((160,), "only matrices"):
        with pytest.raises(ElasticError, match=words):
            find_quantized(given, {"a.weight": shape}, MODELOPT)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scales_of_the_forms_that_are_read(layout: str) -> None:
    """One element is one element, however many dimensions it has; rows have scales in compressed-tensors alone."""
    codes = of("F8_E4M3", np.full((2, 16), 0x38, np.uint8))  # ones
    shapes: list[tuple[int, ...]] = [(), (1,), (1, 1), *([(2, 1)] if layout == COMPRESSED else [])]
    for shape in shapes:
        values = (0.5,) * (2 if shape == (2, 1) else 1)
        given = {"a.weight": codes, "a.weight_scale": floats(*values, shape=shape)}
        (stored,) = find_quantized(given, {"a.weight": (2, 16)}, layout).values()
        parts = {name.removeprefix("a."): t for name, t in given.items()}
        assert torch.equal(stored_values(stored, parts, torch.float32), torch.full((2, 16), 0.5))
        assert stored.by_row == (shape == (2, 1))


def test_a_cut_of_scales_by_rows_has_the_scales_of_its_rows(folder: Folder, tmp_path: Path) -> None:
    """As llm-compressor writes FP8 by channels: the member says so, too, and computes with them."""

    def by_rows(tensors: Tensors) -> None:
        for name in [n for n in tensors if n.endswith(".weight_scale")]:
            rows = tensors[name.removesuffix("_scale")].shape[0]
            tensors[name] = floats(*np.linspace(0.01, 0.02, rows), shape=(rows, 1))

    whole = with_tensors(folder("fp8", COMPRESSED), tmp_path / "whole", by_rows)
    slice_checkpoint(whole, tmp_path / "cut", member="small")
    cut = open_source(tmp_path / "cut")
    groups: Any = cut.config["quantization_config"]["config_groups"]
    assert [group["weights"]["strategy"] for group in groups.values()] == ["channel"]
    tokens_bl = torch.arange(24)[None] * 5 % 96
    inside = load_family(whole, dtype=torch.float32).select("small")(tokens_bl)
    torch.testing.assert_close(load_family(tmp_path / "cut", dtype=torch.float32).select()(tokens_bl), inside)
    assert cut.subnet == SMALL and (tmp_path / "cut" / SINGLE).exists()


# ------------------------------------------------------------------ scales of a cache in FP8

#: the parent's attention layer, and the place that it has in the small member
MIXER, SMALLS = "backbone.layers.3.mixer.", "backbone.layers.2.mixer."
NAMES = {MODELOPT: ("k_proj.k_scale", "v_proj.v_scale"), COMPRESSED: ("k_scale", "v_scale")}


def cached(dense: Path, place: Path, layout: str, *values: Tensor) -> Path:
    """A family in FP8 with scales of its cache."""
    given = values or (floats(0.5), floats(0.25))
    family = low(dense, place / "low", "fp8", layout)

    def add(tensors: dict[str, Tensor]) -> None:
        tensors.update({MIXER + name: raw for name, raw in zip(NAMES[layout], given, strict=True)})

    return with_tensors(family, place / "family", add)


@pytest.mark.parametrize("layout", NAMES)
def test_scales_of_a_cache_go_along_with_their_layer(layout: str, dense: Path, tmp_path: Path) -> None:
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


def test_wrong_scales_of_a_cache(dense: Path, tmp_path: Path) -> None:
    for number, first in enumerate((floats(0.0), floats(1.0, 2.0, shape=(2,)))):
        with pytest.raises(ElasticError, match=r"k_proj\.k_scale"):
            open_source(cached(dense, tmp_path / str(number), MODELOPT, first, floats(1.0)))


@pytest.mark.parametrize(
    ("key", "value"),
    [("kv_cache_quant_algo", "NVFP4"), ("kv_cache_scheme", {"num_bits": 4, "type": "float"})],
)
def test_a_cache_in_another_precision_is_refused(key: str, value: Any, dense: Path, tmp_path: Path) -> None:
    family = cached(dense, tmp_path, MODELOPT)
    damaged = with_json(family, tmp_path / "bad", "config.json", lambda config: config[KEY].update({key: value}))
    with pytest.raises(
        ElasticError, match=rf"quantization_config.{key}: .* is not allowed; .* or null: others cannot"
    ):
        open_source(damaged)
