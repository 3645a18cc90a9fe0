# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Verify finds what is wrong in weights, config, tokenizer, templates and code, and nothing where all is well."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nemo_elastic.core import layout
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.prefix import Grid, Selection
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checksums import CHECKSUMS_FILE
from nemo_elastic.formats.hf.reading import open_shard
from nemo_elastic.formats.hf.writing import REMOTE_CODE, SINGLE
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing import verification as module
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.verification import not_finite, verify
from tests.runtime.talking import PARENT as TALKER
from tests.runtime.talking import talking_family
from tests.shapes import PARENT

from .helpers import edit_json

SMALL = PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4, mamba_head_dim=2, attention_heads=2)
TINY = PARENT.uniform([0, 3], hidden=4, mamba_heads=2, mamba_head_dim=2, attention_heads=2)
UP = "backbone.layers.1.mixer.up_proj.weight"


def make(out, parent=PARENT, state=None):
    state = state or random_state(parent, parent.full)
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


def test_all_is_well(family):
    report = verify(family)
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


def test_a_member_beside_its_family(family, tmp_path):
    slice_checkpoint(family, tmp_path / "mid", member="mid")
    slice_checkpoint(tmp_path / "mid", tmp_path / "low", subnet=TINY)
    alone = verify(tmp_path / "mid")
    assert alone.ok and alone.checks[-1].ok is None and "whole parent" in alone.checks[-1].figure
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


def test_values_that_are_not_finite(family):
    change(family, UP, (3, slice(2)), float("nan"))
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


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn"])
def test_not_finite_is_what_torch_says(name):
    dtype = getattr(torch, name)
    size = dtype.itemsize
    bits = torch.randint(-(2**62), 2**62, (4096,), generator=torch.Generator().manual_seed(0))
    words = {1: bits.to(torch.uint8), 2: bits.to(torch.int16), 4: bits.to(torch.int32), 8: bits}[size]
    tensor = words.view(dtype).clone()
    if size > 2:  # nearly none is at random
        tensor[5:9] = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0], dtype=dtype)
    expected = int((~torch.isfinite(tensor.double())).sum())
    assert expected > 2 and not_finite(Tensor.of(tensor).dtype, Tensor.of(tensor).words) == expected
    assert not_finite("I32", np.full(4, -1, np.int32)) == 0


# ------------------------------------------------------------------ what stands beside the weights

