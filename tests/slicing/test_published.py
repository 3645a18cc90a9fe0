# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Families of a published parent and its published members: what `init --member` makes of them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader

from nemo_elastic.core.kinds.mamba import SHARDS
from nemo_elastic.core.manifest import Family
from nemo_elastic.core.sizes import path
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.nn.gates import Gates
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.example import byte_tokenizer
from nemo_elastic.slicing.verification import verify

from . import strangers as theirs
from .helpers import call, contents, edit_json, printed, run
from .strangers import DENSE, LATENT, MOE, Config

TOKENS = torch.randint(0, DENSE["vocab_size"], (2, 21), generator=torch.Generator().manual_seed(0))
#: keys of a child's config that differ from the parent's, by what is cut
DEPTH = {"hybrid_override_pattern": "M-*M-", "num_hidden_layers": 5}
KEPT = (0, 1, 3, 5, 6)
SMALL: dict[str, tuple[Config, Config]] = {
    "hidden": (DENSE, {"hidden_size": 32}),
    "ffn": (DENSE, {"intermediate_size": 32}),
    "mamba heads": (DENSE, {"mamba_num_heads": 8}),
    "mamba head channels": (DENSE, {"mamba_head_dim": 8}),
    "attention heads": (DENSE, {"num_attention_heads": 4}),
    "key-value heads": (DENSE, {"num_key_value_heads": 2, "num_attention_heads": 4}),
    "depth": (DENSE, DEPTH),
    "all": (DENSE, DEPTH | {"hidden_size": 48, "intermediate_size": 64, "mamba_num_heads": 12}),
    "experts": (MOE, {"n_routed_experts": 3, "hidden_size": 48}),
    "expert ffn": (MOE, {"moe_intermediate_size": 32, "hidden_size": 32}),
    "shared ffn": (MOE, {"moe_shared_expert_intermediate_size": 48}),
    "latent": (LATENT, {"moe_latent_size": 16, "hidden_size": 48, "moe_intermediate_size": 16}),
}
#: those that are tried in low precision, too
LOW = ("all", "key-value heads", "experts", "latent")
PREDICTS = {"num_nextn_predict_layers": 1, "mtp_hybrid_override_pattern": "*E"}


def cut(words: theirs.Words, own: Config, child: Config, parts: int | None = None) -> theirs.Words:
    """A child's tensors; one with fewer layers keeps those of `DEPTH`."""
    kept = KEPT if child["num_hidden_layers"] < own["num_hidden_layers"] else None
    return theirs.cut(words, own, child, kept, parts)


def publish(
    place: Path, own: Config, changes: dict[str, Config], precision: str = "bf16", parts: int | None = None
) -> dict[str, Path]:
    """The parent's folder under the name `parent`, and one of each child: what differs from the parent's config."""
    words = theirs.words(own, precision)
    out = {"parent": theirs.write(place / "parent", theirs.described(own, precision), words)}
    for name, change in changes.items():
        child = own | change
        tensors = cut(words, own, child, parts)
        out[name] = theirs.write(place / name, theirs.described(child, precision), tensors)
    return out


def join(folders: dict[str, Path], *more: object) -> tuple[int, str, str]:
    members = (word for name, path in folders.items() if name != "parent" for word in ("--member", f"{name}={path}"))
    return run("init", folders["parent"], *members, *more)


@pytest.mark.parametrize(
    ("what", "precision"),
    [*((what, "bf16") for what in SMALL), *((what, low) for what in LOW for low in ("fp8", "nvfp4"))],
)
def test_every_axis_is_cut_as_they_cut_it(tmp_path: Path, what: str, precision: str) -> None:
    own, change = SMALL[what]
    folders = publish(tmp_path, own, {"small": change}, precision)
    before = contents(folders["parent"])
    code, out, err = join(folders, "--check")
    assert (code, err) == (0, "") and "small: ok" in out
    added = contents(folders["parent"])
    assert added.keys() - before.keys() == {"elastic.json"} and before.items() <= added.items()
    family = Family.load(folders["parent"])
    assert family.names == ("full", "small") and family.member("small").parameters == theirs.count(own | change)
    printed("slice", folders["parent"], "--member", "small", "--out", tmp_path / "cut")
    assert theirs.read(tmp_path / "cut") == theirs.read(folders["small"])
    for arguments in ((folders["parent"],), (tmp_path / "cut", "--parent", folders["parent"])):
        assert all(check["ok"] is not False for check in json.loads(printed("verify", *arguments, "--json"))["checks"])
    report = verify(folders["small"], parent=folders["parent"])
    assert report.ok and {"cut of the parent", "cut = masked"} <= {c.name for c in report.checks if c.ok}
    assert f"{theirs.count(own | change):,}" in printed("inspect", folders["parent"])


