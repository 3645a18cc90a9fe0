# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A folder's tokenizer with its special tokens and chat template, read without transformers.

A template is a program that came with the folder. It runs in Jinja's immutable sandbox, as in transformers: it reaches
no file, no module and no attribute of Python's.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.extras import require
from nemo_elastic.io.read import read_bytes, read_json, read_text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG, TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
TOKENIZER_FILES = (
    "tokenizer.json", CONFIG, "tokenizer.model", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", TEMPLATE, "chat_template.json",
)  # fmt: skip
#: without one of these a folder has no tokenizer
_ENOUGH = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
#: of a vocabulary: ids are kept in four bytes, with a sign
MAX_ROWS = 2**31
#: what a tokenizer has to encode when it is opened
_SAMPLE = "Hello,  world! 3.14 <s> </s>\n\tnaïve 日本語 ﬁ \u0301 🦜 " + "a" * 100 + "!"
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
#: maximum characters of a special token, which a template may repeat; real ones have some dozens
_LONGEST = 256
_MESSAGE = "a list of messages such as {'role': 'user', 'content': 'Hello'}"
#: as the hosts look for marks of what an assistant said
_MARKS = re.compile(r"\{%-?\s+generation\s+-?%\}")
#: around what `{% generation %}` marks while it is rendered: no text and no template knows them
_OPEN, _CLOSE = (f"\ue000{secrets.token_hex(16)}\ue001" for _ in range(2))

Message = Mapping[str, Any]


# ------------------------------------------------------------------ files


def find_tokenizer(folder: str | os.PathLike[str] | None) -> Path | None:
    """`folder`, if it holds a tokenizer, else None."""
    if folder is None or not any((Path(folder) / name).is_file() for name in _ENOUGH):
        return None
    return Path(folder)


def own_files(folder: Path, names: Iterable[str]) -> list[Path]:
    """The files of these names in a folder, to be copied into folders that people publish.

    Raises:
        ElasticError: A link out of the folder. In the hub's cache, links lead to `blobs` next to `snapshots`.
    """
    real = folder.resolve()
    cache = real.parents[1] if real.parent.name == "snapshots" else real
    inside = [real, cache / "blobs"] if cache.name.startswith("models--") else [real]
    files = [folder / name for name in names if (folder / name).is_file()]
    for file in files:
        if not any(file.resolve().is_relative_to(place) for place in inside):
            raise ElasticError("is a link out of its folder and is not copied; put the file itself there", file)
    return files


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy the files of a tokenizer into a new folder."""
    out.mkdir()
    for file in own_files(folder, TOKENIZER_FILES):
        (out / file.name).write_bytes(read_bytes(file))


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Open the tokenizer of a folder without transformers, and try it: some files fail at the first text alone."""
    from tokenizers import Tokenizer

    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ElasticError(f"{path}: no tokenizer here")
    try:
        text = read_text(path)
    except UnicodeDecodeError:
        raise ElasticError("not a tokenizer (no UTF-8 text)", path) from None
    with _in_one_line("not a tokenizer", path):
        tokenizer = Tokenizer.from_str(text)
        if (rows := rows_of(tokenizer)) > MAX_ROWS:
            raise ElasticError(f"its largest id is {rows - 1}; at most {MAX_ROWS - 1}")
        # a file may still have what it was trained with: a prompt would lose its end, or get another
        tokenizer.no_padding()
        tokenizer.no_truncation()
        with suppress(Exception):  # that it has no token for something is no damage; a panic of Rust's is no Exception
            tokenizer.encode(_SAMPLE, add_special_tokens=True)
        with suppress(Exception):
            tokenizer.decode(list(range(min(tokenizer.get_vocab_size(), 1000))))
    return tokenizer


@contextmanager
def _in_one_line(said: str, *at: object) -> Iterator[None]:
    """Tell in one line what the tokenizers library raises: a panic of Rust's is no Exception of Python's."""
    try:
        yield
    except BaseException as exc:
        if not isinstance(exc, Exception) and type(exc).__name__ != "PanicException":
            raise
        why = str(exc).strip() or type(exc).__name__
        raise ElasticError(f"{said} ({why.splitlines()[0]})", *at) from None


def rows_of(tokenizer: Tokenizer) -> int:
    """Rows of a model that knows every id of a tokenizer. Ids may have gaps: their number is no bound."""
    return 1 + max(tokenizer.get_vocab().values(), default=-1)


