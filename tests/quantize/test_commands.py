# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`quantize`, and every command on what it writes: it works, or says in one line what to do, and counts its bytes."""

from __future__ import annotations

import json
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nemo_elastic.core import layout
from nemo_elastic.core.cost import memory, parameters
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import path
from nemo_elastic.data.build import build_data
from nemo_elastic.data.eval_data import EvalData
from nemo_elastic.evaluation import answer_loss
from nemo_elastic.formats.folders import open_source, read_shapes
from nemo_elastic.formats.hf.quant_config import quantization_of
from nemo_elastic.formats.schemes import LAYOUTS
from nemo_elastic.nn.weights import random_state
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.card import served_as
from nemo_elastic.slicing.family_folder import write_family

from .conftest import PARENT
from .damage import low

SHAPE = replace(PARENT, vocab=400)
MEMBER = SHAPE.uniform([0, 1, 3, 4, 5, 6], hidden=48, ffn=128, mamba_heads=8, attention_heads=2)
QUICK = ("--tokens", 200, "--seq-length", 64, "--limit", 4)
WHICH = [f"{p}-{x}" for p in ("nvfp4", "fp8") for x in LAYOUTS]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    source = Path(sysconfig.get_paths()["stdlib"]) / "json"
    return build_data(tmp_path_factory.mktemp("data") / "data", [source], vocab=400, held_out_problems=8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, data: Any) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("low")
    state = random_state(SHAPE, SHAPE.full, dtype=torch.bfloat16)
    family = Family.of(SHAPE, {"full": SHAPE.full, "small": MEMBER})
    plain = write_family(place / "plain", SHAPE, state, family, data.tokenizer_dir)
    return {"plain": plain} | {which: low(plain, place / which, *which.split("-", 1)) for which in WHICH}


def weight_bytes(folder: Path) -> int:
    """Of the tensors of a folder, as they lie in its files."""
    return sum(raw.nbytes for raw in open_source(folder).tensors.values())


@pytest.mark.parametrize("which", ["plain", "nvfp4-modelopt", "fp8-compressed-tensors"])
def test_inspect_counts_the_bytes_of_the_files(which: str, folders: dict[str, Path], run: Any, tmp_path: Path) -> None:
    """But for scales of whole weights and inputs, a few bytes each, and what vectors of fp32 have over bf16."""
    code, out, _ = run("inspect", folders[which], "--json", "--batch", 1, "--context", 1)
    members = json.loads(out)["members"]
    shapes = read_shapes(folders[which])
    stored = quantization_of(shapes.config, shapes.folder)
    spec = served_as(shapes.config, 1, 1, stored)
    assert code == 0 and spec.weights == {"plain": "bf16"}.get(which, which.split("-")[0])
    state = memory(SHAPE, SHAPE.full, spec) - memory(SHAPE, SHAPE.full, replace(spec, weights="bf16"))
    assert (state < 0) == (which != "plain")
    for name, subnet in (("full", SHAPE.full), ("small", MEMBER)):
        run("slice", folders[which], "--member", name, "--out", tmp_path / name)
        source = open_source(tmp_path / name)
        parts = [t for own in source.storage for t in source.parts(own).values()]
        scales = sum(t.nbytes for t in parts if t.words.size == 1)
        # what is served beside weights: caches and states
        beside = memory(SHAPE, subnet, replace(spec, weights="bf16")) - weight_bytes_of(subnet)
        assert members[name]["memory"]["bytes"] - beside == weight_bytes(tmp_path / name) - scales
        assert members[name]["memory"]["weights"] == spec.weights


def weight_bytes_of(subnet: Any) -> int:
    """In bfloat16, with those that no cast may round in fp32."""
    exact = sum(torch.Size(t.shape).numel() for t in layout.tensors(SHAPE, subnet) if layout.is_exact(t.hf))
    return 2 * parameters(SHAPE, subnet) + 2 * exact


