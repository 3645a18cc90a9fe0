# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a member answers: to texts, messages and tokens, alone and in batches, whole and as a stream."""

from __future__ import annotations

import json
import math
import re
from ast import literal_eval
from dataclasses import replace
from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.errors import ElasticError
from nemo_elastic.runtime import load_family
from nemo_elastic.runtime.member_model import Companions, MemberModel, Prompts, read_prompts
from tests.documentation import ROOT
from tests.runtime.talking import MEMBERS, MESSAGES, PARENT, overflowing, talking_family

PROMPTS = ["def f(x):", "The first of 12", "é", "return x + 12  # 日本語 and more of it"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return talking_family(tmp_path_factory.mktemp("talking"))


@pytest.fixture(scope="module")
def family(folder):
    return load_family(folder)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A family with end tokens, and what its smallest member says to each prompt without them."""
    place = tmp_path_factory.mktemp("ended")
    free = load_family(talking_family(place / "free")).select("6b")
    said = [free.generate(free._companions.tokenizer.encode(p), 24) for p in PROMPTS]
    ends = [said[0][5], said[1][9]]
    family = load_family(talking_family(place / "ends", generation={"eos_token_id": ends}))
    return SimpleNamespace(family=family, member=family.select("6b"), said=said, ends=ends)


def test_messages_go_through_the_chat_template(family):
    member = family.select("9b")
    ids = family.tokenizer.encode(family.tokenizer.render(MESSAGES), special=False)
    assert ids[0] == 1  # what the template begins with is a token, not its letters
    expected = family.tokenizer.decode(member.generate(ids, 12))
    assert member.generate(MESSAGES, 12) == expected
    assert member.generate([MESSAGES, MESSAGES[1:]], 12) == [expected, member.generate(MESSAGES[1:], 12)]


@settings(max_examples=15, derandomize=True)  # where two tokens are as likely, rounding chooses
@given(data=st.data())
def test_a_batch_of_any_lengths_says_what_each_says_alone(data, family):
    """Greedy in float32, and sampled: the number of a prompt in its batch fixes what it samples."""
    name = data.draw(st.sampled_from(sorted(MEMBERS)))
    token = st.integers(0, 299)
    prompts = data.draw(st.lists(st.lists(token, min_size=1, max_size=40), min_size=2, max_size=6))
    member = family.select(name)
    assert member.generate(prompts, 20) == [member.generate(p, 20) for p in prompts]
    how = {"temperature": 0.9, "top_p": 0.95, "seed": data.draw(st.integers(0, 99))}
    together = member.generate(prompts, 20, **how)
    assert together[0] == member.generate(prompts[0], 20, **how)
    assert together == member.generate(prompts, 20, **how)


def test_an_answer_ends_at_an_end_token_of_the_folder(ended):
    family, member = ended.family, ended.member
    expected = []
    for said in ended.said:
        at = next((i for i, token in enumerate(said) if token in ended.ends), 23)
        expected.append(said[: at + 1])
    ids = [family.tokenizer.encode(p) for p in PROMPTS]
    assert member.generate(ids, 24) == expected and {len(e) for e in expected} != {24}
    texts = [family.tokenizer.decode(e[:-1] if e[-1] in ended.ends else e) for e in expected]
    assert member.generate(PROMPTS, 24) == texts
    assert member.generate(ids, 24, ()) == ended.said
    assert member.generate(ids, 24, torch.tensor(ended.ends)) == expected


def test_a_stream_is_the_answer_in_pieces(ended):
    member, prompt = ended.member, PROMPTS[1]
    stream = member.generate(prompt, 24, stream=True)
    assert "".join(stream) == member.generate(prompt, 24)
    assert stream.prompt_tokens == [len(ended.family.tokenizer.encode(prompt))]
    assert stream.new_tokens == [len(member.generate(ended.family.tokenizer.encode(prompt), 24))]
    ids = [ended.family.tokenizer.encode(p) for p in PROMPTS]
    assert list(member.generate(ids[0], 24, stream=True)) == member.generate(ids[0], 24)
    out = [""] * len(PROMPTS)
    for i, piece in member.generate(PROMPTS, 24, stream=True):
        assert piece
        out[i] += piece
    assert out == member.generate(PROMPTS, 24)
    assert list(member.generate([ids[0]], 2, (), stream=True)) == [(0, t) for t in member.generate(ids[0], 2, ())]


def test_pieces_come_while_it_decodes(family):
    member = family.select("6b")
    stream = member.generate("def", 10**9, (), stream=True)
    first = [next(stream) for _ in range(3)]
    assert stream.new_tokens[0] < 40
    stream.close()
    assert list(stream) == [] and member.generate("def", 40, ()).startswith("".join(first))
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("prompts", "field"),
    [
        (5, "prompts"),
        ([3, 300], "prompts[0]"),
        ([[3], [-1, 4]], "prompts[1]"),
        (["a", ""], "prompts[1]"),
        ([3, 4.0], "prompts[0]"),
        ([[True]], "prompts[0]"),
        ([[3], 4], "prompts[1]"),
        (["a", 3], "prompts"),
        ([{"role": "user"}], "messages[0].content"),
        ([MESSAGES, [{"content": "x"}]], "prompts[1][0].role"),
        ([torch.tensor([1]), torch.tensor([1.5])], "dtype of prompts[1]"),
        (torch.zeros(1, 1, 1, dtype=torch.long), "prompts"),
        (torch.zeros(3, dtype=torch.long, device="meta"), "device of prompts"),
        (np.array([1.5]), "prompts[0]"),
    ],
)
def test_prompts_that_are_none(family, prompts, field):
    with pytest.raises(ElasticError) as raised:
        family.select("6b").generate(prompts, 4)
    assert str(raised.value).startswith(f"{field}: ")


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0}, {"max_new_tokens": 2.0}, {"max_new_tokens": [2, 2]},
        {"stop_ids": 3}, {"stop_ids": [-1]}, {"stop": 5}, {"temperature": -0.1}, {"temperature": math.nan},
        {"top_p": 0.0, "temperature": 1.0}, {"top_p": 1.01, "temperature": 1.0}, {"top_k": -1, "temperature": 1.0},
        {"seed": -1}, {"top_p": 0.9}, {"top_k": 5}, {"draft": "6c"}, {"draft": 6},
        {"draft": replace(PARENT, hidden=32).full}, {"k": 2}, {"k": 17, "draft": "6b"},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_are_none(family, options):
    """The first of them is the wrong one. Also of a stream at once, not when it is first read."""
    for stream in (False, True):
        with pytest.raises(ElasticError) as raised:
            family.select("12b").generate("def", stream=stream, **options)
        assert str(raised.value).startswith(f"{next(iter(options))}: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("how", [{}, {"draft": "6b"}])
def test_no_prompts_have_no_answers(family, how):
    member = family.select("12b")
    assert member.generate([], **how) == [] and list(member.generate([], stream=True, **how)) == []


@pytest.mark.parametrize("how", [{}, {"draft": "6b", "temperature": 1.0}])
def test_logits_that_are_no_numbers_are_reported_and_no_answer(tmp_path, how):
    """Every weight is a number, and what is computed of them is none."""
    with pytest.raises(ElasticError, match=r"^logits: \d+ of \d+ "):
        load_family(overflowing(talking_family(tmp_path))).select("12b").generate("The first", 4, **how)


# ------------------------------------------------------------------ forms of prompts, and files beside the weights


@pytest.mark.parametrize("form", [(5, 6), torch.tensor([5, 6]), np.array([5, 6]), [np.int64(5), 6]])
def test_token_ids_are_one_prompt_and_need_no_tokenizer(form):
    actual = read_prompts(form, Companions(), PARENT.vocab)
    assert actual == Prompts([[5, 6]], single=True, are_text=False) and type(actual.ids[0][0]) is int


@pytest.mark.parametrize("form", [[[5, 6], [7, 8]], torch.tensor([[5, 6], [7, 8]]), [torch.tensor([5, 6]), [7, 8]]])
def test_lists_of_token_ids_are_a_batch(form):
    assert read_prompts(form, Companions(), PARENT.vocab) == Prompts([[5, 6], [7, 8]], single=False, are_text=False)


@pytest.mark.parametrize(
    ("generation", "config", "ends"),
    [
        (None, None, set()),
        (None, [7, 8], {7, 8}),
        ({"eos_token_id": 5}, 7, {5}),
        ({"eos_token_id": []}, 7, set()),
        ({"eos_token_id": None}, 7, {7}),
    ],
)
def test_where_end_tokens_are(tmp_path, generation, config, ends):
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert Companions(tmp_path, {"eos_token_id": config}).end_ids == ends


@pytest.mark.parametrize("wrong", [True, -1, [2, None]])
def test_what_is_no_token(tmp_path, wrong):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": wrong}))
    with pytest.raises(ElasticError, match=r"generation_config.json: eos_token_id: "):
        Companions(tmp_path).end_ids  # noqa: B018
    with pytest.raises(ElasticError, match=r"^config.json: eos_token_id: "):
        Companions(None, {"eos_token_id": wrong}).end_ids  # noqa: B018


def test_defaults_are_those_of_the_page():
    page, said = (ROOT / "docs" / "runtime.md").read_text(encoding="utf-8"), {"stop_ids": None}
    for row in re.findall(r"^\| (`\w+`.*?) \| (.*?) \|", page, re.MULTILINE):
        names, values = re.findall(r"\w+", row[0]), row[1].split(", ")
        if names != ["stop_ids"]:
            said |= zip(names, values * len(names), strict=False)
    own = {name: p.default for name, p in signature(MemberModel.generate).parameters.items() if name in said}
    assert len(own) == 10
    assert own == {k: literal_eval(v.strip("`")) if v not in (None, "none") else None for k, v in said.items()}
