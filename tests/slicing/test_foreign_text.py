# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a folder says of itself is text of somebody else's: it never acts in a terminal, or on the page of a cut."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic.core.manifest import FILE as FAMILY_FILE
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from tests.shapes import PARENT

from .helpers import edit_json, random_values, write

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J", "a\nerror: b\r\n", "```\n<script>alert(1)</script>\n```", "---\ntags: [x]\n---\n# T",
    "<img src=x onerror=alert(1)>", "[a](javascript:alert(1))", "\u202eevil\u2066", "\x9b2J", "| a | b |", "\ud800",
)  # fmt: skip


@pytest.mark.parametrize(("kind", "file"), [("family", FAMILY_FILE), ("member", MEMBER_FILE)])
def test_a_card_quotes_and_does_not_obey(originals, tmp_path, run, kind, file):
    """Whatever the provenance has, a card's own headings, tables and front matter are all there is beside quotes."""
    from markdown_it import MarkdownIt

    def parsed(folder: Path) -> list[tuple[str, str]]:
        _, front, body = (folder / "README.md").read_text().split("---\n", 2)
        assert front == "library_name: transformers\npipeline_tag: text-generation\ntags: [nemotron_h, nemo-elastic]\n"
        tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(body)
        inline = [child.type for token in tokens for child in token.children or ()]
        assert not {"html_inline", "image", "link_open"} & set(inline)
        return [(t.type, t.content if t.type != "fence" else "") for t in tokens]

    source = Path(shutil.copytree(originals / kind, tmp_path / kind))
    edit_json(source / file, provenance={"a": 1})
    assert run("slice", source, "--member", "small", "--out", tmp_path / "plain")[0] == 0
    edit_json(source / file, provenance={**{t: t for t in HOSTILE}, "list": [{"deep": t} for t in HOSTILE]})
    code, out, err = run("slice", source, "--member", "small", "--out", tmp_path / "out")
    assert code == 0 and out.replace("\n", "").isprintable() and err == ""
    assert parsed(tmp_path / "out") == parsed(tmp_path / "plain")
    assert (tmp_path / "out" / "README.md").read_text().replace("\n", "").isprintable()


@pytest.mark.parametrize("pattern", ["M-M*-", "M-M--"])
def test_generation_settings_that_are_none_are_named_where_they_are(tmp_path, run, pattern):
    """Before any weight is written, and also where they would be copied as they are."""
    parent = replace(PARENT, pattern=pattern)
    source = write(tmp_path / "family", parent, {"small": parent.uniform(hidden=8)}, tensors=random_values(parent))
    (source / "generation_config.json").write_text("[]")
    code, out, err = run("slice", source, "--member", "small", "--out", tmp_path / "out")
    assert (code, out) == (2, "") and err.startswith(f"error: {source / 'generation_config.json'}: not ")
    assert len(err.splitlines()) == 1 and ".tmp" not in err and not (tmp_path / "out").exists()
