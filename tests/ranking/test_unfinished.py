# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A ranking that was stopped anywhere goes on to the same bits, and never on what belongs to another one.

Ranks that share a model are in `tests/parallel/test_rankings.py`.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.ranking import OtherRanking, RankOptions, Unfinished, rank
from nemo_elastic.ranking.unfinished import unfinished_file
from tests.ranking.test_depth import Ranks, evaluations  # noqa: F401 (a fixture)
from tests.ranking.test_sorting import tokens_of
from tests.shapes import PARENT

OPTIONS = RankOptions(depth_samples=6)
BATCHES = [tokens_of(PARENT, batch=2, seed=s) for s in range(5)]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr("nemo_elastic.ranking.measure.LEAST_TOKENS", 1)


class Stop(Exception):
    pass


def model_of(seed=2):
    return NemotronH.random(PARENT, seed=seed)


def run(path, model=None, batches=BATCHES, options=OPTIONS, stop_at=None, parent=PARENT, every=0.0, reduce=None):
    """Rank, saving at every chance; stopped at the `stop_at`-th chance if that comes."""
    model = model or model_of()
    reports = []

    def progress(*what):
        reports.append(what)
        if len(reports) == stop_at:
            raise Stop

    unfinished = None if path is None else Unfinished(path, model.parameters, every)
    layers = Layers(model.weights())
    return rank(layers, parent, iter(batches), options, progress, reduce, unfinished=unfinished), reports


def assert_same(a, b):
    assert a.digest == b.digest and (a.depth, a.depth_scores) == (b.depth, b.depth_scores)
    assert a.provenance == b.provenance and a.options == b.options
    assert a.scores.keys() == b.scores.keys()
    for name, value in a.scores.items():
        np.testing.assert_array_equal(value, b.scores[name])


@pytest.mark.parametrize("options", [OPTIONS, replace(OPTIONS, depth_exact=2), replace(OPTIONS, depth="cosine")])
def test_stopped_anywhere_it_goes_on_to_the_same_bits(tmp_path, options):
    whole, output = run(None, options=options)
    for chance in range(1, len(output) + 1):
        path = tmp_path / f"{chance}.safetensors"
        with pytest.raises(Stop):
            run(path, options=options, stop_at=chance)
        # the chance at which it stopped was not saved yet, all before it were
        again, rest = run(path, options=options)
        assert_same(again, whole)
        assert rest == output[chance - 1 :]


def test_stopped_at_every_chance_it_still_ends(tmp_path, evaluations):  # noqa: F811
    whole, output = run(None)
    once, evaluations[0] = evaluations[0], 0
    for _ in output[1:]:
        with pytest.raises(Stop):
            run(tmp_path / "r", stop_at=2)
    assert_same(run(tmp_path / "r")[0], whole)
    # final streams are computed anew each time there is a round to measure, and a chance is lost each time
    assert evaluations[0] < 3 * once


def test_nothing_runs_again_where_all_was_measured(tmp_path, evaluations):  # noqa: F811
    whole, _ = run(tmp_path / "r")
    evaluations[0] = 0
    again, output = run(tmp_path / "r")
    assert_same(again, whole)
    assert evaluations[0] == 0 and output == []


def test_it_is_saved_when_it_is_time_and_read_only_then(tmp_path):
    def weights():
        raise AssertionError("weights are read for a ranking that is done at once")

    rank(
        Layers(model_of().weights()), PARENT, BATCHES, OPTIONS, unfinished=Unfinished(tmp_path / "r", weights, 3600.0)
    )
    assert list(tmp_path.iterdir()) == []


def changed(model):
    model.get_parameter("lm_head.weight").data[3, 2] += 1e-6
    return model


