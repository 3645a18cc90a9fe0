# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic rank`: streams, and measures as many drops as a family uses."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from nemo_elastic.cli.app import main
from nemo_elastic.core.manifest import Family
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import Ranking
from nemo_elastic.slicing.family_folder import write_family
from tests.shapes import PARENT as SHAPE
from tests.texts import spoiled

PARENT = replace(SHAPE, pattern="M-M*-M-M", vocab=512)
SIZE = ("--samples", "20", "--seq-length", "64")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from nemo_elastic.data.build import build_data
    from tests.texts import library_text

    place = tmp_path_factory.mktemp("rank")
    build_data(place / "data", [library_text(place / "text")], vocab=512, reasoning=0.0, held_out_problems=0)
    for seed, name in enumerate(("parent", "another")):
        model = NemotronH.random(PARENT, seed=seed)
        write_family(place / name, PARENT, model.state_dict(), Family.of(PARENT, {"full": PARENT.full}))
        (place / name / "elastic.json").unlink()  # what is left is a plain model
    return place


def arguments(place, out, *more, parent="parent"):
    return ["rank", str(place / parent), "--data", str(place / "data"), "--out", str(out), *SIZE, *more]


def run(capsys, *given):
    """Exit code, stdout and stderr."""
    code = 0
    try:
        main(list(given))
    except SystemExit as end:
        code = end.code or 0
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())


def test_only_the_drops_that_a_depth_needs_are_measured(place, tmp_path, capsys):
    code, all_of_it, _ = run(capsys, *arguments(place, tmp_path / "all", "--json"))
    assert code == 0
    code, output, said = run(capsys, *arguments(place, tmp_path / "some", "--json", "--min-depth", "6"))
    assert code == 0 and json.loads(output)["depth"][:2] == json.loads(all_of_it)["depth"][:2]
    ranking = Ranking.load(tmp_path / "some")
    assert ranking.options.depth_exact == 2 and None not in ranking.depth_scores
    code, _, said = run(capsys, *arguments(place, tmp_path / "none", "--min-depth", "8"))
    assert code == 2 and "--min-depth: 8 is not allowed; from 1 to 7" in said


def test_heads_are_scored_by_the_fewest_channels_that_a_member_has(place, tmp_path, capsys):
    """As training ranks with the block's axes.mamba_head_dim: nemo.shaping takes its smallest choice."""
    from nemo_elastic.core.kinds.mamba import MAMBA_HEADS

    whole = PARENT.mamba_head_dim
    scores = {}
    for dim in (None, whole, 1):
        out, given = tmp_path / str(dim), () if dim is None else ("--min-mamba-head-dim", str(dim))
        assert run(capsys, *arguments(place, out, *given, "--depth", "cosine"))[0] == 0
        ranking = Ranking.load(out)
        assert ranking.options.head_channels == dim
        scores[dim] = ranking.scores
    heads = [key for key in scores[None] if MAMBA_HEADS in str(key)]
    assert heads
    for key in heads:
        np.testing.assert_array_equal(scores[None][key], scores[whole][key])
        assert not np.allclose(scores[None][key], scores[1][key])
    code, _, said = run(capsys, *arguments(place, tmp_path / "none", "--min-mamba-head-dim", str(whole + 1)))
    assert code == 2 and f"--min-mamba-head-dim: {whole + 1} is not allowed; from 1 to the parent's {whole}" in said


def test_a_family_needs_the_drops_of_its_smallest_depth(place, tmp_path, capsys):
    assert run(capsys, *arguments(place, tmp_path / "ranking", "--min-depth", "6"))[0] == 0
    budgets = {"budgets": [{"name": "big"}, {"name": "small", "ratio": 0.9}]}
    for depth, says in (([8, 6], ""), ([8, 6, 5], "elastic.axes.depth: 5 is not allowed; at least 6, the depth down")):
        block = tmp_path / "elastic.yaml"
        block.write_text(json.dumps({"elastic": budgets | {"axes": {"hidden": [16, 12], "depth": depth}}}))
        code, _, said = run(capsys, "init", str(place / "parent"), "--config", str(block), "--ranking",
                            str(tmp_path / "ranking"), "--out", str(tmp_path / f"family{len(depth)}"))  # fmt: skip
        assert (code, says in said) == (2 if says else 0, True), said


def test_tokens_outside_the_vocabulary_are_reported(place, tmp_path, capsys):
    wrong = spoiled(place / "data", tmp_path / "data", "train", at=-1)
    code, out, err = run(
        capsys, "rank", str(place / "parent"), "--data", str(wrong), "--out", str(tmp_path / "r"), *SIZE
    )
    assert (code, out) == (2, "") and not (tmp_path / "r").exists()
    assert err == f"error: {wrong}/train.bin: 60000 is not allowed; tokens are 0 to 511; the data is damaged"
