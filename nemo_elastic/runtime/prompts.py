# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What `generate` takes as prompts: a text, token ids, messages, or a batch of one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch

from nemo_elastic.errors import bad
from nemo_elastic.nn.generate import token_ids

from .chat_template import check_messages
from .companions import Companions

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
    single = isinstance(first, (Integral, float))  # a float is no id, and is told as one
    return Prompts(token_ids([given] if single else given, vocab), single, False)
