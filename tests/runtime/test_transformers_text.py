# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Text in, text out against transformers: tokens, end tokens, chat template, and what each token is sampled with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nemo_elastic.runtime import load_family
from nemo_elastic.runtime.token_sampling import Sampling, probabilities
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.formats.hf.hf_client import worker
from tests.runtime.talking import MESSAGES, talking_family

pytestmark = pytest.mark.hf

TEXTS = ["def f(x):", "The first of 12 apples", "naïve 日本語 😀 return"]
NEW = 24
SAMPLINGS = [
    {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
    {"temperature": 0.6, "top_k": 0, "top_p": 0.8},
    {"temperature": 1.7, "top_k": 7, "top_p": 1.0},
    {"temperature": 1.3, "top_k": 40, "top_p": 0.7},
]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    place = tmp_path_factory.mktemp("transformers")
    free = load_family(talking_family(place / "free")).select("9b")
    ends = [free.generate(free._companions.tokenizer.encode(TEXTS[0]), NEW)[7], 1]
    return load_family(talking_family(place / "ends", generation={"eos_token_id": ends, "pad_token_id": 0}))


@pytest.fixture(scope="module")
def theirs(family, tmp_path_factory):
    """What transformers makes of the member that was cut out."""
    folder = tmp_path_factory.mktemp("cut") / "9b"
    slice_checkpoint(family._companions.folder, folder, member="9b")
    out = folder.with_name("theirs.npz")
    with worker(folder.parent) as hf:
        said = hf.ask(
            "talk", folder=str(folder), out=str(out), texts=TEXTS, messages=MESSAGES, new=NEW, samplings=SAMPLINGS
        )
    return said | {"p": np.load(out)}


def test_tokens_of_texts(family, theirs):
    assert [family.tokenizer.encode(text) for text in TEXTS] == theirs["ids"]


def test_greedy_answers(family, theirs):
    """Together and alone; one of them ends at the generation config's end token."""
    member = family.select("9b")
    assert member.generate(theirs["ids"], NEW) == [tokens for tokens, _ in theirs["greedy"]]
    assert member.generate(TEXTS, NEW) == [text for _, text in theirs["greedy"]]
    assert [member.generate(text, NEW) for text in TEXTS] == [text for _, text in theirs["greedy"]]
    assert min(len(tokens) for tokens, _ in theirs["greedy"]) < NEW


def test_chat(family, theirs):
    assert family.tokenizer.render(MESSAGES) == theirs["rendered"]
    assert family.tokenizer.encode_chat(MESSAGES) == theirs["chat_ids"]
    assert family.select("9b").generate(MESSAGES, NEW) == theirs["chat"]


@pytest.mark.parametrize("n", range(len(SAMPLINGS)))
def test_what_each_token_is_sampled_with(family, theirs, n):
    """Along the tokens that transformers sampled, its probabilities are ours."""
    tokens, expected = torch.tensor([theirs["sampled"][n]]), theirs["p"][f"p{n}"]
    prompt = tokens.shape[1] - NEW
    logits_lv = family.select("9b")(tokens)[0, prompt - 1 : -1]
    result = probabilities(logits_lv, Sampling(**SAMPLINGS[n])).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-5)
    assert SAMPLINGS[n]["top_p"] == 1 == SAMPLINGS[n]["top_k"] + 1 or (result == 0).any()
