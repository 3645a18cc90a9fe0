# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Chat templates: messages to the text that a model was trained on, as transformers renders them.

A template is a program that came with the folder: it runs in a process apart, within bounds (`formats.template`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.extras import require
from nemo_elastic.io.apart import Exceeded, apart

_RENDER = "nemo_elastic.formats.template:render"
_MESSAGE = "a list of messages such as {'role': 'user', 'content': 'Hello'}"

Message = Mapping[str, Any]


class ChatTemplate:
    """A chat template.

    Args:
        text: Jinja.
        special: special tokens that it may name: bos_token, eos_token and so on.
        where: its file, for errors.

    Raises:
        ElasticError: it is no Jinja.
    """

    def __init__(self, text: str, special: Mapping[str, str], where: str) -> None:
        require("jinja2")  # the process apart could not say what brings it
        self._text, self._special, self._where = text, dict(special), where
        self._call(None)

    def check(self) -> None:
        """Let it render a word, for whoever renders it without bounds; whether it takes that is its own to say.

        Raises:
            ElasticError: that takes too much time or memory.
        """
        try:
            apart(_RENDER, self._text, self._names([{"role": "user", "content": "Hello"}], True))
        except Exceeded as exc:
            raise self._error(exc) from None
        except ElasticError:
            return

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a conversation.

        Args:
            messages: each with `role` and `content`, and what else the template reads.
            add_generation_prompt: end where the answer begins.

        Raises:
            ElasticError: they are no messages, or the template refuses them, fails, or takes too much time or memory.
        """
        return self._call(self._names(check_messages(messages), add_generation_prompt))

    def _names(self, messages: Sequence[Message], add_generation_prompt: bool) -> dict[str, Any]:
        told = {"messages": messages, "add_generation_prompt": add_generation_prompt, "tools": None, "documents": None}
        return told | self._special

    def _error(self, exc: ElasticError) -> ElasticError:
        return ElasticError(f"chat template: {exc.said}", self._where)

    def _call(self, names: Mapping[str, Any] | None) -> Any:
        try:
            return apart(_RENDER, self._text, names)
        except ElasticError as exc:
            raise self._error(exc) from None


def check_messages(messages: Any, name: str = "messages") -> list[dict[str, Any]]:
    """Messages as plain dictionaries.

    Raises:
        ElasticError: there are none, or one has no role or no content.
    """
    if not isinstance(messages, (list, tuple)) or not messages:
        raise bad(name, messages, _MESSAGE)
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise bad(f"{name}[{i}]", message, _MESSAGE)
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise bad(f"{name}[{i}].{key}", message.get(key), "a text")
    return [dict(message) for message in messages]
