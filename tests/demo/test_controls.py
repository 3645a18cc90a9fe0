# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The three controls of a trained member."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nemo_elastic.demo.controls import Control, controls
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation import perplexity
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime
from tests.shapes import PARENT

SMALL = PARENT.uniform(keep=(0, 3, 4), hidden=8)
TINY = PARENT.uniform(keep=(0, 3), hidden=4)
CUT = PARENT.uniform(ffn=8)
MEMBERS = {"full": PARENT.full, "small": SMALL, "tiny": TINY}
TOKENS = np.random.default_rng(0).integers(PARENT.vocab, size=200)


def test_recovered_is_the_share_of_the_gap_that_training_closed():
    row = Control("6b", trained=3.2, parent=3.0, untrained=4.0, unsorted=4.5)
    assert row.recovered == pytest.approx(0.8)
    assert replace(row, trained=4.0).recovered == 0
    assert replace(row, trained=2.9).recovered > 1
    assert replace(row, untrained=3.0).recovered is None, "there is nothing to recover"


def test_rows_are_the_losses_of_the_right_models():
    trained, parent, unsorted = (FamilyRuntime(NemotronH.random(PARENT, seed=s), MEMBERS) for s in (1, 2, 3))
    calls, report = [], []

    def loss(model):
        calls.append(model)
        return perplexity(model, TOKENS, 32).nats

    rows = controls(trained, parent, unsorted, loss, lambda done, of: report.append((done, of)))

    def direct(family, subnet):
        return perplexity(lambda t: family.model(t, subnet), TOKENS, 32).nats

    whole = direct(parent, PARENT.full)
    assert [row.member for row in rows] == ["full", "small", "tiny"]
    for row in rows:
        subnet = MEMBERS[row.member]
        is_full = subnet == PARENT.full
        assert row == Control(
            row.member,
            trained=direct(trained, subnet),
            parent=whole,
            untrained=whole if is_full else direct(parent, subnet),
            unsorted=whole if is_full else direct(unsorted, subnet),
        )
    assert len(calls) == 1 + 3 + 2 + 2, "each model once"
    assert report == [(i, 8) for i in range(1, 9)]


def test_an_unsorted_parent_without_stripes_is_cut_as_the_family():
    """A plain folder has one stripe; the same widths must be kept of it as of the family, stripe by stripe."""
    trained, parent = (FamilyRuntime(NemotronH.random(PARENT, seed=s), {"cut": CUT}) for s in (1, 2))
    plain = NemotronH.random(replace(PARENT, ffn_stripes=1), seed=3)

    def loss(model):
        return perplexity(model, TOKENS, 32).nats

    row = controls(trained, parent, FamilyRuntime(plain), loss, lambda *_: None)[0]
    striped = NemotronH(PARENT, plain.state_dict())
    assert row.unsorted == pytest.approx(perplexity(lambda t: striped(t, CUT), TOKENS, 32).nats, rel=1e-6)
    assert row.unsorted != pytest.approx(perplexity(lambda t: plain(t, CUT), TOKENS, 32).nats, rel=1e-4)


def test_families_of_different_parents_are_refused():
    trained, other, part = (
        FamilyRuntime(NemotronH.random(*of)) for of in ((PARENT,), (replace(PARENT, ffn=8),), (PARENT, 0, 1.0, SMALL))
    )
    for wrong, words in ((other, "same parent"), (part, "not nested in the loaded member")):
        with pytest.raises(ElasticError, match=words):
            controls(trained, wrong, trained, lambda m: 0.0, lambda *_: None)
