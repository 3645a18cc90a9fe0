# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What we write loads in stock transformers and computes what our own model and the independent reference compute."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from nemo_elastic.core.family import PARENT_WIDTH, Parent, Subnet
from nemo_elastic.core.kinds.registry import all_axes, layer_axes
from nemo_elastic.core.manifest import Family
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.config import from_hf_config
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.weights import random_state
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests import reference
from tests.shapes import LATENT, MOE, PARENT, TOP_K
from tests.strategies import parents, subnets

from .hf_client import worker

pytestmark = pytest.mark.hf
WIDE = Parent(
    pattern="M*-M--*M", hidden=24, vocab=40, ffn=20, mamba_heads=6, mamba_head_dim=5, mamba_groups=3, state=6,
    conv_kernel=3, attention_heads=6, kv_heads=2, attention_head_dim=7, ffn_stripes=2,
)  # fmt: skip
TIED = replace(PARENT, tied=True, norm_eps=1e-3)
ROTATED = replace(WIDE, norm=PARENT_WIDTH, norm_eps=1e-2)
UNEVEN = Subnet(
    12,
    (
        PARENT.layer(0, mamba_heads=4, mamba_head_dim=2),
        PARENT.layer(1, ffn=8),
        PARENT.layer(2),
        PARENT.layer(3, attention_heads=2),
        PARENT.layer(4, ffn=12),
    ),
)


@dataclass(frozen=True)
class Case:
    parent: Parent
    member: Subnet
    kind: str = "NemotronHForCausalLM"
    dtype: torch.dtype = torch.float32


PUZZLE = "NemotronHPuzzleForCausalLM"
CASES = {
    "whole": Case(PARENT, PARENT.full),
    "uniform": Case(PARENT, PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4, attention_heads=2)),
    "channels": Case(WIDE, WIDE.uniform(hidden=20, ffn=14, mamba_heads=3, mamba_head_dim=4, attention_heads=2)),
    "depth": Case(WIDE, WIDE.uniform([0, 1, 4, 7])),
    "no attention": Case(WIDE, WIDE.uniform([0, 2, 3], hidden=11)),
    "norms over the parent's width": Case(ROTATED, ROTATED.uniform(hidden=15, mamba_heads=3)),
    "tied": Case(TIED, TIED.uniform(hidden=9)),
    "bfloat16": Case(WIDE, WIDE.uniform(hidden=16, mamba_heads=3), dtype=torch.bfloat16),
    "ffn per layer": Case(
        WIDE,
        Subnet(
            24, tuple(WIDE.layer(i, **({"ffn": 2 + 2 * i} if t == "mlp" else {})) for i, t in enumerate(WIDE.types))
        ),
        PUZZLE,
    ),
    "heads per layer": Case(PARENT, UNEVEN, PUZZLE),
    "tied per layer": Case(TIED, UNEVEN, PUZZLE),
    "experts": Case(MOE, MOE.uniform(hidden=12, experts=4, expert_ffn=6, shared_ffn=12)),
    "latent experts": Case(LATENT, LATENT.uniform([0, 1, 3], hidden=9, experts=6, latent=3)),
    "experts per layer": Case(
        LATENT, Subnet(12, (LATENT.layer(1, experts=4), LATENT.layer(3), LATENT.layer(4, expert_ffn=4))), PUZZLE
    ),
    "fewer experts for a token": Case(TOP_K, TOP_K.uniform(top_k=2)),
    "fewer experts for a token by layer": Case(
        TOP_K, Subnet(12, (TOP_K.layer(0), TOP_K.layer(1, top_k=1), TOP_K.layer(4, top_k=2, experts=6))), PUZZLE
    ),
    "two layers": Case(WIDE, Subnet(7, (WIDE.layer(1, attention_heads=4), WIDE.layer(6, attention_heads=2))), PUZZLE),
}
TOKENS = torch.randint(32, (2, 40), generator=torch.Generator().manual_seed(0))
#: Axes that a random member is cut on, whether its layers differ, and how many of such members are drawn.
DRAWN = [
    *(((axis,), False, 1) for axis in all_axes()),
    *(((axis,), True, 1) for axis in layer_axes()),
    (all_axes(), False, 12),
    (all_axes(), True, 12),
    (all_axes(), None, 8),
]
#: axis of experts -> its width's name in files
STRIPES = {"experts": "experts", "expert_ffn": "ffn", "shared_ffn": "shared_ffn"}
COUNT = sum(count for *_, count in DRAWN)