def test_three_members(tmp_path: Path) -> None:
    """In any order; layers that predict further tokens go along, and the parent may have a name of its own."""
    changes = {"low": {"hidden_size": 32, "moe_intermediate_size": 16}, "whole": {}, "mid": {"hidden_size": 48}}
    folders = publish(tmp_path, MOE | PREDICTS, changes)
    parent = folders["parent"]
    (parent / "tokenizer.json").write_text("{}")
    (parent / "README.md").write_text("---\nlicense: other\nlicense_name: theirs\n---\n# Theirs\n")
    before = contents(parent)
    assert join(folders, "--check")[0] == 0
    assert contents(parent) == before | {"elastic.json": (parent / "elastic.json").read_bytes()}
    family = Family.load(parent)
    assert family.names == ("whole", "mid", "low") and family.ranking_digest is None
    linked = shutil.copytree(parent, tmp_path / "linked")  # files of weights may be links
    for file in linked.glob("*.safetensors"):
        file.unlink()
        file.symlink_to(parent / file.name)
    for name in ("mid", "low"):
        printed("slice", linked, "--member", name, "--out", tmp_path / f"{name}-cut")
        assert theirs.read(tmp_path / f"{name}-cut") == theirs.read(folders[name])
        assert any(key.startswith("mtp.") for key in theirs.read(folders[name]))
        assert (tmp_path / f"{name}-cut" / "tokenizer.json").read_text() == "{}"
        assert 'license_name: "theirs"' in (tmp_path / f"{name}-cut" / "README.md").read_text()
    assert verify(linked).ok


# ------------------------------------------------------------------ how heads were cut


@pytest.mark.parametrize(("parts", "precision"), [(1, "bf16"), (2, "bf16"), (2, "nvfp4"), (4, "bf16"), (8, "bf16")])
def test_heads_that_were_cut_on_ranks(tmp_path: Path, parts: int, precision: str) -> None:
    """Megatron keeps the front of the heads of each tensor-parallel rank, with every B and C."""
    heads = {"mamba_num_heads": 8}
    folders = publish(tmp_path, DENSE, {"mid": heads, "low": heads | DEPTH | {"hidden_size": 32}}, precision, parts)
    code, out, _ = join(folders, "--check")
    assert code == 0 and (f"front of each of {parts} parts" in out) == (parts != 4)
    family = Family.load(folders["parent"])
    assert family.parent.sizes.get(SHARDS, 4) == family.parent.axis("mamba_heads").blocks == parts
    assert family.parent.has(SHARDS) == (parts != 4)
    for name in ("mid", "low"):
        printed("slice", folders["parent"], "--member", name, "--out", tmp_path / f"{name}-cut")
        assert theirs.read(tmp_path / f"{name}-cut") == theirs.read(folders[name])
    printed("slice", tmp_path / "mid-cut", "--member", "low", "--out", tmp_path / "by-way")
    assert contents(tmp_path / "by-way") == contents(tmp_path / "low-cut")
    masked = {c.name: c.ok for c in verify(folders["parent"]).checks if "masked" in c.name}
    right = True if parts % 4 == 0 else None  # else heads are in other groups than in the parent
    assert masked == {"full: cut = masked": True, "mid: cut = masked": right, "low: cut = masked": right}
    report = verify(folders["low"], parent=folders["parent"])
    assert report.ok and {c.name: c.ok for c in report.checks}["cut = masked"] == right
    if right is None:
        with pytest.raises(ElasticError, match=SHARDS):
            Gates.of(family.parent, family.member("low").subnet)
    # sizes between members are widths that parts and groups divide
    with pytest.raises(ElasticError, match="heads"):
        family.parent.uniform(mamba_heads=6)
    for shape in path(family):
        assert not any(x["heads"] % max(4, parts) for x in shape.to_json()["layers"] if x["type"] == "mamba")
    # members in memory are the published models, whatever the parts
    whole = load_family(folders["parent"], dtype=torch.float32)
    for name in ("mid", "low"):
        z_blv = load_family(folders[name], dtype=torch.float32).select()(TOKENS)
        torch.testing.assert_close(whole.select(name)(TOKENS), z_blv, rtol=1e-4, atol=1e-4)


