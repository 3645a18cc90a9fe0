# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Prompts of every form become token ids, with the files that lie beside a family's weights."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import ChatTemplate, FamilyTokenizer
from nemo_elastic.runtime.member_model import Companions, Prompts, read_prompts
from tests.runtime.talking import MESSAGES, PARENT, TEMPLATE, TOKENIZER


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        (None, None, set()),
        (None, 7, {7}),
        (None, [7, 8], {7, 8}),
        ({"eos_token_id": 5}, 7, {5}),
        ({"eos_token_id": [5, 6]}, 7, {5, 6}),
        ({"eos_token_id": []}, 7, set()),
        ({"eos_token_id": None}, 7, {7}),
        ({"temperature": 0.6}, 7, {7}),
    ],
)
def test_where_they_are(tmp_path, generation, config, ends):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert Companions(tmp_path, {"eos_token_id": config}).end_ids == ends


@pytest.mark.parametrize("wrong", [True, -1, "2", 2.0, [2, None], [[2]], {"a": 2}])
def test_what_is_no_token(tmp_path, wrong):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
    with pytest.raises(ElasticError, match=r"generation_config.json: eos_token_id: .* the id of a token, or a list"):
        Companions(tmp_path).end_ids  # noqa: B018
    with pytest.raises(ElasticError, match=r"^config.json: eos_token_id: .* the id of a token, or a list of ids"):
        Companions(None, {"eos_token_id": wrong}).end_ids  # noqa: B018


TEXT = FamilyTokenizer(TOKENIZER, {"bos_token": "<pad>"}, ChatTemplate(TEMPLATE, {"bos_token": "<pad>"}, "here"))
#: of a family without a tokenizer: reading one would be an error
SILENT = Companions()


def read(given: Any, companions: Companions | None = None) -> Prompts:
    if companions is None:
        companions = Companions()
        companions.__dict__["tokenizer"] = TEXT
    return read_prompts(given, companions, PARENT.vocab)


def test_a_text_is_one_prompt_that_wants_text() -> None:
    assert read("def f(x):") == Prompts([TEXT.encode("def f(x):")], single=True, are_text=True)


def test_texts_are_a_batch() -> None:
    assert read(["ab", "c"]) == Prompts([TEXT.encode("ab"), TEXT.encode("c")], single=False, are_text=True)


def test_messages_are_one_prompt_and_lists_of_them_a_batch() -> None:
    ids = TEXT.encode_chat(MESSAGES)
    assert read(MESSAGES) == Prompts([ids], single=True, are_text=True)
    assert read([MESSAGES, MESSAGES]) == Prompts([ids, ids], single=False, are_text=True)


@pytest.mark.parametrize("given", [[5, 6], (5, 6), torch.tensor([5, 6]), np.array([5, 6]), [np.int64(5), 6]])
def test_token_ids_are_one_prompt_and_need_no_tokenizer(given: Any) -> None:
    actual = read(given, SILENT)
    assert actual == Prompts([[5, 6]], single=True, are_text=False) and type(actual.ids[0][0]) is int


@pytest.mark.parametrize("given", [[[5, 6], [7, 8]], torch.tensor([[5, 6], [7, 8]]), [torch.tensor([5, 6]), [7, 8]]])
def test_lists_of_token_ids_are_a_batch(given: Any) -> None:
    assert read(given, SILENT) == Prompts([[5, 6], [7, 8]], single=False, are_text=False)


def test_prompts_of_a_batch_have_any_length_and_one_in_a_list_stays_a_batch() -> None:
    assert read([[5], [6, 7, 8]], SILENT).ids == [[5], [6, 7, 8]]
    assert not read([[5]], SILENT).single and not read(["a"]).single