@pytest.fixture(scope="module")
def hf(tmp_path_factory):
    with worker(tmp_path_factory.mktemp("hf")) as running:
        yield running


@pytest.fixture(scope="module")
def ran(hf):
    """Every case's folder, its logits by our own model, and what transformers made of it."""
    ours, theirs, report = {}, {}, {}
    for i, (name, case) in enumerate(CASES.items()):
        state = random_state(case.parent, case.parent.full, seed=i, dtype=case.dtype)
        family = Family.of(case.parent, {"c": case.member})
        source = write_family(hf.place / f"{name}.family", case.parent, state, family)
        slice_checkpoint(source, hf.place / name, subnet=case.member)
        model = NemotronH(case.parent, {n: t.float() for n, t in state.items()}, trainable=False)
        ours[name] = model(TOKENS, case.member).numpy()
        theirs[name], report[name] = hf.arrays("run", TOKENS.numpy(), folder=str(hf.place / name), thorough=True)
    return hf.place, ours, theirs, report


@pytest.mark.parametrize("name", CASES)
def test_logits_and_decoding(ran, name):
    _, ours, theirs, report = ran
    np.testing.assert_allclose(theirs[name]["logits"], ours[name], rtol=1e-5, atol=1e-5)
    assert np.abs(ours[name]).max() > 0.5  # nothing to compare otherwise
    np.testing.assert_array_equal(theirs[name]["grown"], theirs[name]["again"])
    assert report[name] == {
        "class": CASES[name].kind,
        "loading": {},  # no missing, unexpected or mismatched tensor
        "same shapes when made anew": True,
        "finite": True,
    }


@pytest.mark.parametrize("name", CASES)
def test_what_transformers_saves_is_read_again(ran, name):
    place = ran[0]
    ours, theirs = open_source(place / name), open_source(place / f"{name}.saved")
    ours_again, theirs_again = (from_hf_config(source.config)[1] for source in (ours, theirs))
    assert ours_again.layers == theirs_again.layers == theirs.subnet.layers
    assert (theirs.subnet.hidden, theirs.parent.norm_eps) == (ours.subnet.hidden, ours.parent.norm_eps)
    assert theirs.parent.tied == ours.parent.tied
    for tensor in ours.tensors:
        np.testing.assert_array_equal(theirs.tensors[tensor].numpy(), ours.tensors[tensor].numpy())


def test_transformers_is_as_new_as_we_say(hf):
    assert tuple(map(int, hf.ask("version").split(".")[:2])) >= (5, 6)