def what_differs(one: Path, other: Path) -> str | None:
    """What makes the tokenizers of two folders cut a text differently: `vocabulary`, `merges` or None."""
    if load_tokenizer(one).get_vocab() != load_tokenizer(other).get_vocab():
        return "vocabulary"
    return None if _merges(one) == _merges(other) else "merges"


def _merges(folder: Path) -> list[list[str]]:
    """Pairs that a BPE merges, in order, from the file: `Tokenizer.to_str` prints the ids that a vocabulary lacks."""
    merges = json.loads(read_text(folder / "tokenizer.json"))["model"].get("merges") or []
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]  # as older files have them


def has_template(folder: Path) -> bool:
    """Whether a folder's tokenizer has a chat template."""
    return template_of(folder)[0] is not None


def read_settings(folder: Path) -> Mapping[str, Any]:
    """`tokenizer_config.json` of a folder, empty where there is none."""
    path = folder / CONFIG
    if not path.is_file():
        return {}
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise ElasticError("not a JSON object", path)
    return settings


def template_of(folder: Path) -> tuple[str | None, Path]:
    """The chat template and its file; the separate file has precedence over the setting, as in transformers."""
    path = folder / TEMPLATE
    if path.is_file():
        try:
            return read_text(path), path
        except UnicodeDecodeError:
            raise ElasticError("not UTF-8 text", path) from None
    path, text = folder / CONFIG, read_settings(folder).get("chat_template")
    if isinstance(text, list):  # several by name
        text = next((t.get("template") for t in text if isinstance(t, dict) and t.get("name") == "default"), None)
    if text is not None and not isinstance(text, str):
        raise bad(f"{path}: chat_template", text, "a text")
    return text, path


# ------------------------------------------------------------------ chat templates


