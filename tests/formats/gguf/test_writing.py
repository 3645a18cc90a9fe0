# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""GGUF files: every tensor once, with its values; what has no place in the format is refused, and nothing stays."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.core import layout
from nemo_elastic.core.family import Subnet
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checkpoint import in_memory
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.gguf.tensors import stored
from nemo_elastic.io.write import clear_leftovers
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.cutting import cut
from nemo_elastic.slicing.example import write_example
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.io.test_kills import killed_at
from tests.shapes import GROUPS, LATENT, MOE, PARENT
from tests.slicing.helpers import run
from tests.strategies import subnets
from tests.support.alone import alone

from .test_llama_cpp import DENSE, other_width


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("example") / "family"
    write_example(out)
    return out


def values(file: Path) -> dict[str, np.ndarray]:
    """Name -> values as a reader of GGUF has them, in float32."""
    out = {}
    for tensor in GGUFReader(file).tensors:
        assert tensor.name not in out
        out[tensor.name] = dequantize(tensor.data, tensor.tensor_type).reshape(tuple(reversed(tensor.shape.tolist())))
    return out


@given(st.sampled_from([PARENT, GROUPS, MOE, LATENT]).flatmap(lambda p: st.tuples(st.just(p), subnets(p))))
def test_every_tensor_of_the_table_is_there_once(drawn: tuple[Any, Subnet]) -> None:
    parent, member = drawn
    whole = in_memory(parent, parent.full, random_state(parent, parent.full))
    model = cut(whole, member)
    tensors = stored(model)
    assert len({each.name for each in tensors}) == len(tensors)
    kept = {id(model.tensors[t.hf]) for t in layout.tensors(parent, member)}
    assert len(kept) == sum(len(each.parts) for each in tensors)
    for each in tensors:
        assert sum(part.nbytes for part in each.parts) == 4 * np.prod(each.shape)


def test_values_are_those_of_the_folder(family: Path, tmp_path: Path) -> None:
    slice_checkpoint(family, tmp_path / "cut", member="small")
    slice_checkpoint(family, tmp_path / "small.gguf", member="small", format="gguf")
    folder, file = open_source(tmp_path / "cut"), values(tmp_path / "small.gguf")
    for t in layout.tensors(folder.parent, folder.subnet):
        expected = folder.tensors[t.hf].numpy()
        if t.row.name == "mamba.a_log":
            expected = -np.exp(expected)
        np.testing.assert_allclose(file.pop(t.gguf).ravel(), expected.ravel(), rtol=1e-6, err_msg=t.hf)
    assert file == {}


def test_blocks_of_eight_bits_are_within_half_a_step(family: Path, tmp_path: Path) -> None:
    for dtype in (None, "q8_0"):
        slice_checkpoint(family, tmp_path / f"{dtype}.gguf", member="large", format="gguf", dtype=dtype)
    exact, rounded = values(tmp_path / "None.gguf"), values(tmp_path / "q8_0.gguf")
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "q8_0.gguf").tensors}
    assert {types[n] for n in ("token_embd.weight", "output.weight", "blk.0.ssm_in.weight")} == {"Q8_0"}
    assert {types[n] for n in ("blk.0.ssm_conv1d.weight", "blk.0.attn_norm.weight", "blk.0.ssm_a")} == {"F32"}
    for name, value in exact.items():
        if types[name] == "Q8_0":
            blocks, others = (each.reshape(-1, 32) for each in (value, rounded[name]))
            step = np.abs(blocks).max(1, keepdims=True) / 127
            assert (np.abs(blocks - others) <= 0.6 * step).all(), name


def test_several_members_are_files_in_a_folder(family: Path, tmp_path: Path) -> None:
    names = ("--member", "large", "--member", "small", "--format", "gguf")
    code, out, _ = run("slice", family, *names, "--out", tmp_path / "cuts", "--json")
    assert code == 0 and [each["out"] for each in json.loads(out)] == [
        str(tmp_path / "cuts" / f"{name}.gguf") for name in ("large", "small")
    ]
    assert GGUFReader(tmp_path / "cuts" / "small.gguf").get_field("general.name").contents() == "small"
    assert run("slice", family, *names, "--out", tmp_path / "cuts", "--force")[0] == 0
    code, *_ = run("convert", family, "--format", "gguf", "--out", tmp_path / "whole.gguf")
    large, whole = values(tmp_path / "cuts" / "large.gguf"), values(tmp_path / "whole.gguf")
    assert code == 0 and all((whole[name] == value).all() for name, value in large.items())


