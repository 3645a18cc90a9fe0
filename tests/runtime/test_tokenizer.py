# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A folder's tokenizer, its special tokens and its chat template, wherever the folder has them."""

from __future__ import annotations

import json

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Split

from nemo_elastic.data.bpe import EOS, PAD
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.model import NemotronH
from nemo_elastic.runtime import FamilyRuntime, load_family
from nemo_elastic.runtime.tokenizer import FamilyTokenizer
from tests.runtime.talking import MESSAGES, PARENT, TEXTS, TOKENIZER, talking_family

USER = MESSAGES[1:]


@pytest.fixture
def folder(tmp_path):
    return talking_family(tmp_path, template=None)


def change(folder, **settings):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def test_a_family_has_its_tokenizer(folder):
    tokenizer = load_family(folder).tokenizer
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert ids == TOKENIZER.encode(text).ids and tokenizer.decode(ids) == text
    assert tokenizer.special == {"bos_token": EOS, "eos_token": EOS, "pad_token": PAD}
    assert tokenizer.vocab_size == TOKENIZER.get_vocab_size()
    assert tokenizer.decode([1, *tokenizer.encode("a")]) == "a"
    assert tokenizer.decode([1, *tokenizer.encode("a")], skip_special=False) == f"{EOS}a"


def test_padding_and_truncation_of_the_file_are_left(folder):
    """`tokenizer.json` keeps what its training had: a prompt would lose its end, or get another."""
    file = Tokenizer.from_file(str(folder / "tokenizer.json"))
    file.enable_padding(length=64)
    file.enable_truncation(3)
    file.save(str(folder / "tokenizer.json"))
    assert FamilyTokenizer.read(folder).encode(TEXTS[1]) == TOKENIZER.encode(TEXTS[1]).ids


def test_special_tokens_may_be_records(folder):
    change(folder, bos_token={"content": EOS, "lstrip": False}, unk_token=None, cls_token=5)
    assert FamilyTokenizer.read(folder).special == {"bos_token": EOS, "eos_token": EOS, "pad_token": PAD}


def test_where_a_chat_template_may_be(folder):
    assert FamilyTokenizer.read(folder).chat_template is None
    with pytest.raises(ElasticError, match="this model has no chat template; give its text itself"):
        FamilyTokenizer.read(folder).render(USER)
    change(folder, chat_template="{{ bos_token }}one")
    assert FamilyTokenizer.read(folder).render(USER) == f"{EOS}one"
    change(folder, chat_template=[{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "two"}])
    assert FamilyTokenizer.read(folder).render(USER) == "two"
    change(folder, chat_template=[{"name": "tool_use", "template": "tools"}])
    assert FamilyTokenizer.read(folder).chat_template is None
    (folder / "chat_template.jinja").write_text("three\n")
    assert FamilyTokenizer.read(folder).render(USER) == "three"


def test_special_tokens_of_a_template_are_tokens(folder):
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    ids = FamilyTokenizer.read(folder).encode_chat([{"role": "user", "content": "a"}])
    assert ids == [1, *TOKENIZER.encode("a").ids]


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
def test_half_a_character_is_told(text):
    with pytest.raises(ElasticError, match=r"^prompts: '\\ud[8f]..' is not allowed; text that UTF-8 can write$"):
        FamilyTokenizer(TOKENIZER).encode(text)


def test_damage_is_one_line(folder, tmp_path):
    def told(words: str) -> None:
        with pytest.raises(ElasticError, match=words):
            load_family(folder).tokenizer  # noqa: B018

    (folder / "chat_template.jinja").write_bytes(b"\xff")
    told("chat_template.jinja: not UTF-8 text")
    (folder / "chat_template.jinja").write_text("{% if %}")
    told("chat_template.jinja: chat template: Expected an expression")
    (folder / "chat_template.jinja").unlink()
    (tmp_path / "secret").write_text("secret")
    (folder / "chat_template.jinja").symlink_to(tmp_path / "secret")
    told("is a link out of its folder")
    (folder / "chat_template.jinja").unlink()
    change(folder, chat_template={"a": 1})
    told("tokenizer_config.json: chat_template: {'a': 1} is not allowed; a text")
    (folder / "tokenizer_config.json").write_text("[]")
    told("tokenizer_config.json: not a JSON object")
    (folder / "tokenizer.json").write_text("{}")
    told("tokenizer.json: not a tokenizer")
    (folder / "tokenizer.json").unlink()
    told("tokenizer.json: no tokenizer here")


def test_a_family_in_memory_has_none():
    family = FamilyRuntime(NemotronH.random(PARENT))
    with pytest.raises(ElasticError, match="tokenizer: a family that was made in memory has none; give token ids"):
        family.tokenizer  # noqa: B018
    assert family.end_ids == frozenset()
    assert len(family.select().generate([3, 4], 2)) == 2


def test_a_text_that_the_tokenizer_fails_at_is_told_in_one_line():
    tokenizer = FamilyTokenizer(Tokenizer(WordLevel({"a": 0}, unk_token="gone")))
    with pytest.raises(ElasticError, match=r"^prompts: the tokenizer fails \(WordLevel error: Missing \[UNK\]"):
        tokenizer.encode("b")
    panics = Tokenizer(BPE({"a": 0, "b": 1}, []))
    panics.pre_tokenizer = Split(Regex("(a+)+$"), "isolated")
    with pytest.raises(ElasticError, match=r"^prompts: the tokenizer fails \(.*retry-limit-in-match"):
        FamilyTokenizer(panics).encode("a" * 100 + "b")
