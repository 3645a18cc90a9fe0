# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a folder says of its low precision: written so that it is read the same, and refused where it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic.core import layout
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source, read_shapes
from nemo_elastic.formats.hf.quant_config import (
    KEY,
    QUANT_FILE,
    anywhere,
    check_described,
    described,
    linear_modules,
    modules_in,
    precision_of,
)
from nemo_elastic.formats.schemes import COMPRESSED, LAYOUTS, MODELOPT, Stored, scheme_of
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
    (M, put("ignore", "lm_head"), f"{AT}.ignore: 'lm_head' is not allowed; a list of"),
    # mixed
    (M, mixed(None), f"{AT}.quantized_layers: None is not allowed; a mapping of modules"),
    (M, mixed({}), f"{AT}.quantized_layers: {{}} is not allowed; at least one"),
    (M, mixed({UP: {"quant_algo": "MIXED_PRECISION"}}), f"{AT}.quantized_layers.{UP}.quant_algo: 'MIXED_PREC"),
    # another precision than the tensors have, or other modules
    (M, mixed({UP: {"quant_algo": "NVFP4"}}), f"{IN} is quantised, but {KEY} says that it is not"),
    (M, put("quant_algo", "FP8"), f"{IN} is nvfp4, but {KEY} says that it is fp8"),
    (M, put("quant_algo", "W4A16_NVFP4"), f"{IN} has a scale of its inputs, but {KEY} says that it has none"),
    ("w4a16-modelopt", put("quant_algo", "NVFP4"), f"{IN} has no scale of its inputs, but"),
    (M, put("ignore", ["backbone.layers.1*", "lm_head"]), f"{{folder}}: {UP}.weight is quantised, but"),
    (M, put("ignore", None), f"{IN.replace('0', '2')} is not quantised, but {KEY} says that it is"),
    # compressed-tensors
    (C, put("format", "pack-quantized"), f"{AT}.format: 'pack-quantized' is not allowed; nvfp4"),
    (C, put(f"{GROUP}/format", "mixed-precision"), f"{AT}.config_groups.group_0.format: 'mixed-precision' is not"),
    (C, put("config_groups/group_1", {}), f"{AT}.config_groups: ['group_0', 'group_1'] is not allowed; one group"),
    *(
        (C, put(at, v), f"{AT}.{at.replace('/', '.')}: {v!r} is")
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
    (C, put(f"{GROUP}/input_activations", None), f"has a scale of its inputs, but {KEY} says that it has none"),
    (f"dynamic-{COMPRESSED}", put(f"{GROUP}/input_activations/dynamic", False), "has no scale of its inputs, but"),
    (C, put(f"{GROUP}/targets", ["re:.*up_proj"]), f"{IN} is quantised, but {KEY} says that it is not"),
    # patterns
    *(
        (C, put("ignore", [p]), f"{AT}.ignore: {p!r} is not allowed; an expression of names")
        for p in ("re:(a+)+$", "re:(", "re:" + "(a|b)" * 9)
    ),
    (C, put("ignore", ["*a" * 4097]), f"{AT}.ignore: 8194 is not allowed; patterns with at most 8192"),
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
    says = (f"is nvfp4, but {QUANT_FILE} says that it is fp8", f"{QUANT_FILE}: quantization: None is not allowed")
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
    """Of every precision and layout, of the family and of a member: `check_described` would refuse all else."""
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
    """ModelOpt names each module; what names them is read again, and other tensors contradict it."""
    source = open_source(folders["plain"])
    nvfp4, fp8 = (Stored(scheme_of(p, MODELOPT), True) for p in ("nvfp4", "fp8"))
    rows = quantized_weights(source, nvfp4.scheme)
    weights = {name: fp8 if row.startswith("mlp") else nvfp4 for name, (row, _) in rows.items()}
    config, file = described(source.parent, source.subnet, weights)
    held = {p: open_source(folders[f"{p}-{MODELOPT}"]).storage for p in ("nvfp4", "fp8")}
    low = {name: held[kind.scheme.precision][name] for name, kind in weights.items()}
    modules = linear_modules(source.parent, source.subnet)
    check_described({KEY: config}, folders["plain"], modules, low)
    assert file is not None and precision_of({KEY: config}) is None
    wrong = next(name for name, kind in weights.items() if kind == fp8)
    plain = {name: kind for name, kind in low.items() if name != wrong}
    for other in (plain | {wrong: held["nvfp4"][wrong]}, plain):
        with pytest.raises(ElasticError, match=wrong.replace(".", r"\.")):
            check_described({KEY: config}, folders["plain"], modules, other)
    groups = {name: Stored(scheme_of("fp8", COMPRESSED), True, name == wrong) for name in weights}
    with pytest.raises(ElasticError, match="more than one group"):
        described(source.parent, source.subnet, groups)


def test_layers_that_predict_more_tokens_stay_as_they_are() -> None:
    """Loaders would take them for quantised layers; those that have scales are."""
    weights = {
        t.hf: Stored(scheme_of("fp8", MODELOPT), True)
        for t in layout.tensors(PARENT, PARENT.full) if t.row.name == "mlp.up"
    }  # fmt: skip
    beside = ["mtp.0.up_proj.weight", "mtp.0.down_proj.weight", "mtp.0.down_proj.weight_scale", "mtp.0.norm.bias"]
    config, file = described(PARENT, PARENT.full, weights, beside)
    assert file is not None and [m for m in config["ignore"] if m.startswith("mtp")] == ["mtp.0.up_proj"]
    # in another precision than the model's they are listed as its layers are
    low = weights | {"mtp.0.down_proj.weight": Stored(scheme_of("nvfp4", MODELOPT), False)}
    config, file = described(PARENT, PARENT.full, low, beside)
    assert config["quant_algo"] == "MIXED_PRECISION" and len(config["quantized_layers"]) == len(low)
    assert config["quantized_layers"]["mtp.0.down_proj"] == {"quant_algo": "W4A16_NVFP4", "group_size": 16}


# ------------------------------------------------------------------ lists of modules


def test_lists_of_modules() -> None:
    given = [
        "lm_head", "model.layers.0.mixer.in_proj", "backbone.layers.3*", "re:model\\.layers\\.4\\..*",
        "re:.*conv1d$", r"re:.*layers\.\d+\.mixer\.(k|v)_proj$", "re:^.*gate|.*norm[0-9]",
        anywhere("backbone.layers.5.mixer.up_proj"), anywhere("lm_head"),
    ]  # fmt: skip
    listed = modules_in(given, "ignore")
    inside = {
        "lm_head", "backbone.layers.0.mixer.in_proj", "backbone.layers.3.mixer.q_proj", "backbone.layers.4.mixer.a",
        "backbone.layers.12.mixer.k_proj", "backbone.layers.9.mixer.v_proj", "backbone.layers.9.mixer.gate_up",
        "x.norm2", "backbone.layers.9.mixer.conv1d", "backbone.layers.5.mixer.up_proj", "backbone.layers.31.x",
    }  # fmt: skip
    assert all(module in listed for module in inside)
    others = (
        "backbone.lm_head",
        "backbone.layers.0.mixer.in_proj_",
        "backbone.layers.41.mixer.a",
        "backbone.layers.5",
        "backbone.layers.9.mixer.k_proj_",
        "backbone.layers.9x.mixer.k_proj",
        "x.norm",
    )
    assert not any(module in listed for module in others)
    assert modules_in(None, "ignore").names == frozenset()
    # of a model of experts: thousands of patterns on thousands of modules would not be fast
    assert modules_in([anywhere("backbone.layers.3.mixer.experts.7.up_proj")], "ignore").others is None


@pytest.mark.parametrize("pattern", ["*a" * 4096, "re:" + ".*" * 4096])
def test_patterns_that_are_allowed_are_never_tried_in_two_ways(pattern: str) -> None:
    """A matcher that tries would not come back."""
    listed = modules_in([pattern], "ignore")
    matches = [f"backbone.layers.{'0' * 20}.mixer.{i}" in listed for i in range(5)]
    assert all(matches) == any(matches) == (pattern == "re:" + ".*" * 4096)
