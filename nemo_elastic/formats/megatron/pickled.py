# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pickles of checkpoints read as data, by an interpreter of the few opcodes that describe values.

Python's own reader imports what a pickle names and calls it. This one does neither, for it has nothing to do it with:
a name stays a `Named`, what would be called becomes a `Made` that says so, and every other value is a plain number,
text, tuple, list or dict. Opcodes that describe no value, names that are not on the caller's list and what is too
large are refused. So is what Python's reader would take otherwise than this one, for megatron-core gives to that one
what has passed here.
"""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

#: (module, name), as a pickle spells them
Name = tuple[str, str]

#: opcodes that a pickle may have: a 12B on 64 GPUs takes about two million, which are two seconds here
MOST = 2**24
#: what stands for a tensor's values, which lie beside the pickle
STORED: Name = ("", "stored beside the pickle")
#: bytes of an integer: sizes of files fit
_LONG = 9
#: what makes an array of numbers anew, whatever its arguments are: numpy's now and before 2.0
ARRAY: frozenset[Name] = frozenset({
    ("numpy._core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "_reconstruct"), ("numpy", "dtype"),
})  # fmt: skip
#: classes whose state is a tuple, for they set it themselves: torch's now and before 2.3, a file in memory, arrays
_OWN_STATE = ARRAY | {
    ("torch.distributed.checkpoint.metadata", "TensorProperties"),
    ("torch.distributed._shard.sharded_tensor.metadata", "TensorProperties"),
    ("_io", "BytesIO"),
}
#: how bytes are written before protocol 3
_ENCODE: Name = ("_codecs", "encode")
#: numpy's codes of numbers and truth values
_NUMBERS = re.compile("b1|[iu][1248]|f[248]")
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
        state: what its attributes would be set to.
        new: whether it can be nothing that others hold, too.
    """

    kind: Name
    arguments: tuple[Any, ...]
    state: Any = None
    new: bool = False


def read_pickle(data: bytes, names: Container[Name], most: int = MOST) -> Any:
    """Read a pickle as data.

    Args:
        data: the pickle.
        names: what it may name.
        most: opcodes that it may have.

    Raises:
        PickleError: it is no whole pickle, or has what is no plain data.
    """
    machine = _Machine(data, names)
    steps = machine.steps()
    try:
        for _ in range(most):
            code = data[machine.at]
            machine.at += 1
            if code == _STOP:
                return machine.stack.pop()
            steps[code]()
    except PickleError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, struct.error):
        raise PickleError("it is cut off or damaged") from None
    raise PickleError(f"it has more than {most} opcodes")


#: what keys of a mapping may be, or be flat tuples of, and of how many
_KEYS, _PARTS = (str, int, bool, type(None), Named, Made), 4


def _makes_numbers(kind: Name, arguments: tuple[Any, ...]) -> bool:
    """Whether a call is one by which numpy writes arrays of numbers: others make what is large, or objects."""
    if kind == ("numpy", "dtype"):
        return bool(arguments) and type(arguments[0]) is str and _NUMBERS.fullmatch(arguments[0]) is not None
    return kind in ARRAY and arguments[:2] == (Named(("numpy", "ndarray")), (0,))