EVEN = TALKER.uniform(hidden=TALKER.hidden // 2)
UNEVEN = Subnet(
    TALKER.hidden,
    tuple(TALKER.layer(i, ffn=TALKER.ffn // 2) if i == TALKER.pattern.index("-") else x
          for i, x in enumerate(TALKER.full.layers)),
)  # fmt: skip


@pytest.fixture
def talking(tmp_path: Path) -> Path:
    return talking_family(tmp_path / "made", generation={"eos_token_id": 1, "temperature": 0.5})


@pytest.fixture(params=["family", "uneven"])
def folder(request: pytest.FixtureRequest, talking: Path, tmp_path: Path) -> Path:
    if request.param == "family":
        return talking
    return slice_checkpoint(talking, tmp_path / "cut", subnet=UNEVEN).out


def figures(folder: Path, parent: Path | None = None) -> dict[str, str]:
    checks = verify(folder, parent=parent, forward=False).checks
    return {check.name: check.figure for check in checks if check.ok is False}


def without_digests(folder: Path) -> None:
    (folder / CHECKSUMS_FILE).unlink(missing_ok=True)


def test_files_beside_weights_are_well(folder: Path, talking: Path) -> None:
    report = verify(folder, parent=talking, forward=False)
    checks = {check.name: check for check in report.checks}
    assert report.ok and checks["config"].ok and checks["files"].ok and checks["files of the parent"].ok
    assert "config.json" in checks["files"].figure and "chat_template.jinja" in checks["files"].figure
    puzzle = json.loads((folder / "config.json").read_text())["model_type"] == "nemotron_h_puzzle"
    assert ("code" in checks) == puzzle and (not puzzle or checks["code"].ok)


SETTINGS = {"time_step_min": ..., "auto_map": {"AutoModel": "evil.Model"}, "torch_dtype": "float16"}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_no_shape_tells_is_held_against_what_is_written(folder: Path, name: str) -> None:
    """Also where nobody wrote digests, or somebody took them away."""
    edit_json(folder / "config.json", **{name: SETTINGS[name]})
    assert figures(folder)["config"].startswith(f"{name} is ") and "config.json" in figures(folder)["files"]
    without_digests(folder)
    assert list(figures(folder)) == ["config"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", None),
        ("chat_template.jinja", "gone"),
        ("modeling_other.py", "import os"),
        ("more.safetensors", ""),
    ],
)
def test_a_file_that_is_another_one_or_new_is_reported(folder: Path, file: str, content: str | None) -> None:
    path = folder / file
    new = not path.exists()
    if content == "gone":
        path.unlink()
    else:
        path.write_text(path.read_text() + " " if content is None else content)
    what = "a file that was not written with the folder" if new else "not the file that was written"
    assert figures(folder) == {"files": f"{file} is {what}"}


def test_a_member_has_the_ends_and_the_tokenizer_of_its_family(talking: Path, tmp_path: Path) -> None:
    """What a folder without checksums cannot tell by itself."""
    slice_checkpoint(talking, tmp_path / "cut", subnet=EVEN)
    without_digests(tmp_path / "cut")
    edit_json(tmp_path / "cut" / "config.json", eos_token_id=7)
    edit_json(tmp_path / "cut" / "tokenizer_config.json", bos_token="x")
    edit_json(tmp_path / "cut" / "generation_config.json", eos_token_id=7)
    report = verify(tmp_path / "cut", forward=False)
    assert report.ok and next(c for c in report.checks if c.name == "files").figure.startswith(
        "skipped: the folder has no"
    )
    failures = figures(tmp_path / "cut", talking)
    assert set(failures) == {"config", "files of the parent"} and failures["config"].startswith(
        "eos_token_id is 7, not "
    )
    assert failures["files of the parent"] == "tokenizer_config.json is another one (and 1 more)"


@pytest.mark.parametrize("name", REMOTE_CODE)
def test_code_that_the_card_asks_to_trust_is_ours(talking: Path, tmp_path: Path, name: str) -> None:
    """Also where its digest was changed with it."""
    cut = slice_checkpoint(talking, tmp_path / "cut", subnet=UNEVEN).out
    with (cut / name).open("a") as file:
        file.write("import os\n")
    without_digests(cut)
    assert figures(cut) == {"code": f"{name} is not nemo-elastic's: do not let a loader run it"}
    (cut / name).unlink()
    assert list(figures(cut)) == ["code"]


def test_code_of_others_is_named(talking: Path, tmp_path: Path) -> None:
    plain = slice_checkpoint(talking, tmp_path / "plain", member=Family.load(talking).names[0]).out
    (plain / "elastic_member.json").unlink()
    edit_json(plain / "config.json", auto_map={"AutoConfig": "other.Config"})
    without_digests(plain)
    checks = {check.name: check for check in verify(plain, forward=False).checks}
    assert checks["config"].ok is None and checks["code"].ok is None
    assert checks["code"].figure == "config.json names code; read it before you let a loader run it"


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ([], r"files: \[\] is not allowed; a mapping"),
        ({"a": "12"}, r"files\.a: '12' is not allowed; 64 hexadecimal digits"),
        ({"../a": "0" * 64}, r"files: '\.\./a' is not allowed; names of files in the same folder"),
    ],
)
def test_digests_that_are_none_are_reported(talking: Path, files: Any, line: str) -> None:
    edit_json(talking / CHECKSUMS_FILE, files=files)
    with pytest.raises(ElasticError, match=rf"{CHECKSUMS_FILE}: {line}$"):
        verify(talking, forward=False)