@pytest.mark.parametrize(
    ("damage", "options", "words"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), (), "tokenizer"),
        (lambda f: change(f, pre_tokenizer={"type": "Whitespace"}), (), "--pre"),
        (lambda f: change(f, normalizer={"type": "NFC"}), (), "--pre"),
        (lambda f: None, ("--dtype", "q8_0", "--format", "hf"), "dtype"),
        (lambda f: None, ("--pre", "gpt-2", "--format", "hf"), "pre"),
    ],
)
def test_what_llama_cpp_could_not_read_is_refused(
    family: Path, tmp_path: Path, damage: Any, options: tuple[str, ...], words: str
) -> None:
    source = shutil.copytree(family, tmp_path / "family")
    damage(source)
    cut = ("slice", source, "--member", "small", "--format", "gguf", *options, "--out", tmp_path / "out")
    code, out, err = run(*cut)
    assert (code, out, err.count("\n")) == (2, "", 1) and words in err
    assert [p.name for p in tmp_path.iterdir()] == ["family"]
    if words == "--pre":
        assert run(*cut, "--pre", "gpt-2")[0] == 0


def change(folder: Path, **fields: Any) -> None:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (other_width(DENSE.full, 0, mamba_heads=6), "mamba_heads"),
        (other_width(DENSE.full, 3, attention_heads=2), "attention_heads"),
        (DENSE.uniform([0, 1, 2, 4, 5]), "attention"),
        (DENSE.uniform([1, 3]), "mamba"),
    ],
)
def test_a_shape_that_llama_cpp_does_not_run_is_refused(
    family: Path, tmp_path: Path, member: Subnet, words: str
) -> None:
    model = in_memory(DENSE, DENSE.full, random_state(DENSE, DENSE.full), companions=family)
    for out in (tmp_path / "out.gguf", None):  # a dry run finds it, too
        with pytest.raises(ElasticError, match=words):
            slice_checkpoint(model, out, subnet=member, format="gguf")
    assert not any(tmp_path.iterdir())


def test_numbers_that_become_zero_are_counted(family: Path, tmp_path: Path) -> None:
    state = random_state(DENSE, DENSE.full)
    state["backbone.layers.1.mixer.up_proj.weight"][0, :5] = 1e-12
    model = in_memory(DENSE, DENSE.full, state, companions=family)
    cut = slice_checkpoint(model, tmp_path / "out.gguf", subnet=DENSE.full, format="gguf", dtype="fp16")
    assert cut.underflowed == 5


def test_convert_has_no_pre_tokenizer_for_other_formats(family: Path, tmp_path: Path) -> None:
    code, _, err = run("convert", family, "--format", "nemo", "--pre", "gpt-2", "--out", tmp_path / "out")
    assert code == 2 and "--pre" in err and not any(tmp_path.iterdir())


@alone
def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    write_example(tmp_path / "family")
    out, contents, kills = tmp_path / "cuts" / "out.gguf", [], 0

    def write(member: str) -> None:
        slice_checkpoint(tmp_path / "family", out, member=member, format="gguf", force=True,
                         progress=lambda *_: sys.audit("open"))  # each piece is a step, too  # fmt: skip

    for member in ("large", "small"):
        write(member)
        contents.append(out.read_bytes())
    for step in range(0, 1000, 7):
        if not killed_at(step, lambda: write("large")):
            break
        kills += len([*out.parent.iterdir()]) > 1  # something was half-written
        clear_leftovers(out)
        assert [p.name for p in out.parent.iterdir()] == ["out.gguf"] and out.read_bytes() in contents
    assert kills > 5 and out.read_bytes() == contents[0]


def test_what_is_interrupted_leaves_nothing(family: Path, tmp_path: Path) -> None:
    older = tmp_path / "out.gguf"
    slice_checkpoint(family, older, member="small", format="gguf")
    before = older.read_bytes()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slice_checkpoint(family, older, member="large", format="gguf", force=True, progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"] and older.read_bytes() == before
