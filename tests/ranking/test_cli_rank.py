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


def block(folder, axes, ranking=None):
    """A file with a block: these axes beside the residual width, and where the ranking stands."""
    path = folder / "elastic.yaml"
    content = {
        "budgets": [{"name": "big"}, {"name": "small", "ratio": 0.9}],
        "axes": {"hidden": [16, 12], **axes},
        "importance": {"samples": 20},
    }
    path.write_text(json.dumps({"elastic": content | {"ranking": ranking}}))
    return str(path)


def test_only_the_drops_that_a_depth_needs_are_measured(place, tmp_path):
    every, some = tmp_path / "all", tmp_path / "some"
    rank = ("rank", str(place / "parent"), "--data", str(place / "data"), "--seq-length", "64", "--json")
    code, output, _ = run(*rank, "--out", str(every))
    assert code == 0 and Ranking.load(every).provenance["sequences"] == 64 and len(json.loads(output)["depth"]) == 8
    axes = {"depth": [8, 6], "mamba_head_dim": [PARENT.mamba_head_dim, 1]}
    code, output, said = run(*rank, "--out", str(some), "--config", block(tmp_path, axes))
    assert code == 0, said
    ranking = Ranking.load(some)
    assert ranking.options.depth_exact == 2 and None not in ranking.depth_scores
    assert len(json.loads(output)["depth"]) == 8 and ranking.provenance["sequences"] == 20
    assert ranking.options.head_channels == 1, "heads are scored by the fewest channels that a member has"
    for depth, says in (([8, 6], ""), ([8, 6, 5], "elastic.axes.depth: 5 is not allowed")):
        given = ("--config", block(tmp_path, axes | {"depth": depth}, ranking=str(some)))
        code, _, said = run("init", str(place / "parent"), *given, "--out", str(tmp_path / f"{len(depth)}"))
        assert (code, says in said) == (2 if says else 0, True), said
