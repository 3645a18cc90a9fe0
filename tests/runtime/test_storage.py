# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Nested order: every member is a corner of every matrix, and computes what it computes when it is cut out."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.registry import layer_axes
from nemo_elastic.core.layout import keys, rows, shape
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime, MemberModel, load_family
from nemo_elastic.runtime.storage import CutLayers, check_device
from tests.runtime.talking import talking_family
from tests.shapes import PARENT, having
from tests.strategies import chains, parents, subnets

some = settings(max_examples=40)


def tokens_of(parent: Parent, batch: int = 2, length: int = 6) -> torch.Tensor:
    return torch.randint(parent.vocab, (batch, length), generator=torch.Generator().manual_seed(0))


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal in double precision, but for the order of sums."""
    return (a - b).abs().max().item() <= 1e-11 * b.abs().max().item()


def matrices(model: MemberModel) -> dict[tuple[str, int | None], torch.Tensor]:
    """Every matrix that a forward of the model reads, by name and layer."""
    w = model.weights
    out = {("embedding", None): w.embedding, ("head", None): w.head}
    for layer in w.layers:
        own = {f"{layer.layer.type}.{name}": t for name, t in layer.tensors.items() if t.dim() == 2}
        out |= {(name, layer.layer.index): t for name, t in own.items()}
    return out


def shapes(parent: Parent, member: Subnet) -> dict[tuple[str, int | None], tuple[int, ...]]:
    """Shapes of those matrices in a model that holds the member alone."""
    seen: dict[tuple[str, int | None], tuple[int, ...]] = {}
    for row, layer in rows(parent, member):
        own = [row.name] if layer is None else [f"{layer.type}.{key}" for key, _ in keys(row, layer)]
        seen |= {(name, layer and layer.index): shape(parent, row, member, layer) for name in own}
    if parent.tied:
        seen["head", None] = seen["embedding", None]
    return {key: size for key, size in seen.items() if len(size) == 2}


@some
@given(data=st.data())
def test_members_of_any_family_are_what_is_cut_out(data):
    """Logits and tokens, of members, and of a shape of its own inside a member."""
    parent = data.draw(parents(norms=True))
    members = data.draw(chains(parent))
    members.append(data.draw(subnets(parent, upper=data.draw(st.sampled_from(members)))))
    model = NemotronH.random(parent, dtype=torch.float64)
    family = FamilyRuntime(model, {str(i): m for i, m in enumerate(members[:3])})
    tokens = tokens_of(parent)
    for member in members:
        alone = model.submodel(member)
        assert same(family.select(member)(tokens), alone(tokens))
        assert family.select(member).generate(tokens[:, :3], 5) == alone.generate(tokens[:, :3], 5)


@some
@given(data=st.data())
def test_a_member_reads_no_row_or_column_but_its_own_and_copies_none(data):
    parent = data.draw(parents())
    members = data.draw(chains(parent))
    family = FamilyRuntime(NemotronH.random(parent), {str(i): m for i, m in enumerate(members)})
    held = {t.untyped_storage().data_ptr() for t in matrices(family.select()).values()}
    for member in members:
        actual = matrices(family.select(member))
        assert {key: tuple(t.shape) for key, t in actual.items()} == shapes(parent, member)
        assert {t.untyped_storage().data_ptr() for t in actual.values()} <= held


@some
@given(data=st.data())
def test_a_shape_between_members_reads_no_more_than_the_next_larger_member(data):
    parent = data.draw(parents())
    large, middle, small = data.draw(chains(parent))
    family = FamilyRuntime(NemotronH.random(parent), {"a": large, "b": middle, "c": small})
    between = data.draw(subnets(parent, upper=middle))
    upper = shapes(parent, middle)
    for key, t in matrices(family.select(between)).items():
        assert all(n <= most for n, most in zip(t.shape, upper[key], strict=True))


@pytest.mark.parametrize("axis", layer_axes())
def test_along_one_axis_every_width_is_a_prefix(axis):
    """Widths that no member has cost what they keep."""
    parent = having(axis)
    prefix = parent.axis(axis)
    least = -(-prefix.least // prefix.blocks) * prefix.blocks
    members = {"a": parent.full, "b": parent.uniform(**{axis: least})}
    family = FamilyRuntime(NemotronH.random(parent), members)
    for width in range(least, prefix.size + 1, prefix.blocks):
        member = parent.uniform(hidden=9, **{axis: width})
        assert {k: tuple(t.shape) for k, t in matrices(family.select(member)).items()} == shapes(parent, member)


def test_nothing_is_moved_for_the_smallest():
    members = {"a": PARENT.full, "b": PARENT.uniform(mamba_heads=2, mamba_head_dim=3, attention_heads=2, ffn=8)}
    family = FamilyRuntime(NemotronH.random(PARENT), members)
    assert not any(layer.orders for layer in family.select("b").weights.layers)
    assert any(layer.orders for layer in family.select("a").weights.layers)


def test_members_that_are_not_nested_in_each_other_run_too():
    wide, long = PARENT.uniform(keep=(0, 1, 3), ffn=12), PARENT.uniform(mamba_heads=2, ffn=8, hidden=9)
    narrow = PARENT.uniform(mamba_heads=4, mamba_head_dim=2)
    model = NemotronH.random(PARENT, dtype=torch.float64)
    family = FamilyRuntime(model, {"wide": wide, "long": long, "narrow": narrow})
    for member in (wide, long, narrow, PARENT.full):
        assert same(family.select(member)(tokens_of(PARENT)), model(tokens_of(PARENT), member))


def test_layers_are_cut_when_they_first_run():
    family = FamilyRuntime(NemotronH.random(PARENT), {"a": PARENT.full, "b": PARENT.uniform(hidden=8, ffn=8)})
    layers = family.select("b").weights.layers
    assert isinstance(layers, CutLayers) and layers.cut == [None] * 5
    assert layers[1] is layers[1] and [layer is None for layer in layers.cut] == [True, False, True, True, True]


def test_what_members_keep_beside_the_weights_is_small():
    """At a width at which matrices weigh something: vectors, and a number for each channel."""
    parent = replace(
        PARENT, hidden=256, ffn=512, mamba_heads=16, mamba_head_dim=32, attention_heads=8, attention_head_dim=32
    )
    small = parent.uniform(hidden=128, ffn=256, mamba_heads=8, mamba_head_dim=16, attention_heads=4)
    middle = parent.uniform(hidden=192, ffn=384, mamba_heads=12, mamba_head_dim=24)
    family = FamilyRuntime(NemotronH.random(parent), {"a": parent.full, "b": middle, "c": small})
    before = family.nbytes
    assert before == sum(p.nbytes for p in family.model.parameters())
    for which in family.names:
        family.select(which)(tokens_of(parent))
    assert family.nbytes == before
    assert 0 < family.slice_bytes < 0.04 * before
    family.release()
    assert family.slice_bytes == 0


@some
@given(data=st.data())
def test_the_model_comes_back_in_its_own_order(data):
    parent = data.draw(parents())
    model = NemotronH.random(parent)
    family = FamilyRuntime(model, {str(i): m for i, m in enumerate(data.draw(chains(parent)))})
    back = family.model.state_dict()
    assert list(back) == list(model.state_dict())
    assert all(torch.equal(t, back[name]) for name, t in model.state_dict().items())


def test_a_family_of_one_shares_the_memory_of_its_model():
    model = NemotronH.random(PARENT)
    family = FamilyRuntime(model)
    own = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in family.model.parameters()} == own
    assert {t.data_ptr() for t in matrices(family.select()).values()} <= own
    copied = FamilyRuntime(model, copy=True)
    assert not own & {p.data_ptr() for p in copied.model.parameters()}


def broken_family(tmp_path, name: str, value: float, of: slice = slice(-1, None)):
    """A family's folder with some values of one tensor changed, the last alone by default."""
    folder = talking_family(tmp_path)
    file = folder / "model.safetensors"
    state = load_file(file)
    state[name].view(-1)[of] = value
    save_file(state, file)
    (folder / "elastic_checksums.json").unlink()
    return folder


