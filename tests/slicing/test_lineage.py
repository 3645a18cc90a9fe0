# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Licence and base model go from the parent's card to its family's and every member's, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nemo_elastic import ElasticConfig, slice_checkpoint
from nemo_elastic.errors import ElasticError
from nemo_elastic.slicing.lineage import Lineage, lineage_of
from nemo_elastic.slicing.untrained import init_family
from tests.shapes import PARENT

from .helpers import contents, edit_json, plain_of, random_values, write

BLOCK = ElasticConfig.from_dict(
    {"budgets": [{"name": "big"}, {"name": "half", "ratio": 0.5}], "axes": {"hidden": [16, 12, 8], "ffn": [16, 8]}}
)
OTHER = {"license": "other", "license_name": "some-model-license", "license_link": "https://example.com/a#b"}


def front(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def header(folder: Path) -> dict:
    return {k: v for k, v in front(folder).items() if k not in ("library_name", "pipeline_tag", "tags")}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("plain")
    write(place / "family", PARENT, tensors=random_values(PARENT))
    parent = plain_of(place / "family", place / "parent")
    (parent / "README.md").unlink()
    return parent


@pytest.fixture
def parent(plain: Path, tmp_path: Path) -> Path:
    for name, content in contents(plain).items():
        (tmp_path / "parent").mkdir(exist_ok=True)
        (tmp_path / "parent" / name).write_bytes(content)
    return tmp_path / "parent"


def write_card(folder: Path, **data: object) -> None:
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(data)}---\n# A model\n")


def test_from_the_parent_to_the_family_and_every_member(parent: Path, tmp_path: Path) -> None:
    write_card(parent, **OTHER, base_model=["owner/base", "owner/other_1.5"], tags=["x"], evil="<script>")
    init_family(parent, BLOCK, tmp_path / "family")
    slice_checkpoint(tmp_path / "family", tmp_path / "half", member="half")
    slice_checkpoint(tmp_path / "half", tmp_path / "again", member="half")
    for name in ("family", "half", "again"):
        assert header(tmp_path / name) == {**OTHER, "base_model": ["owner/base", "owner/other_1.5"]}
    assert contents(tmp_path / "again") == contents(tmp_path / "half")


def test_what_the_user_says_comes_first(parent: Path, tmp_path: Path) -> None:
    write_card(parent, **OTHER, base_model="owner/base")
    init_family(parent, BLOCK, tmp_path / "family", license="mit", base_model="me/parent")
    assert header(tmp_path / "family") == {"license": "mit", "base_model": ["me/parent"]}
    slice_checkpoint(tmp_path / "family", tmp_path / "one", member="half", license="apache-2.0")
    assert header(tmp_path / "one") == {"license": "apache-2.0", "base_model": ["me/parent"]}
    slice_checkpoint(tmp_path / "family", tmp_path / "two", member="half", base_model="no/no")
    assert header(tmp_path / "two") == {"license": "mit", "base_model": ["no/no"]}  # `no` alone would be false in YAML
    for wrong in ({"license": "Apache 2.0"}, {"license": "mit: true"}, {"base_model": "../parent"}):
        with pytest.raises(ElasticError, match=next(iter(wrong))):
            slice_checkpoint(tmp_path / "family", tmp_path / "three", member="half", **wrong)


def test_the_parent_itself_where_its_id_is_known(parent: Path, tmp_path: Path) -> None:
    edit_json(parent / "config.json", _name_or_path="owner/config", license="mit")
    init_family(parent, BLOCK, tmp_path / "family")
    assert header(tmp_path / "family") == {"license": "mit", "base_model": ["owner/config"]}
    cached = tmp_path / "models--owner--its-own" / "snapshots" / "0123"
    cached.parent.mkdir(parents=True)
    write_card(parent, base_model="owner/base")
    parent.rename(cached)
    init_family(cached, BLOCK, tmp_path / "cached")
    assert header(tmp_path / "cached") == {"license": "mit", "base_model": ["owner/its-own"]}


@pytest.mark.parametrize(
    "text",
    [
        "---\nlicense: mit",
        "---\n- a list\n---\n",
        "---\nlicense: [mit]\nbase_model: {a: b}\n---\n",
        "---\nlicense: 'MIT or: worse'\nlicense_name: x\nbase_model: [1, '../etc', 'a/b/c', 'a--b/c', null]\n---\n",
        "---\nlicense: !!python/object/apply:os.getcwd []\n---\n",
        b"---\nlicense: \xff\n---\n",
        "---\n"
        + "a: &a [x, x]\n"
        + "".join(f"a{i}: &a{i} [*a{i - 1 or ''}, *a{i - 1 or ''}]\n" for i in range(1, 30)),
        "---\n{" * 3000,
    ],
)
def test_what_is_no_card_is_left_out(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert lineage_of(tmp_path) == Lineage()


def test_a_card_of_another_system_is_read(tmp_path: Path) -> None:
    assert lineage_of(None) == Lineage()
    (tmp_path / "README.md").write_bytes(b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n")
    assert lineage_of(tmp_path) == Lineage("mit")
