# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Names of models: members, other names of the largest, pairs."""

from __future__ import annotations

import pytest

from nemo_elastic.errors import ElasticError
from nemo_elastic.serving.names import Choice, Names, family_names
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.runtime.talking import talking_family

NAMES = Names(("12b", "9b", "6b"), ("family", "12b", "6b>12b", ""), ("/place/family",))


def test_what_is_listed():
    assert NAMES.listed == ("12b", "9b", "6b", "family", "9b>12b", "6b>12b", "6b>9b")
    assert Names(("only",)).listed == ("only",)


@pytest.mark.parametrize(
    ("written", "choice"),
    [
        ("12b", Choice("12b")),
        ("6b", Choice("6b")),
        ("family", Choice("12b")),
        ("/place/family", Choice("12b")),
        (None, Choice("12b")),
        ("", Choice("12b")),
        ("6b>12b", Choice("6b", "12b")),
        ("9b>12b", Choice("9b", "12b")),
    ],
)
def test_what_is_read(written, choice):
    assert NAMES.read(written) == choice
    assert choice.then is None or choice.name == written


@pytest.mark.parametrize(
    "written", ["7b", "12b>6b", "6b>6b", "6b>", ">12b", "6b>9b>12b", "family>12b", 6, ["6b"], "6B"]
)
def test_what_is_no_model(written):
    with pytest.raises(ElasticError, match=r"^model: .* is not allowed; one of 12b, 9b, 6b, family"):
        NAMES.read(written)


def test_a_name_from_a_client_stays_in_one_line():
    with pytest.raises(ElasticError) as caught:
        NAMES.read("6b\n\x1b[31m")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("extra", "choice"),
    [
        (None, Choice("12b")),
        ({}, Choice("12b")),
        ({"other": 1}, Choice("12b")),
        ({"member": "9b"}, Choice("9b")),
        ({"member": "6b", "then": "9b"}, Choice("6b", "9b")),
    ],
)
def test_extra_arguments(extra, choice):
    assert NAMES.from_extra(extra) == choice


@pytest.mark.parametrize(
    "extra",
    [{"member": "7b"}, {"member": 3}, {"member": "6b", "then": "7b"}, {"then": "6b"}, {"member": "6b", "then": "6b"}],
)
def test_extra_arguments_that_name_nobody(extra):
    with pytest.raises(ElasticError, match=r"^vllm_xargs\.(member|then): "):
        NAMES.from_extra(extra)


def test_a_folder_has_its_members(tmp_path):
    folder = talking_family(tmp_path)
    names = family_names(folder)
    assert names is not None
    assert names.members == ("12b", "9b", "6b") and names.aliases == ("family",)
    assert names.read(str(folder)) == Choice("12b")
    slice_checkpoint(folder, tmp_path / "6b", member="6b")
    assert family_names(tmp_path / "6b") is None and family_names("a/hub-id") is None
