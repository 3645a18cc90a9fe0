# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What version 0.1 wrote opens: a checkpoint of four steps, a ranking, shapes, a family folder and a member of it.

`files/v0_1.tar.xz` was written by that version's own code from one tiny training (its block is in it); `facts.json`
says what that version read out of it: members, the router's choices and costs, and some logits.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic import ElasticConfig, Family, load_family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.megatron.stored import Stored, read_elastic
from nemo_elastic.ranking import Ranking
from nemo_elastic.router import Router
from nemo_elastic.search import Space
from nemo_elastic.slicing.family_folder import read_members, write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.verification import verify


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("v0_1")
    with tarfile.open(Path(__file__).parent / "files" / "v0_1.tar.xz") as packed:
        packed.extractall(out, filter="data")
    return out


@pytest.fixture(scope="module")
def facts(old: Path) -> dict[str, Any]:
    return json.loads((old / "facts.json").read_text())


def test_elastic_json_says_the_same_and_is_written_as_it_was(old: Path, facts: dict[str, Any]) -> None:
    family = Family.load(old / "family")
    assert {member.name: member.subnet.to_json() for member in family} == facts["members"]
    assert family.to_json() == json.loads((old / "family" / "elastic.json").read_text())


def test_members_compute_what_they_did(old: Path, facts: dict[str, Any]) -> None:
    family = load_family(old / "family")
    tokens = torch.tensor(facts["tokens"])
    for name, logits in facts["logits"].items():
        actual = family.select(name)(tokens)[:, -1, :8]
        assert torch.allclose(actual, torch.tensor(logits), atol=1e-5), name


def test_folders_pass_their_checks(old: Path) -> None:
    for name in ("family", "member"):
        report = verify(old / name)
        assert report.ok and len(report.checks) > 4, [check for check in report.checks if check.ok is False]


def test_a_checkpoint_is_the_family_folder(old: Path, facts: dict[str, Any], tmp_path: Path) -> None:
    opened, folder = open_source(old / "checkpoint"), open_source(old / "family")
    assert {name: member.to_json() for name, member in opened.members.items()} == facts["members"]
    assert opened.parent == folder.parent and set(opened.tensors) == set(folder.tensors)
    for name, tensor in folder.tensors.items():
        assert np.array_equal(opened.tensors[name].words, tensor.words), name
    slice_checkpoint(old / "checkpoint", tmp_path / "small", member="small")
    again, member = open_source(tmp_path / "small"), open_source(old / "member")
    assert again.held == member.held
    assert all(np.array_equal(again.tensors[n].words, t.words) for n, t in member.tensors.items())


def test_folders_are_replaced_and_nothing_beside_them(old: Path, tmp_path: Path) -> None:
    """They are not signed; what they hold is known by their manifest."""
    family, ranking = Family.load(old / "family"), Ranking.load(old / "ranking")
    source = open_source(old / "family")
    for name, write in (
        ("family", lambda out: write_family(out, source.parent, source.tensors, family, force=True)),
        ("member", lambda out: slice_checkpoint(source, out, member="small", force=True)),
        ("ranking", lambda out: ranking.save(out, force=True)),
    ):
        out = Path(shutil.copytree(old / name, tmp_path / name))
        (out / "notes.txt").touch()
        with pytest.raises(ElasticError, match=r"holds notes\.txt, which is no part of a"):
            write(out)
        (out / "notes.txt").unlink()
        write(out)


def test_rankings_and_shapes_are_read(old: Path, facts: dict[str, Any]) -> None:
    parent, config = Family.load(old / "family").parent, ElasticConfig.load(old / "elastic.yaml")
    assert Ranking.load(old / "ranking", parent).digest == facts["ranking"]
    actual = read_members(old / "shapes.json", parent, config)
    assert list(actual) == list(facts["members"]) and actual["small"] <= actual["large"] <= parent.full


def test_a_router_s_state_chooses_what_it_did(old: Path, facts: dict[str, Any]) -> None:
    parent, config = Family.load(old / "family").parent, ElasticConfig.load(old / "elastic.yaml")
    space = Space(parent, config.resolve_axes(parent), Ranking.load(old / "ranking", parent).depth)
    router = Router(space, config.budgets, config.router)
    state = {
        n.partition("router.")[2]: t for n, t in read_elastic(Stored(old / "checkpoint")).items() if "router." in n
    }
    router.load_state_dict(state, strict=True)
    assert {budget.name: router.choose(budget.name).to_json() for budget in config.budgets} == facts["chosen"]
    for name, cost in facts["cost"].items():
        assert float(router.expected_cost(router.probabilities(name), name)) == pytest.approx(cost, rel=1e-9)
