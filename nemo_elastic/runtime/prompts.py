# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What `generate` takes as prompts, and the files beside a family's weights that text needs.

A prompt is a text, messages or token ids. Beside the weights are the tokenizer and the tokens that end an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.source import Source
from nemo_elastic.formats.tokenizer import FamilyTokenizer, check_messages
from nemo_elastic.io.read import read_json
from nemo_elastic.nn.generate import token_ids

GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Companions:
    """Files beside the weights, read when they are first needed.

    Attributes:
        folder: where they are; None for a family that was made in memory.
        config: its `config.json`.
    """

    folder: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Source) -> Companions:
        """Those of an opened folder."""
        return cls(source.companions, source.config)

    @cached_property
    def tokenizer(self) -> FamilyTokenizer:
        """The tokenizer.

        Raises:
            ElasticError: there is none, or it is damaged.
        """
        if self.folder is None:
            raise ElasticError("tokenizer: a family that was made in memory has none; give token ids")
        return FamilyTokenizer.read(self.folder)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end an answer: `eos_token_id` of the generation config, or else of `config.json`; may be none.

        Raises:
            ElasticError: it is no token id and no list of them.
        """
        path = None if self.folder is None else self.folder / GENERATION
        if path is not None and path.is_file():
            settings = read_json(path)
            if not isinstance(settings, dict):
                raise ElasticError("not a JSON object", path)
            if settings.get("eos_token_id") is not None:
                return _ids(f"{path}: eos_token_id", settings["eos_token_id"])
        return _ids("config.json: eos_token_id", self.config.get("eos_token_id"))


def _ids(name: str, given: Any) -> frozenset[int]:
    ids = [] if given is None else given if isinstance(given, list) else [given]
    if not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in ids):
        raise bad(name, given, "the id of a token, or a list of ids")
    return frozenset(ids)


_ALLOWED = "a text, messages, token ids, or a list of one of these"


@dataclass(frozen=True)
class Prompts:
    """Prompts as token ids.

    Attributes:
        ids: of each prompt.
        single: one was given, not a batch.
        are_text: texts or messages were given, so text is wanted.
    """

    ids: list[list[int]]
    single: bool
    are_text: bool


def read_prompts(given: Any, companions: Companions, vocab: int) -> Prompts:
    """Read prompts of any form.

    Args:
        given: a text; messages (a list of dictionaries with `role` and `content`); token ids (a list, or a tensor
            [l]); or a list of one of these, of any lengths (of token ids also a tensor [b, l]).
        companions: for the tokenizer, which is read only where there is text.
        vocab: how many tokens the model knows.

    Raises:
        ElasticError: it is something else, a prompt has no token, or the model does not know one.
    """
    if isinstance(given, str):
        return Prompts(token_ids([companions.tokenizer.encode(given)], vocab), True, True)
    if isinstance(given, torch.Tensor) or hasattr(given, "ndim"):
        if given.ndim not in (1, 2):
            raise bad("prompts", f"{given.ndim} dimensions", "one for the tokens of a prompt, or [prompts, tokens]")
        single = given.ndim == 1
        return Prompts(token_ids(given[None] if single else given, vocab), single, False)
    if not isinstance(given, Sequence) or isinstance(given, (bytes, bytearray)):
        raise bad("prompts", given, _ALLOWED)
    first = given[0] if len(given) else None
    if isinstance(first, Mapping):
        return Prompts(token_ids([companions.tokenizer.encode_chat(check_messages(given))], vocab), True, True)
    if isinstance(first, str):
        return Prompts(token_ids([companions.tokenizer.encode(text) for text in given], vocab), False, True)
    if isinstance(first, Sequence) and len(first) and isinstance(first[0], Mapping):
        chats = [check_messages(chat, f"prompts[{i}]") for i, chat in enumerate(given)]
        return Prompts(token_ids([companions.tokenizer.encode_chat(chat) for chat in chats], vocab), False, True)
    single = isinstance(first, (Integral, float))  # a float is no id, and is refused as one
    return Prompts(token_ids([given] if single else given, vocab), single, False)
