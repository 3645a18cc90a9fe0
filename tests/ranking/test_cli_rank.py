# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic rank`: streams, and measures as many drops as a family uses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nemo_elastic.core.manifest import Family
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import Ranking
from nemo_elastic.slicing.family_folder import write_family
from tests.shapes import PARENT as SHAPE
from tests.slicing.helpers import run
from tests.texts import spoiled

PARENT = replace(SHAPE, pattern="M-M*-M-M", vocab=512)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from nemo_elastic.data.build import build_data
    from tests.texts import library_text

    place = tmp_path_factory.mktemp("rank")
    build_data(place / "data", [library_text(place / "text")], vocab=512, reasoning=0.0, held_out_problems=0)
    model = NemotronH.random(PARENT, seed=0)
    write_family(place / "parent", PARENT, model.state_dict(), Family.of(PARENT, {"full": PARENT.full}))
    (place / "parent" / "elastic.json").unlink()  # what is left is a plain model
    return place


def block(folder, axes=None, ranking=None):
    """A file with a block: these axes beside the residual width, and where the ranking stands."""
    content = {
        "budgets": [{"name": "big"}, {"name": "small", "ratio": 0.9}],
        "axes": {"hidden": [16, 12], **(axes or {})},
    }
    path = folder / "elastic.yaml"
    path.write_text(json.dumps({"elastic": content | {"ranking": ranking, "importance": {"samples": 20}}}))
    return str(path)


def arguments(place, out, config, *more):
    data = ("--data", str(place / "data"), "--seq-length", "64")
    return ["rank", str(place / "parent"), *data, "--out", str(out), "--config", config, *more]


def test_only_the_drops_that_a_depth_needs_are_measured(place, tmp_path):
    every, some = tmp_path / "all", tmp_path / "some"
    data = ("--data", str(place / "data"), "--seq-length", "64")
    code, plain, _ = run("rank", str(place / "parent"), *data, "--out", str(every), "--json")
    assert code == 0 and Ranking.load(every).provenance["sequences"] == 64 and len(json.loads(plain)["depth"]) == 8
    axes = {"depth": [8, 6], "mamba_head_dim": [PARENT.mamba_head_dim, 1]}
    code, output, said = run(*arguments(place, some, block(tmp_path, axes), "--json"))
    assert code == 0, said
    ranking = Ranking.load(some)
    assert (
        ranking.options.depth_exact == 2 and None not in ranking.depth_scores and len(json.loads(output)["depth"]) == 8
    )
    assert ranking.provenance["sequences"] == 20
    assert ranking.options.head_channels == 1, "heads are scored by the fewest channels that a member has"


def test_a_family_needs_the_drops_of_its_smallest_depth(place, tmp_path):
    assert run(*arguments(place, tmp_path / "ranking", block(tmp_path, {"depth": [8, 6]})))[0] == 0
    for depth, says in (([8, 6], ""), ([8, 6, 5], "elastic.axes.depth: 5 is not allowed")):
        given = ("--config", block(tmp_path, {"depth": depth}, ranking=str(tmp_path / "ranking")))
        code, _, said = run("init", str(place / "parent"), *given, "--out", str(tmp_path / f"{len(depth)}"))
        assert (code, says in said) == (2 if says else 0, True), said


def test_tokens_outside_the_vocabulary_are_reported(place, tmp_path):
    wrong = spoiled(place / "data", tmp_path / "data", "train", at=-1)
    code, out, err = run("rank", str(place / "parent"), "--data", str(wrong), "--out", str(tmp_path / "r"))
    assert (code, out) == (2, "") and not (tmp_path / "r").exists()
    assert err.startswith(f"error: {wrong}/train.bin: 60000 ") and err.count("\n") == 1
