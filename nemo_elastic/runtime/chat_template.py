# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Chat templates: messages to the text that a model was trained on, as transformers renders them.

A template is a program in Jinja that came with the folder, so it runs in Jinja's immutable sandbox: it reaches no
file, no module and no attribute of Python's. How often its loops and calls go round and how much it says is bounded;
what it takes of memory on the way is not.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from nemo_elastic.errors import ElasticError, bad

#: of one rendering: rounds of all loops, for how many rounds a call counts, and characters
_STEPS, _CALL, _CHARACTERS = 10**6, 8, 2**26
#: in a product or power: how often a text is repeated, any other number, an exponent
_REPEATED, _NUMBER, _EXPONENT = 10**4, 2**64, 64
_MESSAGE = "a list of messages such as {'role': 'user', 'content': 'Hello'}"

Message = Mapping[str, Any]


class _Refused(Exception):
    """A template says itself that it does not take these messages, or takes too much."""


class ChatTemplate:
    """A chat template, parsed.

    Args:
        text: Jinja.
        special: special tokens that it may name: bos_token, eos_token and so on.
        where: its file, for errors.

    Raises:
        ElasticError: it is no Jinja.
    """

    def __init__(self, text: str, special: Mapping[str, str], where: str) -> None:
        from jinja2 import TemplateError, nodes

        self._special, self._where = dict(special), where
        self._budget = _Budget()
        environment = _environment(self._budget)
        try:
            tree = environment.parse(text)
            for loop in tree.find_all(nodes.For):
                loop.iter = nodes.Filter(loop.iter, "counted", [], [], None, None, lineno=loop.lineno)
            self._template = environment.from_string(tree)
        except (TemplateError, RecursionError) as exc:
            raise ElasticError(f"chat template: {str(exc) or type(exc).__name__}", where) from None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a conversation.

        Args:
            messages: each with `role` and `content`, and what else the template reads.
            add_generation_prompt: end where the answer begins.

        Raises:
            ElasticError: they are no messages, or the template refuses them, fails, or goes on for too long.
        """
        given = check_messages(messages)
        names = {"messages": given, "add_generation_prompt": add_generation_prompt, "tools": None, "documents": None}
        pieces, size = [], 0
        self._budget.left = _STEPS
        try:
            for piece in self._template.generate(**names, **self._special):
                size += len(piece)
                if size > _CHARACTERS:
                    raise _Refused("its text does not end")
                pieces.append(piece)
        except Exception as exc:  # a template from elsewhere can raise whatever an expression can
            raise ElasticError(f"chat template: {str(exc) or type(exc).__name__}", self._where) from None
        return "".join(pieces)


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


class _Budget(threading.local):
    """What the rendering of this thread may still do."""

    left = 0

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise _Refused("it does not come to an end")

    def counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.spend()
            yield value


def _environment(budget: _Budget) -> Any:
    """The environment that transformers renders chat templates in, with a budget."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks for training what an assistant said; here it is its content."""

        tags: ClassVar[set[str]] = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class Environment(ImmutableSandboxedEnvironment):
        intercepted_binops = frozenset(["*", "**"])

        def call(self, context: Any, called: Any, /, *args: Any, **more: Any) -> Any:
            budget.spend(_CALL)
            return super().call(context, called, *args, **more)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            # one such step could take all time or memory
            most = _REPEATED if any(hasattr(x, "__len__") for x in (left, right)) else _NUMBER
            if any(isinstance(x, int) and abs(x) > most for x in (left, right)) or (
                operator == "**" and (not isinstance(right, int) or right > _EXPONENT)
            ):
                raise _Refused("it computes with too large a number")
            return super().call_binop(context, operator, left, right)

    made = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.filters["counted"] = budget.counted
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = _today
    return made


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON as it is: Jinja's own filter escapes it for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any) -> Any:
    raise _Refused(str(message))


def _today(format: str) -> str:
    """The date, which some templates tell the model."""
    return time.strftime(format)