def test_heads_that_fit_nothing(tmp_path: Path) -> None:
    folders = publish(tmp_path, DENSE, {"small": {"mamba_num_heads": 8}})
    name = "backbone.layers.0.mixer.dt_bias"
    child = DENSE | {"mamba_num_heads": 8}
    words = theirs.cut(theirs.words(DENSE), DENSE, child)
    words[name] = words[name][0], words[name][1][::-1]
    folders["small"] = theirs.write(tmp_path / "other", child, words)
    code, _, err = join(folders)
    assert code == 2 and name in err and len(err.splitlines()) == 1
    assert not (folders["parent"] / "elastic.json").exists()


def test_heads_of_a_config_alone_are_not_compared(tmp_path: Path) -> None:
    folders = publish(tmp_path, DENSE, {"small": {"mamba_num_heads": 8}})
    folders["small"] /= "config.json"
    code, out, _ = join(folders)
    assert code == 0 and "small: keeps the front of each width, and of each group's Mamba heads; not compared" in out
    assert not Family.load(folders["parent"]).parent.has(SHARDS)
    code, _, err = join(folders, "--force", "--check")
    assert code == 2 and "--check" in err


# ------------------------------------------------------------------ which layers


@pytest.mark.parametrize(
    ("change", "kept", "parts"),
    [
        ({"hybrid_override_pattern": "M*-M-", "hidden_size": 32}, (2, 3, 4, 5, 6), None),
        ({"mamba_num_heads": 8}, KEPT, 2),
    ],
    ids=["layers alone", "and parts of heads"],
)
def test_layers_whose_norms_are_alike(
    tmp_path: Path, change: Config, kept: tuple[int, ...], parts: int | None
) -> None:
    """Layers are then found by all of their tensors, and so in the right number of parts of Mamba heads alone."""
    words = {n: (t, np.full_like(w, 0x3F80) if n.endswith(".norm.weight") else w)
             for n, (t, w) in theirs.words(DENSE).items()}  # fmt: skip
    child = DENSE | DEPTH | change
    folders = {
        "parent": theirs.write(tmp_path / "parent", DENSE, words),
        "small": theirs.write(tmp_path / "small", child, theirs.cut(words, DENSE, child, kept, parts)),
    }
    assert join(folders, "--check")[0] == 0
    family = Family.load(folders["parent"])
    assert family.member("small").subnet.kept == kept and family.parent.sizes.get(SHARDS) == parts


def test_a_shallower_config_needs_weights_or_a_shape(tmp_path: Path) -> None:
    folders = publish(tmp_path, DENSE, {"small": DEPTH})
    config = folders["small"] / "config.json"
    code, err = call("init", folders["parent"], "--member", f"small={config}")
    assert code == 2 and "hybrid_override_pattern" in err and len(err.splitlines()) == 1
    shape = {"hidden": 64, "layers": [
        {"index": i, "type": t} | w for i, (t, w) in zip((0, 1, 3, 4, 5), (
            ("mamba", {"heads": 16, "head_dim": 16}), ("mlp", {"ffn": 96}), ("attention", {"heads": 8}),
            ("mlp", {"ffn": 96}), ("mamba", {"heads": 16, "head_dim": 16})), strict=True)]}  # fmt: skip
    shape["layers"] = [x for x in shape["layers"] if x["index"] in (0, 1, 3)]
    (tmp_path / "shape.json").write_text(json.dumps(shape))
    assert call("init", folders["parent"], "--member", f"small={tmp_path / 'shape.json'}") == (0, "")
    assert Family.load(folders["parent"]).member("small").subnet.kept == (0, 1, 3)
    # a member that `slice` cut says its layers itself
    printed("slice", folders["parent"], "--member", "small", "--out", tmp_path / "cut")
    again = ("init", folders["parent"], "--member", f"own={tmp_path / 'cut'}", "--check", "--force")
    assert call(*again) == (0, "") and Family.load(folders["parent"]).member("own").subnet.kept == (0, 1, 3)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"hidden_size": 80}, ("hidden", "80", "64")),
        ({"mamba_num_heads": 32}, ("mamba_heads", "32", "16")),
        ({"vocab_size": 64}, ("vocab", "64", "96")),
        ({"n_groups": 2}, ("mamba_groups", "2", "4")),
        ({"hybrid_override_pattern": "M-M*-M-*", "num_hidden_layers": 8}, ("hybrid_override_pattern", "M-M*-M-*")),
    ],
)
def test_a_child_that_is_no_member(tmp_path: Path, change: Config, says: tuple[str, ...]) -> None:
    parent = theirs.write(tmp_path / "parent", DENSE, theirs.words(DENSE))
    (tmp_path / "config.json").write_text(json.dumps(DENSE | change))
    code, err = call("init", parent, "--member", f"small={tmp_path / 'config.json'}")
    assert code == 2 and len(err.splitlines()) == 1 and all(word in err for word in says)
    assert not (parent / "elastic.json").exists()


