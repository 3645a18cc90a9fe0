# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Token by token, a text comes in whole characters, and its pieces are the text of all tokens."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from nemo_elastic.runtime.pieces import Detokenizer
from nemo_elastic.runtime.tokenizer import FamilyTokenizer
from tests.runtime.talking import PARENT, TOKENIZER

BYTES = FamilyTokenizer(TOKENIZER)


def pieces(tokenizer: FamilyTokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer.decode)
    return [*map(detokenizer.push, ids), detokenizer.flush()]


@settings(deadline=None)
@given(st.text())
def test_pieces_of_a_text_are_the_text_in_whole_characters(text):
    found = pieces(BYTES, BYTES.encode(text))
    assert "".join(found) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in found)


@settings(deadline=None)
@given(st.lists(st.integers(0, PARENT.vocab - 1), max_size=40))
def test_pieces_of_any_tokens_are_their_text(ids):
    """Bytes that make no character, special tokens, tokens that the tokenizer does not have."""
    assert "".join(pieces(BYTES, ids)) == BYTES.decode(ids)


def test_a_character_comes_when_its_last_byte_has_come():
    ids = BYTES.encode("zß𝄞", special=False)
    assert len(ids) == 7  # of no merge
    assert pieces(BYTES, ids) == ["z", "", "ß", "", "", "", "𝄞", ""]
    assert pieces(BYTES, ids[:-1])[-1] == "\ufffd"


def test_spaces_of_another_kind_of_decoder_stay():
    """One that writes a space before each word and drops the first of a text."""
    words = {"▁The": 0, "▁first": 1, "s": 2, "▁": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="▁"))
    tokenizer.decoder = decoders.Metaspace()
    ids = [0, 1, 2, 3, 0, 0, 1]
    family = FamilyTokenizer(tokenizer)
    assert "".join(pieces(family, ids)) == family.decode(ids) == "The firsts  The The first"
