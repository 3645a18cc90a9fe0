# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A folder's tokenizer with its special tokens and chat template, read without transformers.

A template makes of messages the text that a model was trained on, as transformers renders them. It is a program that
came with the folder: it runs in a process apart, within bounds (`formats.tokenizer_files`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.extras import require
from nemo_elastic.formats.tokenizer_files import load_tokenizer, rows_of
from nemo_elastic.io.apart import Exceeded, apart
from nemo_elastic.io.bounded import read_text
from nemo_elastic.io.read import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_RENDER = "nemo_elastic.formats.tokenizer_files:render"
#: as the hosts look for marks of what an assistant said
_MARKS = re.compile(r"\{%-?\s+generation\s+-?%\}")
_MESSAGE = "a list of messages such as {'role': 'user', 'content': 'Hello'}"

Message = Mapping[str, Any]


class ChatTemplate:
    """A chat template.

    Args:
        text: Jinja.
        special: special tokens that it may name: bos_token, eos_token and so on.
        where: its file, for errors.

    Attributes:
        marks_answers: whether `{% generation %}` says what an assistant said.

    Raises:
        ElasticError: it is no Jinja.
    """

    def __init__(self, text: str, special: Mapping[str, str], where: str) -> None:
        require("jinja2")  # the process apart could not say what brings it
        self._text, self._special, self._where = text, dict(special), where
        self.marks_answers = _MARKS.search(text) is not None
        self._call(_RENDER, None)

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
        return self._call(_RENDER, self._names(check_messages(messages), add_generation_prompt))

    def render_marked(self, messages: Sequence[Message], tools: Any = None) -> tuple[str, list[tuple[int, int]]]:
        """The text of a whole conversation, and the characters from and to which its marks say is an assistant's.

        Args:
            messages: see `render`.
            tools: what the assistant may call, for templates that tell it.

        Raises:
            ElasticError: see `render`; or the marks get lost in the template.
        """
        names = self._names(check_messages(messages), False) | {"tools": tools}
        text, spans = self._call(f"{_RENDER}_marked", names)
        return text, [(start, end) for start, end in spans]

    def _names(self, messages: Sequence[Message], add_generation_prompt: bool) -> dict[str, Any]:
        own = {"messages": messages, "add_generation_prompt": add_generation_prompt, "tools": None, "documents": None}
        return own | self._special

    def _error(self, exc: ElasticError) -> ElasticError:
        return ElasticError(f"chat template: {exc.said}", self._where)

    def _call(self, function: str, names: Mapping[str, Any] | None) -> Any:
        try:
            return apart(function, self._text, names)
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


CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class FamilyTokenizer:
    """Text to token ids and back.

    Args:
        tokenizer: of the `tokenizers` library; its padding and truncation are switched off.
        special: special tokens by their names in `tokenizer_config.json`.
        chat_template: of the model, if it has one.

    Attributes:
        tokenizer, special, chat_template: as given.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        special: Mapping[str, str] | None = None,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        # a file may still have what it was trained with: a prompt would lose its end, or get another
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self.special, self.chat_template = tokenizer, dict(special or {}), chat_template

    @classmethod
    def read(cls, folder: Path) -> FamilyTokenizer:
        """Read `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`, the latter two if they are there.

        Raises:
            ElasticError: there is no tokenizer.json, or a file is damaged.
        """
        tokenizer, settings = load_tokenizer(folder), _settings(folder / CONFIG)
        special = {}
        for name in _SPECIAL:
            token = settings.get(name)
            token = token.get("content") if isinstance(token, Mapping) else token
            if isinstance(token, str):
                special[name] = token
        text, where = _template(folder, settings)
        return cls(tokenizer, special, None if text is None else ChatTemplate(text, special, str(where)))

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: any text that UTF-8 can write.
            special: let the tokenizer add its special tokens, such as one that begins every text.

        Raises:
            ElasticError: it is no text, has half of a surrogate pair, or the tokenizer fails at it.
        """
        if not isinstance(text, str):
            raise bad("prompts", text, "a text")
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise bad("prompts", text[exc.start : exc.end], "text that UTF-8 can write") from None
        with _in_one_line("prompts"):
            return self.tokenizer.encode(text, add_special_tokens=special).ids

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several texts at once, without special tokens.

        Raises:
            ElasticError: one is no text that UTF-8 can write, or the tokenizer fails at it.
        """
        with _in_one_line("prompts"):
            return [e.ids for e in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of token ids; ids that the tokenizer has no token for say nothing."""
        with _in_one_line("tokens"):
            return self.tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a conversation by the model's chat template, as `apply_chat_template` of transformers.

        Args:
            messages: each a dictionary with `role` and `content`.
            add_generation_prompt: end where the answer begins.

        Raises:
            ElasticError: the model has no chat template, or it does not take these messages.
        """
        if self.chat_template is None:
            raise ElasticError("messages: this model has no chat template; give its text itself")
        return self.chat_template.render(messages, add_generation_prompt)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation up to where the answer begins; special tokens are those of the template."""
        return self.encode(self.render(messages), special=False)

    def encode_answers(self, messages: Sequence[Message], tools: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of a whole conversation, int32, and which of them an assistant said, as transformers counts them.

        Args:
            messages: each with `role` and `content`.
            tools: see `ChatTemplate.render_marked`.

        Returns:
            The ids, and a mask of the same length: all of them where the template has no marks.

        Raises:
            ElasticError: the model has no chat template, or it does not take these messages.
        """
        if self.chat_template is None:
            raise ElasticError("messages: this model has no chat template; give its text itself")
        text, spans = self.chat_template.render_marked(messages, tools)
        with _in_one_line("messages"):
            encoded = self.tokenizer.encode(text, add_special_tokens=False)
        mask_t = np.full(len(encoded.ids), not self.chat_template.marks_answers)
        starts_t, ends_t = np.array(encoded.offsets, dtype=np.int64).reshape(-1, 2).T
        for start, end in spans:
            mask_t |= (starts_t < end) & (ends_t > start)
        return np.array(encoded.ids, dtype=np.int32), mask_t

    @property
    def end_id(self) -> int | None:
        """The token that ends a text: `eos_token` of its settings, where the tokenizer has it."""
        token = self.special.get("eos_token")
        return None if token is None else self.tokenizer.token_to_id(token)

    @property
    def vocab_size(self) -> int:
        """Rows of a model that knows every token, added ones included."""
        return rows_of(self.tokenizer)


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """What a text or tokens still do to a tokenizer that was opened: a panic of Rust's is no Exception of Python's."""
    try:
        yield
    except BaseException as exc:
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
            raise
        raise ElasticError(f"{what}: the tokenizer fails ({str(exc) or type(exc).__name__})") from None


def has_template(folder: Path) -> bool:
    """Whether a folder's tokenizer has a chat template.

    Raises:
        ElasticError: a file is damaged.
    """
    return _template(folder, _settings(folder / CONFIG))[0] is not None


def _settings(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ElasticError("not a JSON object", path)
    return settings


def _template(folder: Path, settings: Mapping[str, Any]) -> tuple[str | None, Path]:
    """The template and its file; the file of its own goes before the setting, as in transformers."""
    path = folder / TEMPLATE
    if path.is_file():
        try:
            return read_text(path), path
        except UnicodeDecodeError:
            raise ElasticError("not UTF-8 text", path) from None
    path, text = folder / CONFIG, settings.get("chat_template")
    if isinstance(text, list):  # several by name
        text = next((t.get("template") for t in text if isinstance(t, dict) and t.get("name") == "default"), None)
    if text is not None and not isinstance(text, str):
        raise bad(f"{path}: chat_template", text, "a text")
    return text, path