def test_members_and_names(tmp_path: Path) -> None:
    changes = {"a": {"hidden_size": 32}, "b": {"intermediate_size": 32}}
    folders = publish(tmp_path, DENSE, changes)
    place = {name: f"{name}={path}" for name, path in folders.items()}
    parent = folders["parent"]
    wrong = {
        "not nested": ("--member", place["a"], "--member", place["b"]),
        "given twice": ("--member", place["a"], "--member", f"a={folders['b']}"),
        "NAME=CHILD": ("--member", str(folders["a"])),
        "letters, digits": ("--member", f"../a={folders['a']}"),
        "--config": ("--member", place["a"], "--config", tmp_path / "block.yaml"),
        "--check": ("--check", "--out", tmp_path / "out"),
        "--out": ("--member", place["a"], "--out", tmp_path / "out"),
    }
    for says, arguments in wrong.items():
        code, err = call("init", parent, *arguments)
        assert code == 2 and says in err and len(err.splitlines()) == 1, (says, err)
    assert not (parent / "elastic.json").exists()


def test_what_is_there_stays(tmp_path: Path) -> None:
    folders = publish(tmp_path, DENSE, {"small": {"hidden_size": 32}})
    assert join(folders)[0] == 0
    first = (folders["parent"] / "elastic.json").read_bytes()
    code, _, err = join(folders)
    assert code == 2 and "--force" in err
    assert join(folders, "--force")[0] == 0 and (folders["parent"] / "elastic.json").read_bytes() == first
    # weights that others published are never replaced
    for arguments in (("--example",), (folders["small"], "--config", tmp_path / "block.yaml")):
        code, err = call("init", *arguments, "--out", folders["parent"], "--force")
        assert code == 2 and "--force does not replace it" in err
    # and a family that somebody trained, or `init` sorted, is none of published members
    for provenance in ({"training": {"tokens": 1}}, {"training": None}):
        edit_json(folders["parent"] / "elastic.json", provenance=provenance)
        kept = (folders["parent"] / "elastic.json").read_bytes()
        code, _, err = join(folders, "--force")
        assert code == 2 and "elastic.json" in err and (folders["parent"] / "elastic.json").read_bytes() == kept


def test_a_family_in_place_keeps_its_extra_shapes(tmp_path: Path) -> None:
    """Or stays as it is, where one has a member's name now, or is no shape of the parent without key-value heads."""
    folders = publish(tmp_path, DENSE, {"few": {"num_key_value_heads": 2, "num_attention_heads": 4}})
    narrow = theirs.write(
        tmp_path / "narrow", DENSE | {"hidden_size": 32}, cut(theirs.words(DENSE), DENSE, DENSE | {"hidden_size": 32})
    )
    manifest = folders["parent"] / "elastic.json"
    assert join(folders)[0] == 0
    few = Family.load(folders["parent"]).member("few").subnet
    task = replace(few, hidden=48)
    Family.load(folders["parent"]).with_extra("task", task).save(folders["parent"])
    before = manifest.read_bytes()
    for member in (f"task={folders['few']}", f"narrow={narrow}"):
        code, err = call("init", folders["parent"], "--force", "--member", member)
        assert code == 2 and err.startswith(f"error: {manifest}: extras") and manifest.read_bytes() == before
    assert call("init", folders["parent"], "--force", "--member", f"own={folders['few']}") == (0, "")
    family = Family.load(folders["parent"])
    assert family.names == ("full", "own") and {m.name: m.subnet for m in family.extras} == {"task": task}


@pytest.mark.parametrize("change", [{"hidden_size": 32}, DEPTH], ids=["width", "depth"])
def test_check_names_what_differs_and_writes_nothing(tmp_path: Path, change: Config) -> None:
    child, words, name = DENSE | change, theirs.words(DENSE), "backbone.layers.1.mixer.up_proj.weight"
    own = cut(words, DENSE, child)
    own[name][1][3, 5] ^= 1
    folders = {"parent": theirs.write(tmp_path / "p", DENSE, words), "small": theirs.write(tmp_path / "s", child, own)}
    code, out, err = join(folders, "--check")
    assert (code, err) == (1, "") and "FAILED" in out and name in out
    assert not (folders["parent"] / "elastic.json").exists()
    code, out, _ = join(folders, "--check", "--json")
    assert code == 1 and json.loads(out)["ok"] is False
    assert join(folders)[0] == 0  # nobody asked
    assert not verify(folders["small"], parent=folders["parent"]).ok


