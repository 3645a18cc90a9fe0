# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The one exception users are meant to see, and the helper that words it."""

from __future__ import annotations


class ElasticError(ValueError):
    """A mistake in what the user gave us, told in one clear line.

    The command line prints the message without a traceback and exits with 2, so the
    message has to name the field, the value and what is allowed. Use `bad` for that.

    Args:
        message: The whole line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def bad(field: str, value: object, allowed: str) -> ElasticError:
    """Build the error for one field with a value that is not allowed.

    Args:
        field: Dotted name of the field as the user wrote it, e.g. ``elastic.router.tau``.
        value: What the user gave.
        allowed: What would have been fine, e.g. ``use a number above 0``.

    Returns:
        The error, for the caller to raise (so that type checkers see the control flow).
    """
    return ElasticError(f"{field}: {value!r} is not allowed; {allowed}")
