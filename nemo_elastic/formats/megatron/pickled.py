# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pickles of checkpoints read as data, by an interpreter of the few opcodes that describe values.

Python's own reader imports what a pickle names and calls it. This one does neither, for it has nothing to do it with:
a name stays a `Named`, what would be called becomes a `Made` that says so, and every other value is a plain number,
text, bytes, tuple, list or dict. Refused is all else: opcodes that describe no value, names that are not on the
caller's list or are not used as their `Form` says, and what is too large.

megatron-core gives to Python's reader what has passed here. So what that one would take otherwise is refused, too, and
so is what would cost it more than the pickle's own length: keys that take long to hash or to tell apart, copies of
copies, values that are short written with references and endless without.
"""

from __future__ import annotations

import pickletools
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: (module, name), as a pickle spells them
Name = tuple[str, str]
Check = Callable[[Any], bool]

#: opcodes that a pickle may have: a 12B on 64 GPUs takes about two million, which are two seconds here
MOST = 2**24
#: what stands for a tensor's values, which lie beside the pickle
STORED: Name = ("", "stored beside the pickle")
#: bytes of an integer: sizes of files fit
_LONG = 9
#: how bytes are written before protocol 3
ENCODE: Name = ("_codecs", "encode")
#: a mapping that is made by a call, and the record that is a key
_ORDERED, _INDEX = ("collections", "OrderedDict"), "MetadataIndex"
#: what may be copied and unfolded, in characters and values for each byte of the pickle, and in any
_FOLD, _FREE = 4, 2**12
#: of values in each other; and of keys with the same hash
_DEPTH, _ALIKE = 50, 16
_CODE = {op.name: ord(op.code) for op in pickletools.opcodes}
_STOP = _CODE["STOP"]


class PickleError(ValueError):
    """A pickle that is no plain data, told in a few words."""


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
    machine = _Machine(data, forms, stored)
    steps = machine.steps()
    try:
        for _ in range(most):
            code = data[machine.at]
            machine.at += 1
            if code == _STOP:
                return machine.whole()
            steps[code]()
    except PickleError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, struct.error):
        raise PickleError("it is cut off or damaged") from None
    raise PickleError(f"it has more than {most} opcodes")


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


class _Machine:
    """The stack machine that a pickle is a program of; one method for each opcode, or for a family of them."""

    def __init__(self, data: bytes, forms: Mapping[Name, Form], stored: Check | None) -> None:
        self.data, self.at, self.forms, self.are_stored = data, 0, forms, stored
        self.left = _FOLD * len(data) + _FREE  # characters that calls may copy
        self.alike: Counter[int] = Counter()
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def steps(self) -> list[Callable[[], None]]:
        """What to do at each opcode, by its number."""
        known = {
            "PROTO": self.proto, "FRAME": self.frame, "MARK": self.mark,
            "NONE": lambda: self.stack.append(None),
            "NEWTRUE": lambda: self.stack.append(True), "NEWFALSE": lambda: self.stack.append(False),
            "BININT": lambda: self.fixed(4, True), "BININT1": lambda: self.fixed(1, False),
            "BININT2": lambda: self.fixed(2, False), "LONG1": self.long, "BINFLOAT": self.real,
            "SHORT_BINUNICODE": lambda: self.text(1), "BINUNICODE": lambda: self.text(4),
            "SHORT_BINBYTES": lambda: self.bytes(1), "BINBYTES": lambda: self.bytes(4),
            "EMPTY_TUPLE": lambda: self.stack.append(()), "TUPLE1": lambda: self.tuple(1),
            "TUPLE2": lambda: self.tuple(2), "TUPLE3": lambda: self.tuple(3),
            "TUPLE": self.tuple_of_marked,
            "EMPTY_LIST": lambda: self.stack.append([]), "EMPTY_DICT": lambda: self.stack.append({}),
            "APPEND": lambda: self.extend([self.stack.pop()]), "APPENDS": lambda: self.extend(self.marked()),
            "SETITEM": self.item, "SETITEMS": lambda: self.update(self.marked()),
            "MEMOIZE": self.memoize, "BINPUT": lambda: self.put(1), "LONG_BINPUT": lambda: self.put(4),
            "BINGET": lambda: self.get(1), "LONG_BINGET": lambda: self.get(4),
            "GLOBAL": self.line, "STACK_GLOBAL": self.named,
            "REDUCE": lambda: self.call(False), "NEWOBJ": lambda: self.call(True),
            "BUILD": self.build, "BINPERSID": self.stored,
        }  # fmt: skip
        by_number: list[Callable[[], None]] = [self.no_data] * 256
        for name, step in known.items():
            by_number[_CODE[name]] = step
        return by_number

    def no_data(self) -> None:
        raise PickleError(f"it has the opcode {self.data[self.at - 1 : self.at]!r}, which describes no data")

    def whole(self) -> Any:
        """What the pickle is of; it ends here, and nothing is left over."""
        value = self.stack.pop()
        if self.stack or self.outer or self.at != len(self.data):
            raise PickleError("it goes on behind its end")
        if _Unfolded(self.forms).of(value)[0] > _FOLD * len(self.data) + _FREE:
            raise PickleError("it stands for much more than it holds")
        return value

    # ------------------------------------------------------------------ numbers and texts

    def take(self, length: int) -> bytes:
        found = self.data[self.at : self.at + length]
        if len(found) != length:
            raise PickleError("it is cut off or damaged")
        self.at += length
        return found

    def count(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def proto(self) -> None:
        if self.count(1) > 5 or self.at != 2:
            raise PickleError("it is of a protocol that no checkpoint is written in")

    def frame(self) -> None:
        if self.count(8) > len(self.data) - self.at:
            raise PickleError("it is cut off or damaged")

    def fixed(self, size: int, signed: bool) -> None:
        self.stack.append(int.from_bytes(self.take(size), "little", signed=signed))

    def long(self) -> None:
        size = self.count(1)
        if size > _LONG:
            raise PickleError(f"it has an integer of {size} bytes")
        self.fixed(size, True)

    def real(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def text(self, size: int) -> None:
        self.stack.append(self.take(self.count(size)).decode("utf-8"))

    def bytes(self, size: int) -> None:
        self.stack.append(self.take(self.count(size)))

    # ------------------------------------------------------------------ collections

    def mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        items = self.stack
        self.stack = self.outer.pop()
        return items

    def tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise PickleError("it is cut off or damaged")
        self.stack[-size:] = [tuple(self.stack[-size:])]

    def tuple_of_marked(self) -> None:
        items = self.marked()
        self.stack.append(tuple(items))

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise PickleError("it adds to what is no list")
        self.stack[-1].extend(items)

    def item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def update(self, items: list[Any]) -> None:
        owner = self.stack[-1]
        inner = owner if type(owner) is dict else owner.state if self.ordered(owner) else None
        if inner is None:
            raise PickleError("it sets items of what is no mapping")
        for key in items[::2]:
            if type(key) not in (str, int):
                self.check_key(key)
        inner.update(zip(items[::2], items[1::2], strict=True))

    def is_value(self, named: Any) -> bool:
        return type(named) is Named and self.forms[named.kind].value

    @staticmethod
    def ordered(value: Any) -> bool:
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

    # ------------------------------------------------------------------ what is held twice

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def put(self, size: int) -> None:
        number = self.count(size)
        if number > len(self.memo):  # Python's reader makes room for all below
            raise PickleError("it counts what it holds twice in another order than it comes")
        self.memo[number] = self.stack[-1]

    def get(self, size: int) -> None:
        self.stack.append(self.memo[self.count(size)])

    # ------------------------------------------------------------------ names and calls

    def line(self) -> None:
        end = self.data.index(b"\n", self.data.index(b"\n", self.at) + 1)
        module, name = self.data[self.at : end].decode("utf-8").split("\n")
        self.at = end + 1
        self.allowed(module, name)

    def named(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise PickleError("it names what is no name")
        self.allowed(module, name)

    def allowed(self, module: str, name: str) -> None:
        if (module, name) not in self.forms:
            raise PickleError(f"it names {module}.{name}")
        self.stack.append(Named((module, name)))

    def call(self, anew: bool) -> None:
        arguments, named = self.stack.pop(), self.stack.pop()
        if type(named) is not Named or type(arguments) is not tuple:
            raise PickleError("it calls what is no name")
        form = self.forms[named.kind]
        if form.called is None or form.anew is not anew or not form.called(arguments):
            raise PickleError(f"it calls {'.'.join(named.kind)} otherwise than checkpoints do")
        self.copied(arguments)
        if named.kind == ENCODE:
            self.stack.append(arguments[0].encode("latin-1"))
        else:
            self.stack.append(Made(named.kind, arguments, {} if named.kind == _ORDERED else None))

    def build(self) -> None:
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

    def stored(self) -> None:
        about = self.stack.pop()
        if self.are_stored is None or not self.are_stored(about):
            raise PickleError("it has values beside it that are not there")
        self.stack.append(Made(STORED, (about,)))
