# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The one exception users are meant to see, and the helper that words it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

#: exit code of Ctrl-C, as a shell gives it
INTERRUPTED = 130
#: of a training that was stopped before its end, where a whole checkpoint holds what it had reached: "try again" in
#: sysexits.h
STOPPED = 75
#: characters of a line, and of a value in it: what is damaged may be long
_LINE, _LONGEST = 4000, 400


class ElasticError(ValueError):
    """A mistake in what the user gave us, in one clear line.

    The command line prints the message without a traceback and exits with 2, so the
    message has to name the field, the value and what is allowed. Use `bad` for that.

    Args:
        said: What is wrong. What it quotes may come from anywhere: `one_line` is put over the whole line.
        at: Where, the outermost place first: a file and a field in it. The line begins with them.
    """

    def __init__(self, said: str, *at: object) -> None:
        self.said, self.at = said, tuple(map(str, at))
        message = one_line(": ".join((*self.at, said)))
        self.message = message if len(message) <= _LINE else f"{message[:_LINE]}…"
        super().__init__(self.message)

    def __reduce__(self) -> tuple[type[ElasticError], tuple[str, ...]]:
        """Whole, also from another process."""
        return type(self), (self.said, *self.at)

    def within(self, place: object) -> ElasticError:
        """The same error in a file, or another place around it; itself where it names that, or a field of it."""
        named = bool(self.at) and f"{self.at[0]}.".startswith(f"{place}.")
        return self if named else type(self)(self.said, place, *self.at)

    def of(self, place: object) -> ElasticError:
        """The same error of another place: the field that the user wrote, for the name that it has inside."""
        return type(self)(self.said, place, *self.at[1:])


@contextmanager
def inside(place: object) -> Iterator[None]:
    """Errors of the block are errors in a file, or another place around it; see `ElasticError.within`."""
    try:
        yield
    except ElasticError as exc:
        raise exc.within(place) from None


def bad(field: str, value: object, allowed: str) -> ElasticError:
    """Build the error for one field with a value that is not allowed.

    Args:
        field: Dotted name of the field as the user wrote it, e.g. ``elastic.router.tau``.
        value: What the user gave; None where it is missing.
        allowed: What would have been fine, e.g. ``use a number above 0``.

    Returns:
        The error, for the caller to raise (so that type checkers see the control flow).
    """
    fault = "missing" if value is None else f"{shown(value)} is not allowed"
    return ElasticError(f"{fault}; {allowed}", field)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of an error about an unknown name."""
    from difflib import get_close_matches  # an error alone needs it, and every process imports this module

    near = get_close_matches(name, list(names), 1) if len(name) <= _LONGEST else []  # a file may have one of megabytes
    return f"; did you mean {near[0]!r}?" if near else ""


def printable(text: str) -> str:
    """Text from elsewhere, for a terminal or a page: control characters, escape sequences and marks that turn the
    direction of writing are spelled out, as `repr` does it. To do it twice changes nothing.

    Every name and value of a file that came from elsewhere goes through this before it is shown to a person.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def one_line(text: str) -> str:
    """Printable text in one line: what others raise goes over several."""
    return printable(" ".join(text.split()))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def shown(value: object) -> str:
    """`repr` for one line: what is long, or has no `repr` (integers of thousands of digits), is cut short."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"<{type(value).__name__} too large to show>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


#: What a disk, a network file system or a limit of the system answers, whoever asks.
_ENVIRONMENT = {
    getattr(errno, name)
    for name in (
        "EACCES", "EPERM", "ENOTDIR", "ENAMETOOLONG", "ELOOP", "EROFS", "EBUSY", "EXDEV", "ENOSPC", "EDQUOT", "EFBIG",
        "EIO", "ESTALE", "ENXIO", "ENODEV", "EREMOTEIO", "ETIMEDOUT", "ENOLINK", "EHOSTDOWN", "EHOSTUNREACH",
        "ENOTCONN", "EMFILE", "ENFILE", "ENOMEM",
    )
    if hasattr(errno, name)
}  # fmt: skip


def is_environment(exc: OSError) -> bool:
    """Whether an error of the operating system is about the user's files or machine, and no bug of ours.

    One that names a file is; others are by what they say: a read from a broken disk has no name.
    """
    return isinstance(exc.filename, (str, bytes)) or exc.errno in _ENVIRONMENT


def environment_line(exc: OSError) -> str | None:
    """The line for such an error, None for any other."""
    if not is_environment(exc):
        return None
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left on the disk ({os.fsdecode(exc.filename)})" if exc.filename else "no space left on the disk"
        )
    named = f"{os.fsdecode(exc.filename)}: " if exc.filename else ""
    return f"{named}cannot be read or written ({exc.strerror})"


def is_ctrl_c(exc: BaseException) -> bool:
    """Whether Ctrl-C is what a program ends for, also where Lightning or click has made exit code 1 of it."""
    if not isinstance(exc, SystemExit) or exc.code != 1:
        return isinstance(exc, KeyboardInterrupt)
    cause = exc.__context__
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__context__
    return cause is not None


@contextmanager
def exit_in_one_line() -> Iterator[None]:
    """For scripts: end as `nemo-elastic` does, with one line on stderr in place of a traceback.

    Raises:
        SystemExit: 2 after an `ElasticError`, or an `OSError` that is about files or the machine; 130 after Ctrl-C.
            Other exceptions pass.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if not is_ctrl_c(error):
            raise
        print("interrupted", file=sys.stderr, flush=True)
        raise SystemExit(INTERRUPTED) from None
    except (ElasticError, OSError) as error:
        line = environment_line(error) if isinstance(error, OSError) else str(error)
        if line is None:
            raise
        print(f"error: {one_line(line)}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None
