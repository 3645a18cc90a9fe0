# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A folder's tokenizer, its special tokens and its chat template: which folder has one, and what it reads and says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Split

from nemo_elastic.data.build import EOS, PAD
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.tokenizer import ChatTemplate, FamilyTokenizer, find_tokenizer, load_tokenizer
from nemo_elastic.runtime import load_family
from tests.runtime.talking import MESSAGES, TEMPLATE, TEXTS, TOKENIZER, talking_family

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
    change(folder, bos_token={"content": EOS, "lstrip": False}, unk_token=None, cls_token=5)
    change(folder, model_max_length=int(1e30))  # as transformers writes it where there is no maximum
    tokenizer = FamilyTokenizer.read(folder)
    assert tokenizer.encode(TEXTS[1]) == TOKENIZER.encode(TEXTS[1]).ids
    assert tokenizer.special == {"bos_token": EOS, "eos_token": EOS, "pad_token": PAD}


def test_where_a_chat_template_may_be(folder):
    assert FamilyTokenizer.read(folder).chat_template is None
    with pytest.raises(ElasticError, match=r"write one into .*chat_template.jinja, or give text instead of messages"):
        FamilyTokenizer.read(folder).render(USER)
    change(folder, chat_template="{{ bos_token }}one")
    assert FamilyTokenizer.read(folder).render(USER) == f"{EOS}one"
    change(folder, chat_template=[{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "two"}])
    assert FamilyTokenizer.read(folder).render(USER) == "two"
    change(folder, chat_template=[{"name": "tool_use", "template": "tools"}])
    assert FamilyTokenizer.read(folder).chat_template is None
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    ids = FamilyTokenizer.read(folder).encode_chat([{"role": "user", "content": "a"}])
    assert ids == [1, *TOKENIZER.encode("a").ids]


def test_half_a_character_is_reported():
    with pytest.raises(ElasticError, match=r"^prompts: '\\ud800'"):
        FamilyTokenizer(TOKENIZER).encode("a\ud800")


def test_damage_is_one_line(folder, tmp_path):
    def refused(words: str) -> None:
        with pytest.raises(ElasticError, match=words):
            load_family(folder).tokenizer  # noqa: B018

    (folder / "chat_template.jinja").write_bytes(b"\xff")
    refused("chat_template.jinja: not UTF-8 text")
    (folder / "chat_template.jinja").write_text("{% if %}")
    refused("chat_template.jinja: chat template: Expected an expression")
    (folder / "chat_template.jinja").unlink()
    change(folder, chat_template={"a": 1})
    refused("tokenizer_config.json: chat_template: {'a': 1} is not allowed; a text")
    change(folder, chat_template=None, bos_token="x" * 257)
    refused("tokenizer_config.json: bos_token: 'xxx")
    (folder / "tokenizer_config.json").write_text("[]")
    refused("tokenizer_config.json: not a JSON object")
    for content in (b"{}", b"\xff"):
        (folder / "tokenizer.json").write_bytes(content)
        refused("tokenizer.json: not a tokenizer")
    (folder / "tokenizer.json").unlink()
    refused("tokenizer.json: no tokenizer here")


def test_a_text_that_the_tokenizer_fails_at_is_reported_in_one_line():
    tokenizer = FamilyTokenizer(Tokenizer(WordLevel({"a": 0}, unk_token="gone")))
    with pytest.raises(ElasticError, match=r"^prompts: the tokenizer fails \(WordLevel error: Missing \[UNK\]"):
        tokenizer.encode("b")
    panics = Tokenizer(BPE({"a": 0, "b": 1}, []))
    panics.pre_tokenizer = Split(Regex("(a+)+$"), "isolated")
    with pytest.raises(ElasticError, match=r"^prompts: the tokenizer fails \(.*retry-limit-in-match"):
        FamilyTokenizer(panics).encode("a" * 100 + "b")


HELLO = [{"role": "user", "content": "Hi"}]


def render(text: str, messages=HELLO, **special: str) -> str:
    return ChatTemplate(text, special, "folder/chat_template.jinja").render(messages)


def test_a_conversation_is_rendered():
    template = ChatTemplate(TEMPLATE, {"bos_token": "<s>"}, "here")
    assert template.render(MESSAGES) == ("<s><system>\nBe brief.\n<user>\ndef f(x): naïve 日本語\n<assistant>\n")
    assert template.render(MESSAGES, add_generation_prompt=False).endswith("日本語")
    assert template.render(HELLO) == "<s><user>\nHi\n<assistant>\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{ messages | tojson }}", '[{"role": "user", "content": "<é>"}]'),  # as it is, not escaped for HTML
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}x{% endfor %}", ""),
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "<é>"),
        ("{{ tools is none }} {{ documents is none }} {{ bos_token }}|{{ eos_token }}", "True True |</s>"),
        ("{{ strftime_now('%Y') > '2000' }}", "True"),
    ],
)
def test_what_templates_use(text, expected):
    assert render(text, [{"role": "user", "content": "<é>"}], eos_token="</s>") == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ raise_exception('no\x1b[31m such\nrole') }}", r"no\\x1b\[31m such role"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
        ("{{ 1" + "+1" * 20_000 + " }}", "recursion"),
    ],
)
def test_what_a_template_may_not(text, words):
    """Each ends in one line that names the file, and soon."""
    with pytest.raises(ElasticError, match=rf"(?i)^folder/chat_template.jinja: chat template: .*({words})") as raised:
        render(text)
    assert "\n" not in str(raised.value) and "\x1b" not in str(raised.value)


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([], r"messages: \[\] is not allowed; a list of messages such as"),
        (["Hi"], r"messages\[0\]: 'Hi' is not allowed; a list of messages"),
        ([{"content": "Hi"}], r"messages\[0\]\.role: missing; a text"),
        ([*HELLO, {"role": "user", "content": 5}], r"messages\[1\]\.content: 5 is not allowed; a text"),
    ],
)
def test_what_is_no_conversation(messages, line):
    with pytest.raises(ElasticError, match=f"^{line}"):
        render(TEMPLATE, messages)


# ------------------------------------------------------------------ files


def test_a_vocabulary_makes_a_folder_one_with_a_tokenizer(tmp_path: Path) -> None:
    assert find_tokenizer(None) is None and find_tokenizer(tmp_path / "gone") is None
    (tmp_path / "tokenizer_config.json").touch()
    (tmp_path / "tokenizer.json").mkdir()
    assert find_tokenizer(tmp_path) is None
    (tmp_path / "tokenizer.model").touch()
    assert find_tokenizer(str(tmp_path)) == tmp_path


def bpe(**more) -> dict:
    """`tokenizer.json` of a whole BPE tokenizer, with other parts."""
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}  # fmt: skip
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
             "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model}  # fmt: skip
    return whole | more


def test_a_panic_is_reported_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(bpe()))
    assert load_tokenizer(tmp_path).encode("aab").ids == [0, 2]
    path.write_text(json.dumps(bpe(decoder={"type": "Strip", "content": "a", "start": 2**60, "stop": 2**60})))
    with pytest.raises(ElasticError, match=r"^.*/tokenizer\.json: not a tokenizer \(.+\)$"):
        load_tokenizer(tmp_path)


def test_ids_that_nothing_holds_are_refused(tmp_path: Path) -> None:
    vocab = bpe()["model"]["vocab"] | {"far": 2**31}
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe(model=bpe()["model"] | {"vocab": vocab})))
    with pytest.raises(ElasticError, match=f"its largest id is {2**31}; at most {2**31 - 1}"):
        load_tokenizer(tmp_path)
