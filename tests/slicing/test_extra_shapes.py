# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cards name extra shapes that can be cut there, and a card that was there before keeps what else it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from nemo_elastic import slice_checkpoint
from nemo_elastic.core.manifest import Family
from nemo_elastic.slicing.extra_shapes import update_card
from tests.shapes import PARENT

from .helpers import SMALL, random_values, write

CODE = PARENT.uniform([0, 1, 3, 4], hidden=12, ffn=8, mamba_heads=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "family", PARENT, {"small": SMALL}, tensors=random_values(PARENT))


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def add(folder: Path, name: str) -> Family:
    family = Family.load(folder).with_extra(name, CODE, force=True)
    family.save(folder)
    update_card(folder / "README.md", family)
    return family


def test_a_card_gets_them_once_and_keeps_the_rest(folder: Path) -> None:
    before = card(folder)
    assert "Extra shapes" not in before
    add(folder, "code")
    (folder / "README.md").write_text(f"{card(folder)}\nMy own words.\n", encoding="utf-8")
    family = add(folder, "prose")
    text = card(folder)
    assert text.startswith(before.rstrip()) and text.endswith("My own words.\n")
    assert text.count("## Extra shapes") == 1 and text.count("--budget code`") == text.count("--budget prose`") == 1
    assert f"{family.member('code').parameters:,}" in text
    update_card(folder / "README.md", family)
    assert card(folder) == text


def test_a_folder_without_a_card_stays_so(folder: Path) -> None:
    (folder / "README.md").unlink()
    add(folder, "code")
    assert not (folder / "README.md").exists()


def test_members_name_those_that_are_inside_them(folder: Path, tmp_path: Path) -> None:
    add(folder, "code")
    for name, inside in (("full", True), ("small", False), ("code", False)):
        slice_checkpoint(folder, tmp_path / name, member=name)
        assert ("--budget code`" in card(tmp_path / name)) is inside
    slice_checkpoint(tmp_path / "full", tmp_path / "again", member="code")  # as the card says
    assert "was not trained. Evaluate it before use." in card(tmp_path / "again")
    assert "was not trained. Evaluate it before use." not in card(tmp_path / "small")


def test_a_new_family_with_extra_shapes_names_them(folder: Path, tmp_path: Path) -> None:
    from nemo_elastic.slicing.card import family_card

    text = family_card(add(folder, "code"), "BF16", tokenizer=True)
    assert text.count("--budget code`") == 1 and "--budget small --out" in text
