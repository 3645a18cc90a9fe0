# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What holds for every cut of every family: the layout's words, the same from wherever they are cut, whole files."""

from __future__ import annotations

import math
from pathlib import Path
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic import slice_checkpoint
from nemo_elastic.core import layout
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Parent
from nemo_elastic.formats import tensor
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.reading import MEMBER_FILE, open_tensors
from nemo_elastic.slicing.slicer import slice_members
from tests.strategies import chains, parents, parents_and_subnets

from .helpers import contents, random_words, scratch, write

DTYPES = st.sampled_from(["F32", "BF16", "F16", "F8_E4M3"])
#: largest files of weights: everything in one, or a few tensors in each
SHARDS = st.sampled_from([10**9, 2000, 300])


@st.composite
def words(draw: st.DrawFn, parent: Parent) -> dict[str, tensor.Tensor]:
    """Random words of a parent: of one dtype, or of another in every tensor, as quantised models have them."""
    kinds = ("F64", "F32", "BF16", "F16", "F8_E4M3", "F8_E5M2")
    one = draw(st.sampled_from([None, *kinds]))
    if one is not None:
        return random_words(parent, one, draw(st.integers(0, 9)))
    each = {kind: random_words(parent, kind) for kind in kinds}
    names = list(each[kinds[0]])
    drawn = draw(st.lists(st.sampled_from(kinds), min_size=len(names), max_size=len(names)))
    return {name: each[kind][name] for name, kind in zip(names, drawn)}


def tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """dtype, shape and bytes of every tensor of a folder, in however many files."""
    return {name: (raw.dtype, raw.shape, raw.words.tobytes()) for name, raw in open_tensors(folder).items()}


def weight_files(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if ".safetensors" in name}


@settings(max_examples=16)
@given(parents_and_subnets(), DTYPES, st.integers(50, 5000))
def test_every_tensor_is_what_the_layout_keeps(both, dtype, shard_bytes):
    parent, member = both
    words = random_words(parent, dtype)
    with scratch() as place:
        write(place / "family", parent, tensors=words, shard_bytes=shard_bytes)
        cut = slice_checkpoint(place / "family", place / "cut", subnet=member, shard_bytes=shard_bytes)
        read = open_tensors(place / "cut")
        source = {(t.row.name, t.index, t.number): words[t.hf] for t in layout.tensors(parent, parent.full)}
        for t in layout.tensors(parent, member):
            index = t.layer.index if t.layer else None
            kept = [
                layout.selection(parent, t.row, d, parent.full, member, index).indices for d in range(len(t.shape))
            ]
            whole = source[t.row.name, index, layout.original(parent, t.row, t.number, parent.full, member, index)]
            assert read[t.hf].dtype == dtype
            np.testing.assert_array_equal(read[t.hf].words, whole.words[np.ix_(*kept)], t.hf)
        counted = {n: math.prod(raw.shape) for n, raw in read.items() if n != "lm_head.weight" or not parent.tied}
        assert sum(counted.values()) == parameters(parent, member) == cut.parameters
        sizes = [p.stat().st_size for p in (place / "cut").glob("*.safetensors")]
        assert len(sizes) == 1 or max(sizes) < shard_bytes + max(raw.nbytes for raw in read.values()) + 100_000
        assert open_source(place / "cut").subnet == member


@settings(max_examples=16)
@given(st.data())
def test_any_way_down_a_family_ends_at_the_same_files(data):
    """12b -> 9b -> 6b is 12b -> 6b: of random families of three and more members, by name, through random stops."""
    parent = data.draw(parents())
    chain = data.draw(chains(parent, data.draw(st.integers(3, 5))))
    members = {f"m{i}": member for i, member in enumerate(chain)}
    with scratch() as place:
        write(place / "family", parent, dict(list(members.items())[1:]), tensors=data.draw(words(parent)))
        at, folder = 0, place / "family"
        while at < len(chain) - 1:
            at = data.draw(st.integers(at + 1, len(chain) - 1))
            name, shard_bytes = f"m{at}", data.draw(SHARDS)
            slice_checkpoint(folder, place / f"way to {at}", subnet=members[name], shard_bytes=shard_bytes)
            slice_checkpoint(place / "family", place / name, member=name, shard_bytes=shard_bytes)
            folder = place / f"way to {at}"
            direct, way = contents(place / name), contents(folder)
            assert direct.keys() == way.keys()
            # a shape twice in a family has two names
            named = {MEMBER_FILE, "README.md"} if len(set(chain)) < len(chain) else set()
            assert all(direct[file] == way[file] for file in direct.keys() - named)


@settings(max_examples=10)
@given(st.data())
def test_the_full_cut_of_a_family_has_the_same_files_of_weights(data):
    parent, shard_bytes = data.draw(parents()), data.draw(SHARDS)
    with scratch() as place:
        family = write(place / "family", parent, tensors=data.draw(words(parent)), shard_bytes=shard_bytes)
        slice_checkpoint(family, place / "full", member="full", shard_bytes=shard_bytes)
        assert len(weight_files(family)) > 0 and weight_files(place / "full") == weight_files(family)
        # in files of another size the tensors are the same, and so they are back in the first size
        other = data.draw(SHARDS)
        slice_checkpoint(place / "full", place / "other", subnet=parent.full, shard_bytes=other)
        slice_checkpoint(place / "other", place / "back", subnet=parent.full, shard_bytes=shard_bytes)
        assert tensors(place / "other") == tensors(family) and weight_files(place / "back") == weight_files(family)


@settings(max_examples=8)
@given(st.data())
def test_several_members_at_once_are_the_members_one_by_one(data):
    parent = data.draw(parents())
    chain = data.draw(chains(parent, 4))
    members = {f"m{i}": member for i, member in enumerate(chain)}
    with scratch() as place:
        write(place / "family", parent, tensors=data.draw(words(parent)), shard_bytes=data.draw(SHARDS))
        shard_bytes = data.draw(SHARDS)
        cuts = slice_members(place / "family", place / "all", members, shard_bytes=shard_bytes)
        assert [cut.out.name for cut in cuts] == list(members)
        assert sorted(p.name for p in (place / "all").iterdir()) == [".nemo-elastic", *sorted(members)]
        for name, member in members.items():
            slice_checkpoint(place / "family", place / name, subnet=member, shard_bytes=shard_bytes)
            assert contents(place / "all" / name) == contents(place / name)


@settings(max_examples=25)
@given(parents_and_subnets(), st.integers(1, 200))
def test_pieces_are_small_and_add_up(both, span):
    with mock.patch.object(tensor, "SPAN", span):
        pieces_add_up(*both, span)


def pieces_add_up(parent, member, span):
    for t in layout.tensors(parent, member):
        index = t.layer.index if t.layer else None
        whole = next(
            x for x in layout.tensors(parent, parent.full) if x.row == t.row and (x.layer and x.layer.index) == index
        )
        words = np.arange(math.prod(whole.shape), dtype=np.uint32).reshape(whole.shape)
        kept = tuple(layout.selection(parent, t.row, d, parent.full, member, index) for d in range(len(t.shape)))
        part = tensor.Tensor.of_words("U32", words).take(kept)
        assert part.shape == t.shape
        parts = list(part.pieces())
        assert all(p.flags.c_contiguous and p.nbytes <= max(span, words[:1].nbytes) for p in parts)
        np.testing.assert_array_equal(np.concatenate([p.reshape(-1) for p in parts]), part.words.reshape(-1))
