# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Any NeMo checkpoint is opened as a Hugging Face folder is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.core.codes import encode
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.layout import tensors
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source, read_shapes
from nemo_elastic.formats.megatron import stored
from nemo_elastic.formats.megatron.stored import open_folder
from nemo_elastic.formats.megatron.torch_files import read_piece
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.slicing.slicer import slice_members
from tests.hosts.nemo.checkpoints import as_model, store
from tests.hosts.nemo.cutting import MEMBER, PARENT, cut, random_tensors
from tests.hosts.nemo.poison import refused
from tests.slicing.helpers import scratch
from tests.strategies import parents_and_subnets

UNEVEN = Subnet(56, (*MEMBER.layers[:-1], PARENT.layer(5, mamba_heads=4, mamba_head_dim=8), PARENT.layer(6, ffn=32)))


@pytest.fixture(scope="module")
def state():
    return random_tensors(PARENT)


def assert_same(actual, wanted):
    assert list(actual) == list(wanted)
    for name, value in wanted.items():
        raw = Tensor.of(value)
        assert (actual[name].dtype, actual[name].shape) == (raw.dtype, raw.shape), name
        assert np.array_equal(actual[name].words, raw.words), name


# ------------------------------------------------------------------ any shape


@settings(max_examples=20)
@given(
    parents_and_subnets(kinds="M-*"),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(1, 3),
    st.integers(0, 2),
)
def test_any_member_is_read_back_byte_for_byte(shapes, dtype, stride, first):
    """Layers may have any numbers in the file: what counts is their order."""
    parent, member = shapes
    own = {k: v.to(dtype) for k, v in cut(parent, member, random_tensors(parent)).items()}
    with scratch() as place:
        source = open_folder(store(place / "nemo", parent, member, own, number=lambda i: first + stride * i))
        assert (source.parent, source.subnet) == as_model(parent, member)
        assert source.family is None
        assert_same(source.tensors, own)
        assert read_shapes(place / "nemo").config == source.config


def test_a_context_is_believed_only_where_tensors_say_nothing(state, tmp_path):
    wrong = {
        "hybrid_override_pattern": PARENT.pattern + "M*-",
        "hidden_size": 7,
        "ffn_hidden_size": 7,
        "mamba_num_heads": 7,
        "mamba_head_dim": 7,
        "num_attention_heads": 7,
        "num_query_groups": 7,
        "vocab_size": 7,
        "mamba_state_dim": 7,
    }
    source = open_folder(store(tmp_path / "a", PARENT, UNEVEN, cut(PARENT, UNEVEN, state), settings=wrong))
    assert (source.parent, source.subnet) == as_model(PARENT, UNEVEN)
    assert not source.subnet.is_uniform and source.config["model_type"] == "nemotron_h_puzzle"


def test_nothing_is_read_before_it_is_asked_for_and_the_last_stays(state, tmp_path):
    source = open_folder(store(tmp_path / "a", PARENT, PARENT.full, state))
    raw = source.tensors["backbone.layers.0.mixer.in_proj.weight"]
    first = raw.words.copy()
    assert raw.nbytes == first.nbytes
    (piece,) = (tmp_path / "a" / "weights").glob("*.distcp")
    piece.unlink()
    np.testing.assert_array_equal(raw.words, first)  # a piece of it after the other is asked for
    assert read_shapes(tmp_path / "a").parent == source.parent
    source = open_folder(tmp_path / "a")
    raw = source.tensors["backbone.layers.0.mixer.in_proj.weight"]
    with pytest.raises(ElasticError, match=r"layers\.0\.mixer\.in_proj\.weight\.z cannot be read") as caught:
        raw.words  # noqa: B018
    assert "\n" not in caught.value.message


def test_no_tensor_is_of_a_checkpoint_that_took_the_place(state, tmp_path):
    source = open_source(store(tmp_path / "a", PARENT, PARENT.full, state))
    os.rename(tmp_path / "a", tmp_path / "old")
    store(tmp_path / "a", PARENT, PARENT.full, state)
    with pytest.raises(ElasticError, match="another process replaced this folder"):
        source.tensors["backbone.norm_f.weight"].words  # noqa: B018


def test_several_cuts_read_each_tensor_once(tmp_path, monkeypatch):
    """Whatever the sizes: some threads read many small tensors while others write one large tensor in pieces."""
    parent = Parent("M-M*M--", 512, 4096, 4096, 8, 16, 2, 16, 4, 8, 2, 64)
    members = {str(hidden): parent.uniform(hidden=hidden) for hidden in (512, 384, 256)}
    folder = store(tmp_path / "a", parent, parent.full, random_tensors(parent))
    reads = Counter()

    def counted(path, piece, dtype):
        reads[path, piece.place] += 1
        return read_piece(path, piece, dtype)

    monkeypatch.setattr(stored, "read_piece", counted)
    slice_members(folder, tmp_path / "cuts", members)
    assert set(reads.values()) == {1} and len(reads) == len(stored.Stored(folder).sizes)


