# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.data.folder import DataFolder
from nemo_elastic.demo.bigram import Bigram, bigram_loss, fit_bigram
from tests.data.conftest import build_small


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return build_small(tmp_path_factory.mktemp("data"))


@given(st.lists(st.integers(0, 7), min_size=2, max_size=60), st.floats(0.01, 0.95), st.floats(0.01, 0.95))
def test_probabilities_sum_to_one(tokens: list[int], discount: float, unigram_discount: float) -> None:
    model = Bigram(np.array(tokens), 9, discount, unigram_discount)
    second = np.arange(9)
    for first in range(9):  # 8 is never seen
        p = model.probabilities(np.full(9, first), second)
        assert (p > 0).all()
        assert p.sum() == pytest.approx(1)


def test_noise_costs_its_entropy_and_order_nothing() -> None:
    random = np.random.default_rng(0).integers(0, 16, 100_000)
    assert fit_bigram(random[:90_000], 16).loss(random[90_000:]) == pytest.approx(math.log(16), abs=0.01)
    cycle = np.arange(20_000) % 16
    assert fit_bigram(cycle, 16).loss(cycle[:1000]) < 0.01


def test_it_is_a_good_bigram_model(small: DataFolder) -> None:
    """Better than the unigram entropy, than add-k smoothing at its best k, and than its own untuned self."""
    train, val, size = small.tokens("train"), small.tokens("val"), small.vocab_size
    loss = bigram_loss(small)
    shares = np.bincount(train, minlength=size) + 1.0
    unigram = -np.log(shares / shares.sum())[val].mean()
    counts = np.zeros((size, size))
    np.add.at(counts, (train[:-1], train[1:]), 1)
    add_k = [
        -np.log((counts[val[:-1], val[1:]] + k) / (counts.sum(1)[val[:-1]] + k * size)).mean()
        for k in (1, 0.3, 0.1, 0.03, 0.01, 0.003)
    ]
    assert loss < min(add_k) < unigram
    assert loss <= min(Bigram(train, size, 0.1).loss(val), Bigram(train, size, 0.99).loss(val))
