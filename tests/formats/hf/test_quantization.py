# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a folder says of its low precision: written so that it is read the same, and refused where it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_elastic.core import layout
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import Checkpoint, Origin
from nemo_elastic.formats.folders import open_source, read_shapes
from nemo_elastic.formats.hf.quant_config import (
    KEY,
    QUANT_FILE,
    check_described,
    described,
    precision_of,
)
from nemo_elastic.formats.schemes import COMPRESSED, LAYOUTS, MODELOPT, Quantization, scheme_of
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.quantize.writing import quantized_weights
from nemo_elastic.slicing.card import served_as
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.quantize.conftest import PARENT
from tests.quantize.damage import low, with_json

CONFIG = "config.json"
UP = "backbone.layers.1.mixer.up_proj"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def folders(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("low")
    made = {f"{p}-{x}": low(dense, place / f"{p}-{x}", p, x) for p in ("nvfp4", "fp8") for x in LAYOUTS}
    made |= {f"w4a16-{x}": low(dense, place / f"w4a16-{x}", "nvfp4", x, scaled=False) for x in LAYOUTS}
    made[f"dynamic-{COMPRESSED}"] = low(dense, place / "dynamic", "fp8", COMPRESSED, scaled=False)
    return made | {"plain": dense}


def put(at: str, value: Any) -> Change:
    """Put a value in a place of `quantization_config`; $gone takes it away."""

    def change(config: dict[str, Any]) -> None:
        *way, last = at.split("/")
        for part in ("quantization_config", *way) if at else ():
            config = config[part]
        if value == "$gone":
            del config[last]
        else:
            config[last or "quantization_config"] = value

    return change


def mixed(layers: Any) -> Change:
    return lambda config: config["quantization_config"].update(quant_algo="MIXED_PRECISION", quantized_layers=layers)


GROUP = "config_groups/group_0"
IN = "{folder}: backbone.layers.0.mixer.in_proj.weight"
AT = "{folder}/config.json: quantization_config"
M, C = f"nvfp4-{MODELOPT}", f"nvfp4-{COMPRESSED}"
#: folder, change, the field that its line names
CASES: list[tuple[str, Change, str]] = [
    ("plain", put("", {"quant_method": "awq", "bits": 4}), f"{AT}.quant_method: 'awq' is not allowed"),
    ("plain", put("", []), f"{AT}: [] is not allowed; a mapping"),
    (M, put("quant_algo", "INT4_AWQ"), f"{AT}.quant_algo: 'INT4_AWQ' is not allowed"),
    (M, put("group_size", 32), f"{AT}.group_size: 32 is not allowed"),
    # mixed
    (M, mixed(None), f"{AT}.quantized_layers: missing; a mapping of modules"),
    (M, mixed({}), f"{AT}.quantized_layers: {{}} is not allowed; at least one"),
    (M, mixed({UP: {"quant_algo": "MIXED_PRECISION"}}), f"{AT}.quantized_layers.{UP}.quant_algo: 'MIXED_PREC"),
    # another precision than the tensors have
    (M, put("quant_algo", "FP8"), f"{IN} is nvfp4 with a scale of its inputs, but {KEY} says fp8 with"),
    (M, put("quant_algo", "W4A16_NVFP4"), f"{IN} is nvfp4 with a scale of its inputs, but {KEY} says nvfp4 without"),
    ("w4a16-modelopt", put("quant_algo", "NVFP4"), f"{IN} is nvfp4 without a scale of its inputs, but"),
    # compressed-tensors
    (C, put("format", "pack-quantized"), f"{AT}.format: 'pack-quantized' is not allowed; nvfp4"),
    (C, put(f"{GROUP}/format", "mixed-precision"), f"{AT}.config_groups.group_0.format: 'mixed-precision' is not"),
    (C, put("config_groups/group_1", {}), f"{AT}.config_groups: ['group_0', 'group_1'] is not allowed; one group"),
    *(
        (C, put(at, v), f"{AT}.{at.replace('/', '.')}: {'missing' if v is None else repr(v)}")
        for at, v in (
            ("config_groups", None), (f"{GROUP}/weights", None),
            (f"{GROUP}/input_activations", []), (f"{GROUP}/input_activations/dynamic", "global"),
            ("sparsity_config", {"format": "sparse-24-bitmask"}),
        )
    ),
    *(
        (C, put(f"{GROUP}/weights/{key}", v), f"{AT}.config_groups.group_0.weights: ")
        for key, v in (("num_bits", 8), ("symmetric", False), ("dynamic", True), ("actorder", "group"))
    ),
    (C, put(f"{GROUP}/input_activations", None), f"with a scale of its inputs, but {KEY} says nvfp4 without"),
    (f"dynamic-{COMPRESSED}", put(f"{GROUP}/input_activations/dynamic", False), "without a scale of its inputs, but"),
]  # fmt: skip


@pytest.mark.parametrize(("which", "change", "says"), CASES, ids=range(len(CASES)))
def test_what_cannot_be_cut_is_one_line(
    which: str, change: Change, says: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    broken = with_json(folders[which], tmp_path / "broken", CONFIG, change)
    with pytest.raises(ElasticError) as refused:
        open_source(broken)
    line = str(refused.value)
    assert says.replace("{folder}", str(broken)) in line and "\n" not in line


def test_a_group_need_not_repeat_the_format(folders: dict[str, Path], tmp_path: Path) -> None:
    assert open_source(with_json(folders[C], tmp_path / "null", CONFIG, put(f"{GROUP}/format", None))).storage


@pytest.mark.parametrize("alone", [False, True])
def test_modelopts_own_file_must_say_the_same(alone: bool, folders: dict[str, Path], tmp_path: Path) -> None:
    whole = folders[M]
    if alone:  # as ModelOpt wrote it before it wrote into config.json
        whole = with_json(whole, tmp_path / "alone", CONFIG, lambda c: c.pop(KEY))
    changes = (lambda f: f["quantization"].update(quant_algo="FP8"), lambda f: f.clear())
    says = (f"is nvfp4 .*, but {QUANT_FILE} says fp8", f"{QUANT_FILE}: quantization: missing")
    for change, match in zip(changes, says):
        with pytest.raises(ElasticError, match=match):
            open_source(with_json(whole, tmp_path / "broken", QUANT_FILE, change))


def test_modelopts_own_file_alone_is_enough(folders: dict[str, Path], tmp_path: Path) -> None:
    alone = with_json(folders["nvfp4-modelopt"], tmp_path / "alone", CONFIG, lambda c: c.pop(KEY))
    slice_checkpoint(alone, tmp_path / "cut", member="small")
    slice_checkpoint(folders["nvfp4-modelopt"], tmp_path / "wanted", member="small")
    for name in (CONFIG, QUANT_FILE, "model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "wanted" / name).read_bytes()


def test_modelopts_own_file_beside_the_other_layout(folders: dict[str, Path], tmp_path: Path) -> None:
    broken = with_json(folders["fp8-compressed-tensors"], tmp_path / "broken", CONFIG, lambda c: None)
    (broken / QUANT_FILE).write_bytes((folders["fp8-modelopt"] / QUANT_FILE).read_bytes())
    with pytest.raises(ElasticError, match=f"{QUANT_FILE}: is of ModelOpt, but"):
        open_source(broken)


def test_quantised_and_nothing_said_of_it(folders: dict[str, Path], tmp_path: Path) -> None:
    silent = with_json(folders["fp8-modelopt"], tmp_path / "silent", CONFIG, lambda c: c.pop(KEY))
    (silent / QUANT_FILE).unlink()
    with pytest.raises(ElasticError, match=r"tensor 'backbone.layers.0.mixer.in_proj.input_scale' is in low prec"):
        open_source(silent)


def test_what_is_written_is_read_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    """Of every precision and layout, of the family and of a member."""
    for which, folder in folders.items():
        slice_checkpoint(folder, tmp_path / which, member="small")
        for at in (folder, tmp_path / which):
            opened = open_source(at)
            assert bool(opened.storage) == (which != "plain")
            said = precision_of(opened.config)
            assert said == {"w4a16": "nvfp4", "dynamic": "fp8", "plain": None}.get(
                which.split("-")[0], which.split("-")[0]
            )
            assert served_as(read_shapes(at).config).weights == (said or "bf16")


def test_several_precisions_in_one_folder(folders: dict[str, Path]) -> None:
    """ModelOpt names each module; what names them is read again."""
    source = open_source(folders["plain"])
    nvfp4, fp8 = (Quantization(scheme_of(p, MODELOPT), True) for p in ("nvfp4", "fp8"))
    rows = quantized_weights(source, nvfp4.scheme)
    weights = {name: fp8 if row.startswith("mlp") else nvfp4 for name, (row, _) in rows.items()}
    config, file = described(replace(source, storage=weights))
    assert file is not None and precision_of({KEY: config}) is None
    check_described({KEY: config}, folders["plain"], weights)
    with pytest.raises(
        ElasticError, match=f"{next(iter(weights))} is nvfp4 without .* says fp8 with .* or nvfp4 with"
    ):
        check_described({KEY: config}, folders["plain"], dict.fromkeys(weights, Quantization(nvfp4.scheme, False)))


def test_layers_that_predict_more_tokens_stay_as_they_are() -> None:
    """Loaders would take them for quantised layers; those that have scales are."""
    weights = {
        t.hf: Quantization(scheme_of("fp8", MODELOPT), True)
        for t in layout.tensors(PARENT, PARENT.full) if t.row.name == "mlp.up"
    }  # fmt: skip
    mtp = ["mtp.0.up_proj.weight", "mtp.0.down_proj.weight", "mtp.0.down_proj.weight_scale", "mtp.0.norm.bias"]
    tensors = dict.fromkeys(mtp, Tensor.of(np.zeros(1)))
    model = Checkpoint(Path("x"), PARENT, PARENT.full, {}, None, Origin(), tensors, storage=weights)
    config, file = described(model)
    assert file is not None and [m for m in config["ignore"] if m.startswith("mtp")] == ["mtp.0.up_proj"]
    # in another precision than the model's they are listed as its layers are
    low = weights | {"mtp.0.down_proj.weight": Quantization(scheme_of("nvfp4", MODELOPT), False)}
    config, file = described(replace(model, storage=low))
    assert config["quant_algo"] == "MIXED_PRECISION" and len(config["quantized_layers"]) == len(low)
    assert config["quantized_layers"]["mtp.0.down_proj"] == {"quant_algo": "W4A16_NVFP4", "group_size": 16}