# ------------------------------------------------------------------ families


BLOCK = {
    "budgets": [{"name": "full"}, {"name": "half", "ratio": 0.6}],
    "axes": {"hidden": [64, 48], "ffn": {"choices": [96, 64], "stripes": 4}, "mamba_heads": [8, 6],
             "mamba_head_dim": [16, 12], "attention_heads": [8, 4], "depth": [7, 5]},
}  # fmt: skip
CODES = torch.tensor([encode(PARENT, PARENT.full), encode(PARENT, MEMBER)])


def elastic(codes=CODES, **more):
    return {f"module.elastic.{k}": v for k, v in {"codes": codes, "frozen": torch.ones(1).long(), **more}.items()}


def test_an_elastic_checkpoint_is_a_family(state, tmp_path):
    order = torch.tensor([5, 1, 0, 2, 3, 4, 6])
    extra = elastic(**{"router.drop_order": order, "router.up.hidden": torch.zeros(3, 2)})
    source = open_folder(store(tmp_path / "a", PARENT, PARENT.full, state, elastic=BLOCK, extra=extra))
    assert source.parent == PARENT  # with its stripes
    assert source.members == {"full": PARENT.full, "half": MEMBER}
    assert isinstance(source.family, Family)
    assert source.family.drop_order == tuple(order.tolist())
    assert source.family.member("half").budget == {"ratio": 0.6}
    assert source.origin.name == "full"
    assert_same(source.tensors, {t.hf: state[t.hf] for t in tensors(PARENT, PARENT.full)})


def test_families_that_are_none(state, tmp_path):
    full = PARENT.full
    a = store(tmp_path / "a", PARENT, full, state, extra=elastic())
    refused("has members of a family, but .*model.yaml has no elastic block", partial(read_shapes, a))
    b = store(tmp_path / "b", PARENT, full, state, elastic=BLOCK, extra=elastic(torch.zeros_like(CODES)))
    refused("an elastic checkpoint with members", partial(read_shapes, b))
    more = {**BLOCK, "budgets": [*BLOCK["budgets"], {"name": "less", "ratio": 0.5}]}
    c = store(tmp_path / "c", PARENT, full, state, elastic=more, extra=elastic())
    refused("as many as the checkpoint's 2 members", partial(read_shapes, c))
    e = store(tmp_path / "e", PARENT, full, state, elastic=BLOCK, extra=elastic(CODES[:, :-3]))
    refused("codes", partial(read_shapes, e))
    for i, codes in enumerate((CODES[0, 0], CODES[0], CODES.double())):
        f = store(tmp_path / f"f{i}", PARENT, full, state, elastic=BLOCK, extra=elastic(codes))
        refused("checkpoint.elastic.codes: '.*' is not allowed; a row of integers", partial(read_shapes, f))
    order = {"router.drop_order": torch.tensor(5)}
    g = store(tmp_path / "g", PARENT, full, state, elastic=BLOCK, extra=elastic(**order))
    refused("drop_order", partial(read_shapes, g))


# ------------------------------------------------------------------ what is none


# ------------------------------------------------------------------ by name, of whatever format


def test_reading_takes_torch_and_no_more(state, tmp_path):
    """A deployer has the extra `runtime`: a trained checkpoint is inspected and cut with neither NeMo nor Megatron."""
    store(tmp_path / "nemo", PARENT, PARENT.full, state, elastic=BLOCK, extra=elastic())
    code = (
        "import sys\n"
        "sys.modules |= dict.fromkeys(['nemo', 'megatron', 'lightning', 'nemo_run', 'fiddle', 'transformers'])\n"
        "from nemo_elastic.cli import main\n"
        "for words in ('inspect nemo', 'slice nemo --member half --out hf'):\n"
        "    try: main(words.split())\n"
        "    except SystemExit as ended: assert not ended.code\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    wanted = cut(PARENT, MEMBER, state)
    assert all(torch.equal(raw.torch(), wanted[n]) for n, raw in open_source(tmp_path / "hf").tensors.items())


def test_a_folder_is_opened_in_its_format(state, tmp_path):
    folder = store(tmp_path / "a", PARENT, PARENT.full, state)
    assert open_source(folder).parent == read_shapes(folder).parent == replace(PARENT, ffn_stripes=1)
    (folder / "config.json").write_text("{}")  # then it says that it is a Hugging Face folder
    refused("config.json", partial(open_source, folder))