class _Machine:
    """The stack machine that a pickle is a program of; one method for each opcode, or for a family of them."""

    def __init__(self, data: bytes, names: Container[Name]) -> None:
        self.data, self.at, self.names = data, 0, names
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def steps(self) -> list[Callable[[], None]]:
        """What to do at each opcode, by its number."""
        known = {
            "PROTO": self.proto, "FRAME": lambda: self.take(8), "MARK": self.mark,
            "NONE": lambda: self.stack.append(None),
            "NEWTRUE": lambda: self.stack.append(True), "NEWFALSE": lambda: self.stack.append(False),
            "BININT": lambda: self.fixed(4, True), "BININT1": lambda: self.fixed(1, False),
            "BININT2": lambda: self.fixed(2, False), "LONG1": self.long, "BINFLOAT": self.real,
            "SHORT_BINUNICODE": lambda: self.text(1), "BINUNICODE": lambda: self.text(4),
            "SHORT_BINBYTES": lambda: self.bytes(1), "BINBYTES": lambda: self.bytes(4),
            "EMPTY_TUPLE": lambda: self.stack.append(()), "TUPLE1": lambda: self.tuple(1),
            "TUPLE2": lambda: self.tuple(2), "TUPLE3": lambda: self.tuple(3),
            "TUPLE": self.tuple_of_marked,
            "EMPTY_LIST": lambda: self.stack.append([]), "EMPTY_SET": lambda: self.stack.append([]),
            "APPEND": lambda: self.extend([self.stack.pop()]), "APPENDS": lambda: self.extend(self.marked()),
            "ADDITEMS": lambda: self.extend(self.marked()),
            "EMPTY_DICT": lambda: self.stack.append({}),
            "SETITEM": self.item, "SETITEMS": lambda: self.update(self.marked()),
            "MEMOIZE": self.memoize, "BINPUT": lambda: self.put(1), "LONG_BINPUT": lambda: self.put(4),
            "BINGET": lambda: self.get(1), "LONG_BINGET": lambda: self.get(4),
            "GLOBAL": self.line, "STACK_GLOBAL": self.named,
            "REDUCE": self.call, "NEWOBJ": self.new, "BUILD": self.build, "BINPERSID": self.stored,
        }  # fmt: skip
        by_number: list[Callable[[], None]] = [self.no_data] * 256
        for name, step in known.items():
            by_number[_CODE[name]] = step
        return by_number

    def no_data(self) -> None:
        raise PickleError(f"it has the opcode {self.data[self.at - 1 : self.at]!r}, which describes no data")

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
        if self.count(1) > 5:
            raise PickleError("it is of a protocol that no checkpoint is written in")

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
        # what an OrderedDict holds, one of torch's that is empty apart, says no reader of ours
        if type(owner) is not dict and not (type(owner) is Made and owner.kind == ("collections", "OrderedDict")):
            raise PickleError("it sets items of what is no mapping")
        for key in items[::2]:
            # megatron-core counts buckets by pairs of dtypes
            parts = key if type(key) is tuple and 0 < len(key) <= _PARTS else (key,)
            if any(type(part) not in _KEYS for part in parts):  # others may take long to hash, or forever
                raise PickleError(f"it has a key that is a {type(key).__name__}")
        if type(owner) is dict:
            owner.update(zip(items[::2], items[1::2], strict=True))

    # ------------------------------------------------------------------ what is held twice

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def put(self, size: int) -> None:
        self.memo[self.count(size)] = self.stack[-1]

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
        if (module, name) not in self.names:
            raise PickleError(f"it names {module}.{name}")
        self.stack.append(Named((module, name)))

    def call(self) -> None:
        arguments, named = self.stack.pop(), self.stack.pop()
        if type(named) is not Named or type(arguments) is not tuple:
            raise PickleError("it calls what is no name")
        if named.kind == _ENCODE and arguments[1:] != ("latin1",):
            raise PickleError("it encodes a text in another way than bytes of old protocols are")
        if named.kind[0].partition(".")[0] == "numpy" and not _makes_numbers(named.kind, arguments):
            raise PickleError("it makes another array than one of numbers, empty as numpy begins one")
        self.stack.append(Made(named.kind, arguments, new=named.kind in ARRAY))

    def new(self) -> None:
        self.call()
        self.stack[-1].new = not self.stack[-1].arguments  # a member of an enum has one, and is there once

    def build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if type(made) is not Made or not made.new or made.state is not None:
            raise PickleError("it sets attributes of what it has not just made")
        if made.kind in _OWN_STATE:
            fits = type(state) is tuple
        else:
            fits = type(state) is dict and all(type(key) is str for key in state)
        if not fits:
            raise PickleError(f"it sets the state of a {made.kind[1]} to a {type(state).__name__}")
        # Python's reader copies it, too: what is done to the mapping later changes nothing
        made.state = dict(state) if type(state) is dict else state

    def stored(self) -> None:
        self.stack.append(Made(STORED, (self.stack.pop(),)))
