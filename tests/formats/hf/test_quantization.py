# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a folder says of its low precision: written so that it is read the same, and refused where it cannot be."""

from __future__ import annotations

import time
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
from nemo_elastic.slicing.verification import verify
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
ALGOS = "one of NVFP4, FP8, W4A16_NVFP4, MIXED_PRECISION: others cannot be cut"
WEIGHTS = "floats of 4 bits in tensor_group of 16, or of 8 in tensor or channel: others cannot be cut"
IN = "{folder}: backbone.layers.0.mixer.in_proj.weight"
LAYER = {"quant_algo": "NVFP4", "group_size": 16}
AT = "{folder}/config.json: quantization_config"
M, C = f"nvfp4-{MODELOPT}", f"nvfp4-{COMPRESSED}"
#: folder, change, the field that its line names
CASES: list[tuple[str, Change, str]] = [
    # others, as the hub has them
    *(
        ("plain", put("", {"quant_method": name} | more), f"{AT}.quant_method: {name!r} is not allowed; only modelopt")
        for name, more in (
            ("awq", {"bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}),
            ("fp8", {"weight_block_size": [128, 128], "fmt": "e4m3"}),
        )
    ),
    ("plain", put("", {"load_in_8bit": True}), f"{AT}.quant_method: None is"),
    *(("plain", put("", v), f"{AT}: {v!r} is not allowed; a mapping") for v in ([], False)),
    *((M, put("quant_method", v), f"{AT}.quant_method: {v!r} is") for v in ([], "ModelOpt")),
    *((M, put("quant_algo", v), f"{AT}.quant_algo: {v!r} is not allowed; {ALGOS}")
      for v in ("INT4_AWQ", [])),
    *((M, put("group_size", v), f"{AT}.group_size: {v!r} is not allowed; 16") for v in (32, "16")),
    *((M, put("ignore", v), f"{AT}.ignore: {v!r} is not allowed; a list of") for v in ("lm_head", False, [1])),
    # mixed
    *(
        (M, mixed(v), f"{AT}.quantized_layers{says}")
        for v, says in (
            (None, ": None is not allowed; a mapping of modules"),
            ({UP: "NVFP4"}, f".{UP}: 'NVFP4' is not allowed; a mapping"),
            ({UP: {"quant_algo": "MIXED_PRECISION"}}, f".{UP}.quant_algo: 'MIXED_PRECISION' is"),
            ({UP: LAYER | {"group_size": 32}}, f".{UP}.group_size: 32 is"),
        )
    ),
    # another precision than the tensors have, or other modules
    (M, mixed({UP: LAYER}), f"{IN} is quantised, but {KEY} says that it is not"),
    (M, put("quant_algo", "FP8"), f"{IN} is nvfp4, but {KEY} says that it is fp8"),
    (M, put("quant_algo", "W4A16_NVFP4"), f"{IN} has a scale of its inputs, but {KEY} says that it has none"),
    ("w4a16-modelopt", put("quant_algo", "NVFP4"), f"{IN} has no scale of its inputs, but"),
    (M, put("ignore", ["backbone.layers.1*", "lm_head"]), f"{{folder}}: {UP}.weight is quantised, but"),
    (M, put("ignore", None), f"{IN.replace('0', '2')} is not quantised, but {KEY} says that it is"),
    ("plain", put("", {"quant_method": "modelopt", "quant_algo": "NVFP4"}), f"{IN} is not quantised, but"),
    (M, put("quant_method", COMPRESSED), f"{AT}.format: None is"),
    # compressed-tensors
    *((C, put("format", v), f"{AT}.format: {v!r} is not allowed; one of nvfp4") for v in ("pack-quantized", None, [])),
    (C, put("format", "float-quantized"), f"{AT}.format: 'float-quantized' is not allowed; {AT}.config_groups"),
    (C, put(f"{GROUP}/format", "pack-quantized"), f"{AT}.config_groups.group_0.format: 'pack-quantized' is"),
    *(
        (C, put(at, v), f"{AT}.{at.replace('/', '.')}: {v!r} is")
        for at, v in (
            ("config_groups", None), ("config_groups", []), ("config_groups", {}), (GROUP, []),
            (f"{GROUP}/weights", None), (f"{GROUP}/input_activations", []), (f"{GROUP}/targets", "Linear"),
            ("ignore", {}), (f"{GROUP}/input_activations/dynamic", "global"),
            ("sparsity_config", {"format": "sparse-24-bitmask"}),
            ("transform_config", {"config_groups": {"R1": {"type": "hadamard"}}}),
        )
    ),
    *(
        (C, put(f"{GROUP}/weights/{key}", v), f"is not allowed; {WEIGHTS}")
        for key, v in (
            ("num_bits", 8), ("num_bits", "4"), ("num_bits", None), ("type", "int"), ("strategy", "group"),
            ("group_size", 32), ("symmetric", False), ("dynamic", True), ("actorder", "group"),
        )
    ),
    (C, put(f"{GROUP}/input_activations", None), f"has a scale of its inputs, but {KEY} says that it has none"),
    (f"dynamic-{COMPRESSED}", put(f"{GROUP}/input_activations/dynamic", False), "has no scale of its inputs, but"),
    (C, put(f"{GROUP}/targets", ["re:.*up_proj"]), f"{IN} is quantised, but {KEY} says that it is not"),
    # patterns
    *(
        (C, put("ignore", [p]), f"{AT}.ignore: {p!r} is not allowed; an expression of names")
        for p in ("re:" + ".?" * 130 + "!", "re:(a+)+$", "re:(.*)*x", "re:(?:x){2,}", "re:(", "re:(?!a)")
    ),
    (M, put("exclude_modules", ["re:.?*"]), f"{AT}.exclude_modules: 're:.?*' is not allowed; an expr"),
    (C, put(f"{GROUP}/targets", ["re:.?*"]), f"{AT}.config_groups.group_0.targets: 're:.?*' is not allowed; an expr"),
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
    wanted = says.replace("{folder}", str(broken))
    assert (wanted in line or "a" * 300 in wanted) and "\n" not in line and len(line) < 4100


FILE_AT = "{folder}/hf_quant_config.json: quantization"
FILE_CASES: list[tuple[Change, str]] = [
    (lambda f: f.clear(), f"{FILE_AT}: None is not allowed"),
    (lambda f: f["quantization"].update(quant_algo="INT4_AWQ"), f"{FILE_AT}.quant_algo: 'INT4_AWQ' is not allowed"),
    (lambda f: f["quantization"].update(quant_algo="FP8"), f"{IN} is nvfp4, but {QUANT_FILE} says that it is"),
    (lambda f: f["quantization"]["exclude_modules"].remove("lm_head"),
     f"{{folder}}: lm_head.weight is not quantised, but {QUANT_FILE} says that it is"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), FILE_CASES, ids=range(len(FILE_CASES)))
@pytest.mark.parametrize("alone", [False, True])
def test_modelopts_own_file_must_say_the_same(
    change: Change, says: str, alone: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    broken = with_json(folders["nvfp4-modelopt"], tmp_path / "broken", QUANT_FILE, change)
    if alone:  # as ModelOpt wrote it before it wrote into config.json
        with_json(broken, broken / ".." / "alone", CONFIG, lambda c: c.pop(KEY))
        broken = tmp_path / "alone"
    with pytest.raises(ElasticError) as refused:
        open_source(broken)
    assert str(refused.value).startswith(says.replace("{folder}", str(broken)))


def test_modelopts_own_file_alone_is_enough(folders: dict[str, Path], tmp_path: Path) -> None:
    alone = with_json(folders["nvfp4-modelopt"], tmp_path / "alone", CONFIG, lambda c: c.pop(KEY))
    slice_checkpoint(alone, tmp_path / "cut", member="small")
    slice_checkpoint(folders["nvfp4-modelopt"], tmp_path / "wanted", member="small")
    for name in (CONFIG, QUANT_FILE, "model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "wanted" / name).read_bytes()


def test_modelopts_own_file_beside_nothing_said(folders: dict[str, Path], tmp_path: Path) -> None:
    silent = with_json(folders["nvfp4-modelopt"], tmp_path / "silent", CONFIG, lambda c: c.update({KEY: None}))
    checks = {check.name: check for check in verify(silent, forward=False).checks}
    assert checks["config"].ok is False and checks["config"].figure.startswith(f"{KEY} is None, not ")


def test_modelopts_own_file_beside_the_other_layout(folders: dict[str, Path], tmp_path: Path) -> None:
    broken = with_json(folders["fp8-compressed-tensors"], tmp_path / "broken", CONFIG, lambda c: None)
    (broken / QUANT_FILE).write_bytes((folders["fp8-modelopt"] / QUANT_FILE).read_bytes())
    with pytest.raises(ElasticError) as refused:
        open_source(broken)
    says = "is of ModelOpt, but quantization_config in config.json is of compressed-tensors"
    assert str(refused.value) == f"{broken / QUANT_FILE}: {says}"


def test_quantised_and_nothing_said_of_it(folders: dict[str, Path], tmp_path: Path) -> None:
    for which, name in (("fp8-modelopt", "input_scale"), ("nvfp4-compressed-tensors", "input_global_scale")):
        silent = with_json(folders[which], tmp_path / which, CONFIG, lambda c: c.pop(KEY))
        (silent / QUANT_FILE).unlink(missing_ok=True)
        with pytest.raises(ElasticError) as refused:
            open_source(silent)
        says = "is in low precision, but the folder's quantization_config does not say so"
        assert str(refused.value) == f"{silent}: tensor 'backbone.layers.0.mixer.in_proj.{name}' {says}"


def test_what_is_written_is_read_the_same(folders: dict[str, Path], tmp_path: Path) -> None:
    """Of every precision and layout, of the family and of a member: `check_described` would refuse all else."""
    for which, folder in folders.items():
        slice_checkpoint(folder, tmp_path / which, member="small")
        for at in (folder, tmp_path / which):
            opened = open_source(at)
            assert bool(opened.quantized) == (which != "plain")
            said = precision_of(opened.config)
            assert said == {"w4a16": "nvfp4", "dynamic": "fp8", "plain": None}.get(
                which.split("-")[0], which.split("-")[0]
            )
            assert served_as(read_shapes(at).config).weights == (said or "bf16")


@pytest.mark.parametrize("layout_", LAYOUTS)
def test_several_precisions_in_one_folder(layout_: str, folders: dict[str, Path]) -> None:
    """Each module is named; what names them is read again, and other tensors contradict it."""
    source = open_source(folders["plain"])
    nvfp4, fp8 = (Stored(scheme_of(p, layout_), True) for p in ("nvfp4", "fp8"))
    rows = quantized_weights(source, nvfp4.scheme)
    weights = {name: fp8 if row.startswith("mlp") else nvfp4 for name, (row, _) in rows.items()}
    config, file = described(source.parent, source.held, weights)
    held = {p: open_source(folders[f"{p}-{layout_}"]).quantized for p in ("nvfp4", "fp8")}
    low = {name: held[kind.scheme.precision][name] for name, kind in weights.items()}
    modules = linear_modules(source.parent, source.held)
    check_described({KEY: config}, folders["plain"], modules, low)
    assert (file is None) == (layout_ == COMPRESSED) and precision_of({KEY: config}) is None
    wrong = next(name for name, kind in weights.items() if kind == fp8)
    plain = {name: kind for name, kind in low.items() if name != wrong}
    for other in (plain | {wrong: held["nvfp4"][wrong]}, plain):
        with pytest.raises(ElasticError, match=wrong.replace(".", r"\.")):
            check_described({KEY: config}, folders["plain"], modules, other)


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


def test_names_that_we_write_are_names(folders: dict[str, Path]) -> None:
    """A model of experts stays fast: thousands of patterns on thousands of modules would not be."""
    names = [f"backbone.layers.{i}.mixer.experts.{e}.up_proj" for i in range(50) for e in range(128)]
    start = time.perf_counter()
    listed = modules_in([anywhere(name) for name in names], "ignore")
    assert listed.names == set(names) and listed.others is None
    assert all(name in listed for name in names) and time.perf_counter() - start < 5


@pytest.mark.parametrize("pattern", ["*a" * 4096, "re:" + ".*" * 4096, f"*{'?' * 50}!", f"re:{'.*0' * 100}$"])
def test_patterns_that_are_allowed_are_never_tried_in_two_ways(pattern: str) -> None:
    """A matcher that tries would not come back."""
    listed = modules_in([pattern], "ignore")
    matches = [f"backbone.layers.{'0' * 20}.mixer.{i}" in listed for i in range(50)]
    assert all(matches) == any(matches) == (pattern == "re:" + ".*" * 4096)