@pytest.mark.parametrize(
    "what, other",
    [
        ("weights", lambda: {"model": changed(model_of())}),
        ("options", lambda: {"options": replace(OPTIONS, ffn="first")}),
        ("parent", lambda: {"parent": replace(PARENT, norm_eps=1e-6)}),
        ("data", lambda: {"batches": [BATCHES[0], BATCHES[1] * 0, *BATCHES[2:]]}),
        ("data", lambda: {"batches": BATCHES[:2]}),
        ("data", lambda: {"batches": [b[:1] for b in BATCHES]}),
    ],
)
def test_another_ranking_leaves_it_alone(tmp_path, what, other):
    with pytest.raises(Stop):
        run(tmp_path / "r", stop_at=4)
    before = (tmp_path / "r").read_bytes()
    with pytest.raises(OtherRanking, match=f"an unfinished ranking with other {what}; remove it to start anew"):
        run(tmp_path / "r", **other())
    assert (tmp_path / "r").read_bytes() == before


def test_more_data_counts_as_long_as_data_is_looked_at(tmp_path):
    more = [*BATCHES, tokens_of(PARENT, batch=2, seed=9)]
    with pytest.raises(Stop):
        run(tmp_path / "r", stop_at=4)
    assert_same(run(tmp_path / "r", batches=more)[0], run(None, batches=more)[0])
    with pytest.raises(OtherRanking, match="other data"):  # now its layers are measured, without those
        run(tmp_path / "r", batches=[*more, BATCHES[0]])


def test_ranks_that_were_stopped_at_different_rounds_go_on_together(tmp_path):
    shares = BATCHES[:2], BATCHES[2:4]

    def all_ranks(paths, stop_at=(None, None)):
        def one(i):
            def call(reduce):
                try:
                    return run(paths[i], batches=shares[i], reduce=reduce, stop_at=stop_at[i])[0]
                except Stop:
                    return None

            return call

        return Ranks(2).run(one(0), one(1))

    whole, same = all_ranks((None, None))
    assert_same(whole, same)
    for stop_at in ((4, 4), (2, 2)):
        paths = [tmp_path / f"{stop_at[0]}-{i}" for i in range(2)]
        assert all_ranks(paths, stop_at) == [None, None]
        if stop_at[0] == 4:  # one of them saved a round less
            with pytest.raises(Stop):
                run(tmp_path / "less", batches=shares[1], stop_at=3)
            head = json.loads(_head(paths[1]))
            head["drops"] = json.loads(_head(tmp_path / "less"))["drops"]
            save_file(load_file(paths[1]), paths[1], {"ranking": json.dumps(head)})
        for actual in all_ranks(paths):
            assert_same(actual, whole)


def _head(path):
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        return file.metadata()["ranking"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"nothing"),
        lambda path: path.write_bytes(path.read_bytes()[:-8]),
        lambda path: save_file(load_file(path), path),
        lambda path: save_file(load_file(path), path, {"ranking": "[" * 99999}),
        lambda path: save_file(load_file(path), path, {"ranking": json.dumps({"version": 1})}),
        lambda path: save_file({"x": np.zeros(1)}, path, {"ranking": _head(path)}),
        lambda path: save_file(
            load_file(path), path, {"ranking": _head(path).replace('"batches": 3', '"batches": []')}
        ),
    ],
)
def test_a_damaged_file_is_reported(tmp_path, damage):
    with pytest.raises(Stop):
        run(tmp_path / "r", stop_at=4)
    damage(tmp_path / "r")
    with pytest.raises(ElasticError, match="r: not an unfinished ranking; remove it"):
        run(tmp_path / "r")


def test_every_group_of_ranks_has_a_file_and_no_other_layout_resumes_from_it(tmp_path):
    files = [unfinished_file(tmp_path, 2, 3, 1, rank) for rank in range(3)]
    assert len(set(files)) == 3
    for file in files:
        file.write_bytes(b"")
        (tmp_path / f".{file.name}.0123abcd.tmp").write_bytes(b"")  # what a kill in a save leaves
    assert [unfinished_file(tmp_path, 2, 3, 1, rank) for rank in range(3)] == files
    for tensor, data, expert in ((1, 3, 1), (2, 1, 1), (2, 2, 1), (2, 4, 1), (4, 3, 1), (2, 3, 2)):
        message = rf"other ranks than these \(tensor-parallel size {tensor}, .* {data}"
        message += rf", expert-parallel size {expert}\)" if expert > 1 else r"\)"
        with pytest.raises(OtherRanking, match=message):
            unfinished_file(tmp_path, tensor, data, expert, 0)