class ChatTemplate:
    """A chat template: the text that a model was trained on, made of messages as transformers makes it.

    Args:
        text: Jinja.
        special: special tokens that it may name: bos_token, eos_token and so on.
        where: its file, for errors.

    Attributes:
        marks_answers: whether `{% generation %}` says what an assistant said.
    """

    def __init__(self, text: str, special: Mapping[str, str], where: str) -> None:
        require("jinja2")
        self._text, self._special, self._where = text, dict(special), where
        self.marks_answers = _MARKS.search(text) is not None
        with self._failing():
            self._plain = _compiled(text, marked=False)

    @cached_property
    def _marked(self) -> Any:
        return _compiled(self._text, marked=True)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a conversation, up to where the answer begins or to its end."""
        names = self._names(check_messages(messages), add_generation_prompt)
        with self._failing():
            return self._plain.render(names)

    def render_marked(self, messages: Sequence[Message], tools: Any = None) -> tuple[str, list[tuple[int, int]]]:
        """The text of a whole conversation, and the characters from and to which an assistant said it by its marks."""
        names = self._names(check_messages(messages), False) | {"tools": tools}
        pieces, spans, begun, at = [], [], [], 0
        with self._failing():
            plain, marked = self._plain.render(names), self._marked.render(names)
            for piece in re.split(f"({_OPEN}|{_CLOSE})", marked):
                if piece == _OPEN:
                    begun.append(at)
                elif piece == _CLOSE:
                    spans.append((begun.pop() if begun else -1, at))
                else:
                    pieces.append(piece)
                    at += len(piece)
            if begun or any(start < 0 for start, _ in spans) or plain != "".join(pieces):
                raise ElasticError("a filter or a variable loses the template's generation marks")
        return plain, spans

    def _names(self, messages: Sequence[Message], add_generation_prompt: bool) -> dict[str, Any]:
        variables = {
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
        }
        return variables | self._special

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """One line for what a template raises: whatever an expression, or compiling one, can."""
        try:
            yield
        except Exception as exc:
            raise ElasticError(f"chat template: {exc or type(exc).__name__}", self._where) from None


def _compiled(text: str, marked: bool) -> Any:
    """A template in the environment that transformers renders chat templates in; its generation marks shown or not."""
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %}` marks for training what an assistant said; here it is its content."""

        tags: ClassVar[set[str]] = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            if marked:
                before, after = (nodes.Output([nodes.TemplateData(mark)]) for mark in (_OPEN, _CLOSE))
                body = [before, *body, after]
            return nodes.Scope(body, lineno=line)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _to_json
    made.globals |= {"raise_exception": _refuse, "strftime_now": time.strftime}
    return made.from_string(text)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """JSON without the HTML escapes of Jinja's filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: Any) -> Any:
    raise ValueError(str(message))


def check_messages(messages: Any, name: str = "messages") -> list[dict[str, Any]]:
    """Messages as plain dictionaries; raises without messages, or for one without role or content."""
    if not isinstance(messages, (list, tuple)) or not messages:
        raise bad(name, messages, _MESSAGE)
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise bad(f"{name}[{i}]", message, _MESSAGE)
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                raise bad(f"{name}[{i}].{key}", message.get(key), "a text")
    return [dict(message) for message in messages]


# ------------------------------------------------------------------ both


class FamilyTokenizer:
    """Text to token ids and back.

    Args:
        tokenizer: of the `tokenizers` library, without padding and truncation.
        special: special tokens by their names in `tokenizer_config.json`.
        chat_template: of the model, if it has one.
        folder: of its files.

    Attributes:
        tokenizer, special, chat_template, folder: as given.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        special: Mapping[str, str] | None = None,
        chat_template: ChatTemplate | None = None,
        folder: Path | None = None,
    ) -> None:
        self.tokenizer, self.special, self.chat_template = tokenizer, dict(special or {}), chat_template
        self.folder = folder

    @classmethod
    def read(cls, folder: Path) -> FamilyTokenizer:
        """Read `tokenizer.json`, and `tokenizer_config.json` and `chat_template.jinja` if they are there."""
        tokenizer, settings = load_tokenizer(folder), read_settings(folder)
        special = {}
        for name in _SPECIAL:
            token = settings.get(name)
            token = token.get("content") if isinstance(token, Mapping) else token
            if isinstance(token, str):
                if len(token) > _LONGEST:
                    raise bad(f"{folder / CONFIG}: {name}", token, f"at most {_LONGEST} characters")
                special[name] = token
        text, where = template_of(folder)
        return cls(tokenizer, special, None if text is None else ChatTemplate(text, special, str(where)), folder)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of a text, with special tokens that the tokenizer adds, such as one that begins every text."""
        if not isinstance(text, str):
            raise bad("prompts", text, "a text")
        try:
            text.encode()
        except UnicodeEncodeError as exc:
            raise bad("prompts", text[exc.start : exc.end], "text that UTF-8 can write") from None
        with _in_one_line("the tokenizer fails", "prompts"):
            return self.tokenizer.encode(text, add_special_tokens=special).ids

    def encode_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of several texts at once, without special tokens."""
        with _in_one_line("the tokenizer fails", "prompts"):
            return [e.ids for e in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of token ids; ids that the tokenizer has no token for say nothing."""
        with _in_one_line("the tokenizer fails", "tokens"):
            return self.tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def decode_stream(self) -> Callable[[int], str]:
        """A decoder of a stream of tokens; each call returns the characters that are complete."""
        from tokenizers.decoders import DecodeStream

        stream = DecodeStream(skip_special_tokens=True)

        def step(token: int) -> str:
            with _in_one_line("the tokenizer fails", "tokens"):
                return stream.step(self.tokenizer, token) or ""

        return step

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """The text of a conversation by the model's chat template, as `apply_chat_template` of transformers."""
        return self._chat.render(messages, add_generation_prompt)

    @property
    def _chat(self) -> ChatTemplate:
        if self.chat_template is None:
            raise self.no_template("give text instead of messages")
        return self.chat_template

    def no_template(self, instead: str) -> ElasticError:
        """The error for messages without a chat template: where to put one, and what to do `instead`."""
        place = TEMPLATE if self.folder is None else self.folder / TEMPLATE
        return ElasticError(f"the tokenizer has no chat template; write one into {place}, or {instead}", "messages")

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation up to where the answer begins; special tokens are those of the template."""
        return self.encode(self.render(messages), special=False)

    def encode_answers(self, messages: Sequence[Message], tools: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of a whole conversation, int32, and a mask of those that an assistant said.

        As transformers counts them: all of them where the template has no marks.
        """
        text, spans = self._chat.render_marked(messages, tools)
        with _in_one_line("the tokenizer fails", "messages"):
            encoded = self.tokenizer.encode(text, add_special_tokens=False)
        mask_t = np.full(len(encoded.ids), not self._chat.marks_answers)
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
        """Smallest vocabulary of a model that has every token, added tokens included."""
        return rows_of(self.tokenizer)
