# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of labels and the losses they make: every token once, in its window, whatever the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation import Loss, log_probs, perplexity
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.rows import Rows
from tests.shapes import PARENT

MODEL = NemotronH.random(PARENT, dtype=torch.float64)


def slowly(model, tokens, length, max_tokens):
    """Each label on its own: predict it from what is before it in its window."""
    losses = []
    for i in range(1, min(len(tokens), (max_tokens or len(tokens)) + 1)):
        start = (i - 1) // length * length
        inputs = torch.tensor(np.array(tokens[start:i], dtype=np.int64))[None]
        losses.append(-model(inputs)[0, -1].log_softmax(-1)[int(tokens[i])].item())
    return losses


@settings(max_examples=30)
@given(data=st.data())
def test_every_token_is_predicted_once_from_its_window(data):
    tokens = np.array(data.draw(st.lists(st.integers(0, PARENT.vocab - 1), min_size=2, max_size=30)), dtype=np.uint16)
    length, batch = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 4))
    max_tokens = data.draw(st.none() | st.integers(1, 40))
    expected = slowly(MODEL, tokens, length, max_tokens)
    result = perplexity(MODEL, tokens, length, batch, max_tokens)
    assert result.tokens == len(expected)
    assert result.nats == pytest.approx(np.mean(expected), rel=1e-9)


@settings(max_examples=30)
@given(data=st.data())
def test_labels_that_count_are_scored_as_by_a_forward_of_their_row_alone(data):
    """Rows of any lengths and counts, in batches of any size; nothing is scored elsewhere."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    lengths = data.draw(st.lists(st.integers(2, 17), min_size=1, max_size=6))
    documents = [
        (rng.integers(0, PARENT.vocab, n), rng.random(n) < data.draw(st.sampled_from([0.3, 1]))) for n in lengths
    ]
    windows = [(ids, counts, rows) for ids, counts in documents for rows in Rows.windows(ids, counts, 99)]
    seen = []
    rows = Rows.joined([rows for *_, rows in windows])
    actual = log_probs(MODEL, rows, data.draw(st.integers(1, 4)), lambda numbers, logits: seen.extend(numbers))
    assert actual.dtype == torch.float64 and sorted(seen) == list(range(len(windows)))
    assert rows.counted == sum(counts[1:].sum() for _, counts in documents)
    for (ids, counts, _), row in zip(windows, actual, strict=True):
        logits = MODEL(torch.from_numpy(ids[None, :-1]))[0].detach().log_softmax(-1)
        expected = logits.gather(1, torch.from_numpy(ids[1:, None]))[:, 0] * torch.from_numpy(counts[1:])
        torch.testing.assert_close(row[: len(ids) - 1], expected, rtol=1e-9, atol=1e-12)
        assert not row[len(ids) - 1 :].any()


def test_json_has_no_infinity():
    assert Loss(1.0, 3).to_json() == {"loss": 1.0, "perplexity": math.e, "tokens": 3}
    assert Loss(900.0, 3).to_json() == {"loss": 900.0, "perplexity": None, "tokens": 3}


def test_a_loss_that_is_no_number_is_reported():
    """Also where one token of many has it."""

    def model(tokens_bl):
        logits_blv = MODEL(tokens_bl).clone()
        logits_blv[-1, -1] = math.nan
        return logits_blv

    with pytest.raises(ElasticError, match=r"^loss: "):
        perplexity(model, np.array([1, 2, 3, 4, 5]), 2)


@pytest.mark.parametrize("change", [{"seq_length": 0}, {"batch": 0}, {"max_tokens": 0}])
def test_refused(change):
    with pytest.raises(ElasticError, match=next(iter(change))):
        perplexity(MODEL, **{"tokens": np.array([1, 2, 3]), "seq_length": 2, **change})
    with pytest.raises(ElasticError, match="1 tokens"):
        perplexity(MODEL, np.array([1]), 2)
