# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""JSON and YAML from anywhere are read strictly, and ask for nothing outside of themselves."""

from __future__ import annotations

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.read import plain_yaml, read_json, read_plain_yaml, read_yaml, resolved


def test_json_is_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, null, {"a": true}], "b": 1e-3}')
    assert read_json(path) == {"a": [1, 2.5, None, {"a": True}], "b": 1e-3}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1, column 2"),
        (b"", "line 1, column 1"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not UTF-8"),
        (None, "no such file"),
    ],
)
def test_bad_json_is_one_line_that_names_the_file(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ElasticError) as raised:
        read_json(path)
    assert str(raised.value).startswith(f"{path}: ") and message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_folder_is_no_json(tmp_path):
    with pytest.raises(ElasticError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "a: ${oc.env:HOME}",
        "a: x ${oc.env:HOME,y} z",
        "a: [{b: '${oc.decode:${oc.env:HOME}}'}]",
        "{n: oc.env, a: '${${n}:HOME}'}",
        "${oc.env:HOME}: 1",
        "a: ${eval:1+1}",
        "a: '\\${oc.env:HOME}'",
        "a: &x ${oc.env:HOME}\nb: *x",
    ],
)
def test_yaml_does_not_ask_for_what_is_outside_of_it(tmp_path, text, monkeypatch):
    monkeypatch.setenv("HOME", "/secret")
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"asks for more than another value beside it") as raised:
        read_yaml(tmp_path / "a.yaml")
    assert "/secret" not in str(raised.value)


def test_yaml_may_ask_for_what_is_beside_it(tmp_path):
    text = "a: {b: 2, c: x}\nd: ${a.b}\ne: 'at ${a.c}: ${d}'\nf: ['${e}', '${.0}:']\ng: 'C:\\x {y: z}'\n"
    (tmp_path / "a.yaml").write_text(text.replace(", '${.0}:'", ""))
    actual = read_yaml(tmp_path / "a.yaml")
    assert (actual["d"], actual["e"], actual["f"], actual["g"]) == (2, "at x: 2", ["at x: 2"], "C:\\x {y: z}")


@pytest.mark.parametrize("text", ["${a}{oc.env:HOME}", "${a}{b}", r"\${b}"])
def test_what_a_second_reading_would_resolve_is_refused_in_the_first(text):
    with pytest.raises(ValueError, match="asks for more"):
        resolved({"a": "$", "b": "x", "c": text})


def test_plain_yaml_is_values_and_nothing_else(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [1, '${b}']\nb: &x {c: null}\nd: *x\n")
    assert read_plain_yaml(tmp_path / "a.yaml") == {"a": [1, "${b}"], "b": {"c": None}, "d": {"c": None}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: " + "1" * 2**18, "too long"),
        ("a0: &a0 [1, 1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 20)), "too much"),
        ("a: &a [*a]", "an anchor holds an alias of itself"),
    ],
)
def test_yaml_that_stands_for_too_much_is_not_unfolded(text, message):
    with pytest.raises(ValueError, match=message):
        plain_yaml(text)