def test_slice_by_size(folders: dict[str, Path], run: Any, tmp_path: Path) -> None:
    """As much memory as a member takes in this precision gives that member, though in bf16 it takes more."""
    which = "nvfp4-modelopt"
    members = json.loads(run("inspect", folders[which], "--json")[1])["members"]
    most = members["small"]["memory"]["bytes"]
    code, out, err = run("slice", folders[which], "--memory", f"{most}B", "--out", tmp_path / "cut", "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["parameters"] == members["small"]["parameters"] and record["memory"]["bytes"] == most
    assert open_source(tmp_path / "cut").subnet == MEMBER
    assert run("slice", folders["plain"], "--memory", f"{most}B", "--out", tmp_path / "plain")[0] == 2


def test_a_size_between_members_may_tear_blocks(folders: dict[str, Path], run: Any, tmp_path: Path) -> None:
    """Then a line says so, and with --requantize it is cut; FP8 has no blocks."""
    shapes = path(Family.load(folders["plain"]))

    def of(ffn: int) -> tuple[object, ...]:
        shape = next(s for s in shapes if any(x.get("ffn") == ffn for x in s.to_json()["layers"]))
        return ("--params", parameters(SHAPE, shape), "--out", tmp_path / "cut")

    for ffn, says in (
        (240, "; --requantize rounds the weight again"),
        (248, "248 channels are no multiple of 16: take another size"),
    ):
        code, _, err = run("slice", folders["nvfp4-modelopt"], *of(ffn))
        assert code == 2 and len(err.splitlines()) == 1 and says in err and not (tmp_path / "cut").exists()
    assert run("slice", folders["nvfp4-modelopt"], *of(248), "--requantize")[0] == 2
    size = of(240)
    assert run("slice", folders["nvfp4-modelopt"], *size, "--requantize")[0] == 0
    assert run("slice", folders["fp8-modelopt"], *size, "--force")[0] == 0


def test_eval(folders: dict[str, Path], data: Any, run: Any) -> None:
    """Its figures are those of its weights, near those of full precision."""
    which = "fp8-modelopt"
    asked = ("--data", data.path, *QUICK, "--json")
    code, out, err = run("eval", folders[which], *asked)
    assert code == 0, err
    plain = {row["member"]: row for row in json.loads(run("eval", folders["plain"], *asked)[1])}
    family = load_family(folders[which])
    for row in json.loads(out):
        mine, theirs = row["perplexity"], plain[row["member"]]["perplexity"]
        assert mine != theirs and mine == pytest.approx(theirs, rel=0.2), row["member"]
        expected = answer_loss(family.select(row["member"]), EvalData.of(data).sample(65, 4), 64)
        assert row["loss"] == pytest.approx(expected.nats, rel=1e-6)


def test_specialize_and_chat(folders: dict[str, Path], data: Any, run: Any, tmp_path: Path) -> None:
    family = folders["nvfp4-modelopt"]
    most = json.loads(run("inspect", family, "--json")[1])["members"]["full"]["parameters"] - 1000
    asked = ("--data", data.path, "--params", most, "--out", tmp_path / "shape.json")
    code, said, err = run("specialize", family, *asked, "--json")
    assert code == 0, err
    record = json.loads(said)
    assert record["memory"]["weights"] == "nvfp4" and record["parameters"] <= most
    code, said, err = run("chat", family, "The", "--member", "small", "--max-new-tokens", 4)
    assert code == 0 and said.strip(), err


def input_scales(folder: Path) -> int:
    return sum(stored.activations for stored in open_source(folder).storage.values())


def test_quantize_a_family_and_slice_it(folders: dict[str, Path], data: Any, run: Any, tmp_path: Path) -> None:
    out = tmp_path / "low"
    options = ("--to", "nvfp4", "--data", data.path)
    code, said, err = run("quantize", folders["plain"], *options, "--out", out, "--json")
    assert code == 0, err
    record = json.loads(said)
    assert (record["to"], record["layout"], record["torn"]) == ("nvfp4", "modelopt", {})
    sizes = [sum(raw.nbytes for raw in open_source(folder).tensors.values()) for folder in (folders["plain"], out)]
    assert [record["bytes_before"], record["bytes"]] == sizes
    assert input_scales(out) == record["weights"] > 0
    code, said, err = run("slice", out, "--member", "small", "--out", tmp_path / "small")
    assert code == 0 and "requantized" not in said, err
    assert input_scales(tmp_path / "small") == record["weights"]  # the layer that it drops has none
    assert run("verify", tmp_path / "small", "--parent", out)[0] == 0
