# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pickles of checkpoints read as data, by Python's own reader without what calls or imports.

`pickle._Unpickler` is the reader in Python; here it knows only the opcodes that describe values. What would import
or call is replaced: a name stays a `Named`, what would be called becomes a `Made` that says so, and every other value
is a plain number, text, bytes, tuple, list or dict. Refused is all else: other opcodes, names that are not on the
caller's list or are not used as their `Form` says, and what is too large.

megatron-core gives to Python's fast reader what has passed here. So what would cost that one more than the pickle's
own length is refused, too: numbers of a memo that it would make room for, keys that take long to hash or to tell
apart, copies of copies, values that are short written with references and endless without.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: (module, name), as a pickle spells them
Name = tuple[str, str]
Check = Callable[[Any], bool]

#: opcodes that a pickle may have: a 12B on 64 GPUs takes about two million, which are three seconds here
MOST = 2**24
#: what stands for a tensor's values, which lie beside the pickle
STORED: Name = ("", "stored beside the pickle")
#: how bytes are written before protocol 3
ENCODE: Name = ("_codecs", "encode")
#: a mapping that is made by a call, and the record that is a key
_ORDERED, _INDEX = ("collections", "OrderedDict"), "MetadataIndex"
#: what may be copied and unfolded, in characters and values for each byte of the pickle, and in any
_FOLD, _FREE = 4, 2**12
#: of values in each other; and of keys with the same hash
_DEPTH, _ALIKE = 50, 16
_CODE = {op.name: ord(op.code) for op in pickletools.opcodes}
#: opcodes that describe values, as Python's reader knows them
_PLAIN = (
    "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT",
    "SHORT_BINBYTES", "BINBYTES", "EMPTY_TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "TUPLE", "EMPTY_LIST", "EMPTY_DICT",
    "APPEND", "APPENDS", "MEMOIZE", "BINPUT", "LONG_BINPUT", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL",
    "BINPERSID",
)  # fmt: skip


class PickleError(ValueError):
    """A pickle that is no plain data, in a few words."""


@dataclass(frozen=True)
class Named:
    """A class or function that a pickle names. It was not looked up."""

    kind: Name


@dataclass(eq=False, slots=True)
class Made:
    """What a pickle would make by a call.

    Attributes:
        kind: name of the class or function, or `STORED`.
        arguments: of the call.
        state: what it would be set to after that; of a mapping what it holds.
    """

    kind: Name
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Form:
    """What a pickle may do with a name.

    Attributes:
        called: whether it may be called with these arguments; None: not at all.
        state: whether what was made may be set to this state; None: it has none.
        anew: whether it is a class of which an empty object is made, else it is called.
        value: whether the name alone is a value.
    """

    called: Check | None = None
    state: Check | None = None
    anew: bool = False
    value: bool = False


def read_pickle(data: bytes, forms: Mapping[Name, Form], most: int = MOST, stored: Check | None = None) -> Any:
    """Read a pickle as data.

    Args:
        data: the pickle.
        forms: what it may name, and what for.
        most: opcodes that it may have.
        stored: whether values beside it are as it says; None where there are none.

    Raises:
        PickleError: it is no whole pickle, or has what is no plain data.
    """
    reader = _Reader(data, forms, most, stored)
    try:
        return reader.whole()
    except PickleError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, EOFError, struct.error, pickle.UnpicklingError):
        raise PickleError("it is cut off or damaged") from None


class _Unfolded:
    """Counts what a value is when everything that it holds more than once is written out each time."""

    def __init__(self, forms: Mapping[Name, Form]) -> None:
        self.forms = forms
        self.known: dict[int, tuple[int, int]] = {}

    def of(self, value: Any, depth: int = 0) -> tuple[int, int]:
        """Values in a value, itself among them, and how deep they lie."""
        kind = type(value)
        if kind is Named and not self.forms[value.kind].value:
            raise PickleError(f"it has {value.kind[1]} where a value belongs")
        if kind is str or kind is bytes:
            return 1 + len(value) // 64, 0
        if kind not in (list, tuple, dict, Made):
            return 1, 0
        if id(value) not in self.known:
            if depth > _DEPTH:
                raise PickleError("its values are nested too deeply, or hold themselves")
            inner = value.state if kind is Made else value
            parts = inner.values() if type(inner) is dict else inner if type(inner) in (list, tuple) else ()
            count, deepest = 1, 0
            for part in parts:
                more, deep = self.of(part, depth + 1)
                count, deepest = count + more, max(deepest, deep + 1)
            self.known[id(value)] = count, deepest
        return self.known[id(value)]


class _Memo(dict[int, Any]):
    """What is held twice, by its number: Python's fast reader makes room for all numbers below."""

    def __setitem__(self, number: int, value: Any) -> None:
        if number > len(self):
            raise PickleError("it counts what it holds twice in another order than it comes")
        super().__setitem__(number, value)


class _Steps(dict[int, Callable[[Any], None]]):
    """What to do at each opcode, so many times in all."""

    def __init__(self, steps: Mapping[int, Callable[[Any], None]], most: int) -> None:
        super().__init__(steps)
        self.most = self.left = most

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self.left -= 1
        if self.left < 0:
            raise PickleError(f"it has more than {self.most} opcodes")
        step = self.get(code)
        if step is None:
            raise PickleError(f"it has the opcode {bytes([code])!r}, which describes no data")
        return step