def random_member(axes: tuple[str, ...], per_layer: bool | None, number: int) -> tuple[Parent, Subnet]:
    """The same random parent and member in every run: hypothesis without its chance."""
    seen: list[tuple[Parent, Subnet]] = []

    few = next((axis for axis in ("kv_heads", "top_k") if axes == (axis,)), None)  # which only some parents have

    @seed(number)
    @settings(
        max_examples=30 if few else 4, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def draw(data: st.DataObject) -> None:
        kinds = {None: "M-*E", "kv_heads": "*M", "top_k": "EM"}[few]
        parent = data.draw(parents(pattern=st.text(kinds, min_size=3, max_size=7), optional=True))
        assume(few is None or few in parent.axes)
        member = data.draw(subnets(parent, axes=axes, per_layer=per_layer))
        assume(few is None or any(width < parent.size(few) for width in member.widths(few)))
        assume(member != parent.full and (per_layer is None or member.is_uniform != per_layer))
        assume(min(member.widths("experts"), default=2) >= 2)  # transformers looks at the best two of a group
        seen.append((parent, member))

    draw()
    return seen[-1]  # the first is the simplest


def reference_of(family: Path, parent: Parent, member: Subnet, tokens: np.ndarray) -> np.ndarray | None:
    """The reference's logits of a member; None where rounding the weights to float32 would show in them.

    Some drawn models have norms over one or two numbers next to zero, whose sign decides: there is nothing to compare.
    """
    moe = {name: parent.sizes.get(f"{axis}_stripes", 1) for axis, name in STRIPES.items()}
    stripes = parent.ffn_stripes, moe, parent.sizes.get("kv_heads_stripes", 1)
    cut = reference.cut(reference.read(family), member.to_json(), *stripes)
    expect = reference.logits(cut, tokens)
    for i in range(3):
        rng = np.random.default_rng(i)
        rounded = {n: t * (1 + 6e-8 * rng.standard_normal(t.shape)) for n, t in cut.tensors.items()}
        moved = reference.logits(replace(cut, tensors=rounded), tokens)
        if not np.abs(moved - expect).max() <= 5e-6 * np.abs(expect).max():
            return None
    return expect


@pytest.fixture(scope="module")
def drawn(hf):
    """Of each random member: parent, member, folder, tokens, the reference's logits, transformers', and its report."""
    out, numbers, left_out = [], itertools.count(), 0
    for axes, per_layer, count in DRAWN:
        wanted = len(out) + count
        while len(out) < wanted:
            i = next(numbers)
            parent, member = random_member(axes, per_layer, i)
            state = random_state(parent, parent.full, seed=i)
            family = write_family(hf.place / f"{i}.family", parent, state, Family.of(parent, {"m": member}))
            tokens = np.random.default_rng(i).integers(parent.vocab, size=(2, 11))
            expect = reference_of(family, parent, member, tokens)
            if expect is None:
                left_out += 1
                continue
            folder = slice_checkpoint(family, hf.place / f"{i}.member", subnet=member).out
            got, message = hf.arrays("run", tokens, folder=str(folder))
            out.append((parent, member, folder, tokens, expect, got["logits"], message))
    assert left_out < COUNT // 4
    return out


@pytest.mark.parametrize("i", range(COUNT))
def test_a_random_member(drawn, i):
    _, member, folder, tokens, expect, got, report = drawn[i]
    assert report == {"class": "NemotronHForCausalLM" if member.is_uniform else PUZZLE, "loading": {}}
    scale = np.abs(expect).max()
    assert scale > 0.05 and np.abs(got - expect).max() <= 1e-5 * scale
    # and what the folder says of itself is the same model
    again = reference.logits(reference.read(folder), tokens)
    assert np.abs(again - expect).max() <= 1e-10 * scale


def test_the_random_members_are_of_all_kinds(drawn):
    assert len(drawn) == COUNT >= 25
    members = [(parent, member) for parent, member, *_ in drawn]
    assert {member.is_uniform for _, member in members} == {parent.tied for parent, _ in members} == {True, False}
    assert {parent.norm_eps for parent, _ in members} == {1e-5, 1e-2}
    assert {n > 1 for p, _ in members for n in (p.ffn_stripes, p.mamba_groups, p.kv_heads)} == {True, False}
    for axis in layer_axes():
        cut = [width < parent.axis(axis).size for parent, member in members for width in member.widths(axis)]
        assert sum(cut) >= 5, axis
    assert sum(member.hidden < parent.hidden for parent, member in members) >= 5
    assert sum(len(member.layers) < parent.num_layers for parent, member in members) >= 5
    assert any("*" not in member.pattern for _, member in members)
