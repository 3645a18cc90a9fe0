# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Cards name extra shapes that can be cut there, and a card that was there before keeps what else it has."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path

import pytest

from nemo_elastic import slice_checkpoint
from nemo_elastic.core.manifest import Family
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.checksums import family_digest
from nemo_elastic.slicing.extra_shapes import add_extra
from tests.shapes import PARENT

from .helpers import SMALL, contents, random_values, write

CODE = PARENT.uniform([0, 1, 3, 4], hidden=12, ffn=8, mamba_heads=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "family", PARENT, {"small": SMALL}, tensors=random_values(PARENT))


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def add(folder: Path, name: str) -> Family:
    return add_extra(folder, name, CODE, force=True)


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
    add(folder, "prose")
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


def _add_some(folder: Path, seed: int) -> None:
    for i in range(6):
        add(folder, f"e{seed}-{i}")


def test_all_that_is_added_side_by_side_is_there(folder: Path) -> None:
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_add_some, args=(folder, seed)) for seed in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    wanted = sorted(f"e{seed}-{i}" for seed in range(4) for i in range(6))
    assert sorted(Family.load(folder).extra_names) == wanted
    assert all(f"--budget {name}`" in card(folder) for name in wanted)


@pytest.mark.parametrize("large", ["elastic.json", "README.md"])
def test_a_full_disk_changes_nothing_and_says_so(folder: Path, large: str) -> None:
    """Whichever of the two files is the one that has no room."""
    if large == "README.md":
        (folder / large).write_text(card(folder) + "x" * 60_000)
    limit = max((folder / name).stat().st_size for name in ("elastic.json", "README.md"))
    before, (soft, hard) = contents(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(ElasticError, match=f"{large}: a file is larger .*; nothing was changed there"):
            add(folder, "code")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(folder) == before


@pytest.mark.parametrize("kind", ["a link out", "no text"])
def test_a_card_that_cannot_be_changed_leaves_the_family_as_it_was(folder: Path, tmp_path: Path, kind: str) -> None:
    path = folder / "README.md"
    if kind == "no text":
        path.write_bytes(b"\xff\xfe")
    else:
        (tmp_path / "mine").write_text("mine")
        path.unlink()
        path.symlink_to(tmp_path / "mine")
    before = (folder / "elastic.json").read_bytes()
    for write_it in (False, True):  # before the search, and after it
        with pytest.raises(ElasticError, match=r"README\.md: (not UTF-8 text|is a link out of its folder)"):
            add_extra(folder, "code", CODE, write=write_it)
    assert (folder / "elastic.json").read_bytes() == before


def test_a_shape_is_not_put_into_another_family(folder: Path) -> None:
    digest = family_digest(folder)
    add_extra(folder, "code", CODE, digest=digest)
    add_extra(folder, "prose", CODE, digest=digest)  # what others added is no other family
    write(folder, PARENT, {"small": SMALL}, tensors=random_values(PARENT, seed=9), force=True)
    with pytest.raises(ElasticError, match="family: another family was written there meanwhile; start anew"):
        add_extra(folder, "code", CODE, digest=digest)
    assert Family.load(folder).extra_names == ()
