# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Files from anywhere: regular ones up to a size, JSON strictly, YAML that asks for nothing outside of itself."""

from __future__ import annotations

import os
import socket

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.io.read import (
    SMALL,
    open_regular,
    plain_yaml,
    read_bytes,
    read_json,
    read_plain_yaml,
    read_text,
    read_yaml,
    resolved,
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1, column 2"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' appears twice"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": 1e999}', "the number 1e999 is too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe", "not UTF-8"),
        (None, "no such file"),
    ],
)
def test_bad_json_is_one_line_that_names_the_file(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, 2.5, null, {"a": true}], "b": 1e-3, "c": 1000000000000000019884624838656}')
    assert read_json(path) == {"a": [1, 2.5, None, {"a": True}], "b": 1e-3, "c": int(1e30)}
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ElasticError) as raised:
        read_json(path)
    assert str(raised.value).startswith(f"{path}: ") and message in str(raised.value)
    assert "\n" not in str(raised.value)
    with pytest.raises(ElasticError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "a: ${oc.env:HOME}",
        "{n: oc.env, a: '${${n}:HOME}'}",
        "${oc.env:HOME}: 1",
        "a: '\\${oc.env:HOME}'",
    ],
)
def test_yaml_does_not_ask_for_what_is_outside_of_it(tmp_path, text, monkeypatch):
    monkeypatch.setenv("HOME", "/secret")
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"is not a plain reference to another value") as raised:
        read_yaml(tmp_path / "a.yaml")
    assert "/secret" not in str(raised.value)


def test_yaml_may_ask_for_what_is_beside_it(tmp_path):
    text = "a: {b: 2, c: x}\nd: ${a.b}\ne: 'at ${a.c}: ${d}'\nf: ['${e}', '${.0}:']\ng: 'C:\\x {y: z}'\n"
    (tmp_path / "a.yaml").write_text(text.replace(", '${.0}:'", ""))
    actual = read_yaml(tmp_path / "a.yaml")
    assert (actual["d"], actual["e"], actual["f"], actual["g"]) == (2, "at x: 2", ["at x: 2"], "C:\\x {y: z}")


@pytest.mark.parametrize("text", ["${a}{oc.env:HOME}", r"\${b}"])
def test_what_a_second_reading_would_resolve_is_refused_in_the_first(text):
    with pytest.raises(ValueError, match="not a plain reference"):
        resolved({"a": "$", "b": "x", "c": text})


def test_plain_yaml_is_values_and_nothing_else(tmp_path):
    (tmp_path / "a.yaml").write_text("a: [1, '${b}']\nb: &x {c: null}\nd: *x\n")
    assert read_plain_yaml(tmp_path / "a.yaml") == {"a": [1, "${b}"], "b": {"c": None}, "d": {"c": None}}


def test_yaml_that_is_too_long_is_not_read(tmp_path):
    (tmp_path / "a.yaml").write_text("x: " + "1" * 2**20)
    with pytest.raises(ValueError, match="too long"):
        plain_yaml((tmp_path / "a.yaml").read_text())
    for read in (read_plain_yaml, read_yaml):
        with pytest.raises(ElasticError, match="larger than 1024 KiB"):
            read(tmp_path / "a.yaml")


def test_yaml_names_no_code():
    with pytest.raises(ValueError, match=r"^not YAML of plain values \(line 1, column 1\)$"):
        plain_yaml("!!python/object/apply:os.system ['true']")


@pytest.mark.parametrize("text", ["a: *secret", "a: [secret", "a: !secret x", "secret: 2020-13-45", "secret: \x01"])
def test_an_error_quotes_nothing_of_a_yaml_file(text):
    with pytest.raises(ValueError, match=r"^not YAML of plain values( \(line 1, column \d+\))?$"):
        plain_yaml(text)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(tmp_path / "socket"))
    for path, word in (
        (tmp_path / "link", "a pipe"),
        (tmp_path / "socket", "a socket"),
        ("/dev/zero", "a device"),
    ):
        with pytest.raises(ElasticError, match=rf"^{path}: is {word}"):
            open_regular(path)
    for read in (read_bytes, read_text):
        with pytest.raises(ElasticError, match="is a pipe"):
            read(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_what_becomes_a_pipe_while_it_is_opened_is_not_waited_for(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("x")
    regular = os.stat(file)
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr(os, "stat", lambda *_, **__: regular)
    with pytest.raises(ElasticError, match="is a pipe"):
        open_regular(file)


def test_a_large_file_is_not_read(tmp_path):
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, SMALL + 1)
    with pytest.raises(ElasticError, match="file: larger than 65536 KiB"):
        read_text(file)
    os.truncate(file, 10)
    assert len(read_bytes(file)) == len(read_bytes(file, 10)) == 10
    with pytest.raises(ElasticError, match="larger than 0 KiB"):
        read_bytes(file, 9)
    assert read_bytes("/proc/self/status")  # a regular file that says 0 bytes
    with pytest.raises(ElasticError, match="larger than"):
        read_bytes("/proc/self/status", 10)


def test_text_is_as_it_is_written(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"\xef\xbb\xbfa\r\nb\rc\n")
    assert read_text(file) == "\ufeffa\r\nb\rc\n" and read_text(file, encoding="utf-8-sig") == "a\r\nb\rc\n"
    file.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(file)