#: of these a member can say something finite: a state that decays at once, a row unused
@pytest.mark.parametrize(
    ("name", "value"), [("backbone.layers.0.mixer.A_log", float("inf")), ("backbone.embeddings.weight", float("nan"))]
)
def test_weights_that_are_no_numbers_are_reported_when_they_are_read(tmp_path, name, value):
    folder = broken_family(tmp_path, name, value)
    with pytest.raises(ElasticError, match=rf"^{folder}: {name}: 1 values "):
        load_family(folder)


def test_what_a_dtype_cannot_hold_is_reported(tmp_path):
    folder = broken_family(tmp_path, "lm_head.weight", 1e5)
    load_family(folder), load_family(folder, dtype=torch.bfloat16)
    with pytest.raises(ElasticError, match=r"^dtype: 'torch.float16' .*'lm_head.weight' has 1 numbers"):
        load_family(folder, dtype=torch.float16)


@pytest.mark.parametrize(("dtype", "tiny"), [(torch.float16, 1e-9), (torch.bfloat16, 1e-41)])
def test_what_a_dtype_makes_zero_is_counted(tmp_path, dtype, tiny):
    folder = broken_family(tmp_path, "lm_head.weight", tiny)
    exact = sum(int(((t.to(dtype) == 0) & (t != 0)).sum()) for t in load_file(folder / "model.safetensors").values())
    assert load_family(folder, dtype=dtype).underflowed == exact >= 1
    assert load_family(folder).underflowed == 0


def test_sums_that_overflow_are_no_damage(tmp_path):
    """Every value is a number, and their sum is none."""
    load_family(broken_family(tmp_path, "lm_head.weight", 3e38, slice(None)))


def test_a_device_is_one_that_is_here_and_computes() -> None:
    assert check_device("cpu") == check_device(torch.device("cpu")) == torch.device("cpu")
    for wrong in ("gpu", "cuda:99", -1, 1.5, "meta", None):
        with pytest.raises(ElasticError, match=r"^--device: ") as caught:
            check_device(wrong, "--device")
        assert "\n" not in str(caught.value)