@pytest.mark.parametrize(
    ("own", "child", "ratio", "axes", "stripes"),
    [
        (DENSE, {"intermediate_size": 32}, 0.9, {"ffn": {"choices": [96, 32], "stripes": 8}}, {"ffn_stripes": 8}),
        (MOE, {"n_routed_experts": 2, "moe_shared_expert_intermediate_size": 32}, 0.85,
         {"experts": {"choices": [4, 2], "stripes": 2}, "shared_ffn": {"choices": [64, 32], "stripes": 4}},
         {"experts_stripes": 2, "shared_ffn_stripes": 4}),
    ],
    ids=["ffn", "experts"],
)  # fmt: skip
def test_stripes_are_found_by_weights(
    tmp_path: Path, own: Config, child: Config, ratio: float, axes: dict[str, Config], stripes: dict[str, int]
) -> None:
    """A child keeps the front of its widths, or, where it was cut on ranks, of each rank's part of them."""
    folders = publish(tmp_path, own, {"small": child})
    block = {"budgets": [{"name": "full"}, {"name": "small", "ratio": ratio}], "axes": axes}
    (tmp_path / "block.json").write_text(json.dumps({"elastic": block}))
    printed("init", folders["parent"], "--config", tmp_path / "block.json", "--out", tmp_path / "striped")
    assert verify(tmp_path / "striped").ok and not verify(folders["small"], parent=tmp_path / "striped").ok
    printed("slice", tmp_path / "striped", "--member", "small", "--out", tmp_path / "ranks")
    (tmp_path / "ranks" / MEMBER_FILE).unlink()  # a stranger's says nothing
    found = {"small": dict.fromkeys(stripes, 1), "ranks": stripes}
    for name, expected in found.items():
        folder = folders["small"] if name == "small" else tmp_path / "ranks"
        code, out, _ = run("init", folders["parent"], "--member", f"small={folder}", "--check", "--force")
        assert code == 0 and "FAILED" not in out
        parent = Family.load(folders["parent"]).parent
        assert {size: parent.size(size) for size in stripes} == expected
    code, out, _ = run("init", folders["parent"], "--member", f"small={folders['small'] / 'config.json'}", "--force")
    assert code == 0 and "small: keeps the front of each width, and of each group's Mamba heads; not compared" in out


# ------------------------------------------------------------------ at full size


def test_the_30b_at_full_size_takes_no_room(tmp_path: Path) -> None:
    """63 GB of holes: counts of the published members, and a cut of a few layers."""
    parent = theirs.write_holes(tmp_path / "30b", theirs.NANO_3)
    assert (parent / "model.safetensors").stat().st_size > 6e10
    assert (parent / "model.safetensors").stat().st_blocks * 512 < 1e8
    (tmp_path / "12b.json").write_text(json.dumps(theirs.NANO_3_12B))
    printed("init", parent, "--member", f"12b={tmp_path / '12b.json'}")
    members = json.loads(printed("inspect", parent, "--json"))["members"]
    assert members["full"]["parameters"] == theirs.count(theirs.NANO_3) == 31_577_940_288
    assert members["12b"]["parameters"] == theirs.count(theirs.NANO_3_12B)
    assert round(members["12b"]["parameters"] / 1e9, 2) == 12.43
    assert round(members["12b"]["active_parameters"] / 1e9, 2) == 2.08
    subnet = members["12b"]["subnet"]
    assert [sum(x["type"] == kind for x in subnet["layers"]) for kind in ("mamba", "moe", "attention")] == [23, 23, 6]
    few = [x | ({"experts": 6, "ffn": 32, "shared_ffn": 64} if x["type"] == "moe" else {})
           for x in subnet["layers"] if x["index"] in (0, 1, 5)]  # fmt: skip
    (tmp_path / "few.json").write_text(json.dumps({"hidden": 64, "layers": few}))
    printed("slice", parent, "--subnet", tmp_path / "few.json", "--out", tmp_path / "few")
    assert open_source(tmp_path / "few").tensors["backbone.layers.1.mixer.experts.5.up_proj.weight"].shape == (32, 64)
    for name, content in byte_tokenizer().items():
        (parent / name).write_text(json.dumps(content))
    printed("slice", parent, "--subnet", tmp_path / "few.json", "--format", "gguf", "--out", tmp_path / "few.gguf")
    shapes = {tensor.name: tensor.shape.tolist() for tensor in GGUFReader(tmp_path / "few.gguf").tensors}
    assert shapes["blk.1.ffn_up_exps.weight"] == [64, 32, 6]
