# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every prompt gets the member that its signals ask for, and exactly that member's answer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime, load_family
from nemo_elastic.runtime.calibration import Calibration, fit, write_calibration
from nemo_elastic.runtime.signals import read
from tests.runtime.calibrated import calibration_of, made
from tests.runtime.talking import MEMBERS, MESSAGES, PARENT, talking_family

#: of several lengths, and known signals
PROMPTS = [[1, 2, 3], [7] * 20, [5, 4], list(range(2, 40)), [9], [8, 7, 6, 5]]


@pytest.fixture(scope="module")
def family(tmp_path_factory) -> FamilyRuntime:
    folder = talking_family(tmp_path_factory.mktemp("auto"))
    write_calibration(folder, by_length(load_family(folder)))
    return load_family(folder)


def by_length(family: FamilyRuntime) -> Calibration:
    """Long prompts climb: the only signal that counts is the last."""
    signals_ns, quality_nm = made()
    signals_ns[:, [0, -1]] = signals_ns[:, [-1, 0]]
    result = fit(signals_ns, quality_nm, family.names[::-1], [family.select(n).parameters for n in family.names[::-1]])
    lengths = [read(family.select("6b").weights, p)[0][-1] for p in PROMPTS]
    means = (*result.means[:-1], sum(lengths) / len(lengths))
    climbs = tuple((climb[0], *[0.0] * 5, climb[-1]) for climb in result.climbs)
    return replace(result, means=means, climbs=climbs)


def test_each_answer_is_its_members_own(family):
    auto = family.auto(0.4)
    names = auto.choose(PROMPTS)
    assert names[3] == "12b" and names[4] == "6b" and len(set(names)) > 1
    alone = [family.select(name).generate(p, 5) for name, p in zip(names, PROMPTS, strict=True)]
    assert auto.generate(PROMPTS, 5) == alone
    assert [auto.generate(p, 5) for p in PROMPTS] == alone and auto.choose(PROMPTS[3]) == "12b"
    limits = [1, 2, 3, 4, 5, 6]
    assert [len(ids) for ids in auto.generate(PROMPTS, limits, [])] == limits


def test_the_stream_tells_who_answers(family):
    auto = family.auto(0.4)
    stream = auto.generate(PROMPTS, 5, [], stream=True)
    assert stream.members == auto.choose(PROMPTS) and stream.new_tokens == [0] * 6
    got: dict[int, list[int]] = {}
    for i, token in stream:
        got.setdefault(i, []).append(token)
    assert [got[i] for i in range(6)] == auto.generate(PROMPTS, 5, [])
    assert stream.new_tokens == [5] * 6 and stream.prompt_tokens == [len(p) for p in PROMPTS]
    assert stream.drafted == stream.accepted == [0] * 6
    one = auto.generate(PROMPTS[0], 5, [], stream=True)
    assert list(one) == auto.generate(PROMPTS[0], 5, [])
    one.close()
    assert list(one) == []


def test_the_ends_of_the_cost(family):
    for cost, name in ((0, "6b"), (1.0, "12b")):
        assert family.auto(cost).choose(PROMPTS) == [name] * 6
        assert family.auto(cost).generate(PROMPTS, 4) == family.select(name).generate(PROMPTS, 4)


def test_extra_shapes_are_not_chosen(tmp_path):
    folder = talking_family(tmp_path)
    write_calibration(folder, by_length(load_family(folder)))
    before = load_family(folder).auto(0.4).choose(PROMPTS)
    manifest = Family.load(folder)
    manifest.with_extra("task", manifest.members[1].subnet).with_extra("whole", manifest.parent.full).save(folder)
    family = load_family(folder)
    assert family.names == (*MEMBERS, "task", "whole") and family.path == tuple(MEMBERS)
    assert family.auto(0.4).choose(PROMPTS) == before


def test_text_and_messages(family):
    auto = family.auto(0.4)
    name = auto.choose("def f(x):")
    assert auto.generate("def f(x):", 8, stop="z") == family.select(name).generate("def f(x):", 8, stop="z")
    name = auto.choose(MESSAGES)
    how = {"temperature": 0.8, "seed": 4}
    assert auto.generate(MESSAGES, 8, **how) == family.select(name).generate(MESSAGES, 8, **how)
    drafted = auto.generate(PROMPTS, 8, [], draft="6b", stream=True)
    assert sum(1 for _ in drafted) == 48 and sum(drafted.drafted) > 0
    assert auto.generate(PROMPTS, 8, [], draft="6b") == auto.generate(PROMPTS, 8, [])


def test_a_family_in_memory_is_given_its_calibration():
    family = FamilyRuntime(NemotronH.random(PARENT, seed=3), MEMBERS)
    with pytest.raises(ElasticError, match="auto: a family that was made in memory has no calibration; give one"):
        family.auto(0.3)
    calibration = calibration_of(family)
    assert family.auto(0.0, calibration).choose(PROMPTS) == ["6b"] * 6
    with pytest.raises(ElasticError, match="calibration: made of other members: a, 9b, 12b"):
        family.auto(0.3, replace(calibration, members=("a", "9b", "12b")))
    with pytest.raises(ElasticError, match=r"cost: 2 is not allowed; a number from 0, always the smallest member"):
        family.auto(2, calibration)
