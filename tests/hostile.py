# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for files that somebody has damaged, or made to harm."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from nemo_elastic.errors import ElasticError

T = TypeVar("T")

#: values of JSON, likely and not
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5) | st.just("../x"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


def _nested(depth: int) -> Any:
    value: Any = 1
    for i in range(depth):
        value = [value] if i % 2 else {"a": value}
    return value


#: what breaks arithmetic, `repr`, recursion, encoding, comparison or hashing
HARM = st.sampled_from(
    [
        *(0, -1, 1, 2, 7, 16, 2**31, 2**63, 2**64, 10**19, -(10**19), 10**400, -(10**400)),
        *(0.0, -0.0, 0.5, 1.0, 16.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
        *("", " ", "\0", "\n", "\ud800", "ü" * 300, "x" * 10_000, "M" * 20_000, "1e999", "1e5000GiB", "nanGiB"),
        *("0x10", "a/b", "..", "-", "${gone}", "null", "full", "small", "hidden", "mamba", b"bytes", (1, 2), {1, 2}),
        *(True, False, None, [], {}, [[]], [None], [float("nan")], [16, "8"], [True, 1], {1: 2}, {None: 1}, {"": {}}),
        *(_nested(50), _nested(200), list(range(2000, 0, -1)), {str(i): i for i in range(500)}),
    ]
).map(copy.deepcopy)  # fmt: skip  # a sampled value may be damaged in its turn


def leaves(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything in a JSON value but itself."""
    keys = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in keys for path in [(*at, key), *leaves(inner, (*at, key))]]


@st.composite
def damaged(draw: st.DrawFn, whole: Any, harm: st.SearchStrategy[Any] = HARM | JSON) -> Any:
    """`whole`, a JSON value that stays as it is, with one to three entries replaced, renamed, added, moved or gone."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        paths = leaves(value)
        if not paths or draw(st.integers(0, 60)) == 0:
            return draw(harm)
        *way, last = draw(st.sampled_from(paths))
        inner = value
        for key in way:
            inner = inner[key]
        what = draw(st.sampled_from(["replace"] * 4 + ["remove", "rename", "add", "twice", "other"]))
        if what == "replace":
            inner[last] = draw(harm)
        elif what == "other":  # a value from elsewhere in the same file: the right type in the wrong place
            other = value
            for key in draw(st.sampled_from(paths)):
                other = other[key]
            inner[last] = copy.deepcopy(other)
        elif isinstance(inner, list):
            inner.insert(last, inner[last]) if what in ("twice", "add") else inner.pop(last)
        elif what == "add":
            inner[draw(st.text(max_size=4))] = draw(harm)
        else:
            moved = inner.pop(last)
            inner |= {"remove": {}, "rename": {f"{last}_": moved}, "twice": {f" {last}": moved, last: moved}}[what]
    return value


#: words and marks of YAML and JSON; some of another kind of number, some too deep or too long
PIECES = [
    *("{", "}", "[", "]", ":", ",", "- ", "\n", "'", '"', "\t", "? ", "|\n", "#", "~", "\0", "\ufeff", "---\n", "&a "),
    *("*a", "<<: *a", "!!python/name:os.system ", "!!binary ", "%YAML 9.9\n", "${", "${oc.env:HOME}", "${..seed}"),
    *("NaN", "1e999", "1:60:60", "2001-02-30", "1" * 5000, "0x" + "f" * 9000, "[" * 2000, '{"a":' * 2000),
]  # fmt: skip


@st.composite
def texts(draw: st.DrawFn, whole: str) -> bytes:
    """A text with pieces of it, or of another language, in the wrong place."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(whole)))
        end = min(len(whole), at + draw(st.sampled_from([0, 0, 1, 5, 100])))
        whole = whole[:at] + draw(st.sampled_from(PIECES) | st.text(max_size=3)) + whole[end:]
    content = whole.encode("utf-8", "surrogatepass")
    return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 5)) == 0 else content


# ------------------------------------------------------------------ what each of them may do


def examples(count: int) -> Callable[[Any], Any]:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, suppress_health_check=checks, database=None)


def read_or_refused(read: Callable[[], T]) -> T | None:
    """What was read, or None where it was refused in one clear line."""
    try:
        return read()
    except ElasticError as refused:
        line = str(refused)
        assert len(line) < 4100 and len(line.split()) >= 2, line
        return None


def as_json(value: Any) -> bytes:
    return json.dumps(value, default=repr, skipkeys=True).encode()