class _Reader(pickle._Unpickler):
    """Python's reader in which a call is a record, and a name a name."""

    stack: list[Any]
    metastack: list[list[Any]]
    append: Callable[[Any], None]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, data: bytes, forms: Mapping[Name, Form], most: int, stored: Check | None) -> None:
        self.file = io.BytesIO(data)
        super().__init__(self.file)
        self.size, self.forms, self.are_stored = len(data), forms, stored
        self.left = _FOLD * len(data) + _FREE  # characters that calls may copy
        self.alike: Counter[int] = Counter()
        self.memo = _Memo()
        self.dispatch = _Steps(_STEPS, most)  # pyright: ignore[reportAttributeAccessIssue]

    def whole(self) -> Any:
        """What the pickle is of; it ends here, and nothing is left over."""
        value = self.load()
        if self.stack or self.metastack or self.file.tell() != self.size:
            raise PickleError("it goes on behind its end")
        if _Unfolded(self.forms).of(value)[0] > _FOLD * self.size + _FREE:
            raise PickleError("it stands for much more than it holds")
        return value

    def load_proto(self) -> None:
        if self.read(1)[0] > 5 or self.file.tell() != 2:
            raise PickleError("it is of a protocol that no checkpoint is written in")

    def load_frame(self) -> None:
        if int.from_bytes(self.read(8), "little") > self.size - self.file.tell():
            raise PickleError("it is cut off or damaged")

    def load_short_text(self) -> None:
        self.append(self.read(self.read(1)[0]).decode())

    def load_text(self) -> None:
        self.append(self.read(int.from_bytes(self.read(4), "little")).decode())

    # ------------------------------------------------------------------ mappings

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def load_setitems(self) -> None:
        self.update(self.pop_mark())

    def update(self, items: list[Any]) -> None:
        owner = self.stack[-1]
        inner = owner if type(owner) is dict else owner.state if self.is_ordered(owner) else None
        if inner is None:
            raise PickleError("it sets items of what is no mapping")
        for key in items[::2]:
            if type(key) not in (str, int):
                self.check_key(key)
        inner.update(zip(items[::2], items[1::2], strict=True))

    def is_value(self, named: Any) -> bool:
        return type(named) is Named and self.forms[named.kind].value

    @staticmethod
    def is_ordered(value: Any) -> bool:
        return type(value) is Made and value.kind == _ORDERED

    def check_key(self, key: Any) -> None:
        """Raise for a key that may take long to hash or to tell from others, or forever."""
        if type(key) is Made and key.kind[1] == _INDEX and key.state is not None:
            offset = key.state.get("offset")
            alike = hash((key.state["fqn"], None if offset is None else offset.arguments))
            self.alike[alike] += 1
            if self.alike[alike] > _ALIKE:
                raise PickleError("it has many keys that are hard to tell apart")
        elif type(key) is not tuple or len(key) != 2 or not all(map(self.is_value, key)):  # dtypes of buckets
            raise PickleError(f"it has a key that is a {type(key).__name__}")

    # ------------------------------------------------------------------ names and calls

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.forms:
            raise PickleError(f"it names {module}.{name}")
        return Named((module, name))

    def persistent_load(self, pid: Any) -> Any:
        if self.are_stored is None or not self.are_stored(pid):
            raise PickleError("it has values beside it that are not there")
        return Made(STORED, (pid,))

    def load_reduce(self) -> None:
        self.call(False)

    def load_newobj(self) -> None:
        self.call(True)

    def call(self, anew: bool) -> None:
        arguments, named = self.stack.pop(), self.stack.pop()
        if type(named) is not Named or type(arguments) is not tuple:
            raise PickleError("it calls what is no name")
        form = self.forms[named.kind]
        if form.called is None or form.anew is not anew or not form.called(arguments):
            raise PickleError(f"it calls {'.'.join(named.kind)} otherwise than checkpoints do")
        self.copied(arguments)
        if named.kind == ENCODE:
            self.append(arguments[0].encode("latin-1"))
        else:
            self.append(Made(named.kind, arguments, {} if named.kind == _ORDERED else None))

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        form = self.forms.get(made.kind) if type(made) is Made else None
        if form is None or form.state is None or made.state is not None:
            raise PickleError("it sets attributes of what it has not just made")
        if not form.state(state):
            raise PickleError(f"it sets the state of a {made.kind[1]} to another {type(state).__name__} than its own")
        # Python's reader copies it, too: what is done to the mapping later changes nothing
        made.state = dict(state) if type(state) is dict else state
        self.copied(state)

    def copied(self, values: Any) -> None:
        """Count what Python's reader would copy; values are few wherever a form is kept."""
        self.left -= sum(len(v) for v in values if type(v) in (str, bytes)) if type(values) is tuple else 0
        if self.left < 0:
            raise PickleError("it copies much more than it holds")


_STEPS: Mapping[int, Callable[[Any], None]] = {
    **{_CODE[name]: pickle._Unpickler.dispatch[_CODE[name]] for name in _PLAIN},
    _CODE["PROTO"]: _Reader.load_proto, _CODE["FRAME"]: _Reader.load_frame,
    _CODE["SHORT_BINUNICODE"]: _Reader.load_short_text, _CODE["BINUNICODE"]: _Reader.load_text,
    _CODE["SETITEM"]: _Reader.load_setitem, _CODE["SETITEMS"]: _Reader.load_setitems,
    _CODE["REDUCE"]: _Reader.load_reduce, _CODE["NEWOBJ"]: _Reader.load_newobj, _CODE["BUILD"]: _Reader.load_build,
}  # fmt: skip
