# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every command that writes holds its output against all that it reads, both ways. A new command cannot forget it."""

from __future__ import annotations

import importlib
import shlex
import shutil
import typing
from pathlib import Path
from typing import Any

import pytest
import typer

from nemo_elastic import slice_checkpoint
from nemo_elastic.cli.app import COMMANDS
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.io.outputs import Output, sign
from nemo_elastic.profile.measure import save
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.untrained import init_family
from tests.bad_input.case import BLOCK, SMALL, Originals
from tests.core.test_limits import TABLE
from tests.slicing.helpers import call, contents

#: a command line of each command with --out, without that, and the parameters that are paths: all that it reads
LINES: dict[str, tuple[str, dict[str, str]]] = {
    "convert": ("{source} --format nemo", {"source": "family"}),
    "data": ("{sources} --tokenizer {tokenizer}", {"sources": "texts", "tokenizer": "data"}),
    "demo": ("", {}),
    "init": (
        "{parent} --data {data} --config {config}",
        {"parent": "parent", "data": "data", "config": "elastic.yaml"},
    ),
    "profile": ("{source} --config {config}", {"source": "family", "config": "elastic.yaml"}),
    "quantize": ("{source} --to nvfp4 --data {data}", {"source": "family", "data": "data"}),
    "rehearse": ("nemotron_elastic_9b --config {config}", {"config": "elastic.yaml"}),
    "specialize": ("{family} --data {data} --params 19000", {"family": "family", "data": "data"}),
    "slice": ("{source} --subnet {subnet}", {"source": "family", "subnet": "shape.json"}),
}
#: commands whose output is a file: `--force` replaces any regular one
FILES = ("profile", "specialize")
FOLDERS = [name for name in LINES if name not in FILES]


def parameters(name: str) -> dict[str, Any]:
    """Name -> type of what a command takes."""
    command = importlib.import_module(COMMANDS[name].module).command
    callback = command.registered_commands[0].callback if isinstance(command, typer.Typer) else command
    return {key: kind for key, kind in typing.get_type_hints(callback).items() if key != "return"}


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_with_an_output_is_tested_here(name):
    actual = parameters(name)
    assert (name in LINES) == ("out" in actual), "give it a line in LINES"
    if name in LINES:
        read = {key for key, kind in actual.items() if "Path" in str(kind)} - {"out"}
        assert read == set(LINES[name][1]), "every path that it takes is read: give it a value"


def test_every_command_that_prints_a_table_prints_json():
    """What `train` and `serve` print is the run's and the server's."""
    assert {name for name in COMMANDS if "json" not in parameters(name)} == {"train", "serve"}


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Path:
    """A folder that would be replaced if only its mark counted, with the inputs of every command in it."""
    originals = Originals(tmp_path_factory.mktemp("originals"))
    box = tmp_path_factory.mktemp("place") / "box"
    box.mkdir()
    sign(box, Output("a box"), whole=False)
    originals.copy({"family", "parent", "ranking", "data", "elastic.yaml"}, box)
    for path, text in (("texts/a.txt", "text"), ("shape.json", "{}")):
        (box / path).parent.mkdir(exist_ok=True)
        (box / path).write_text(text)
    save(box / "table.json", TABLE)
    (box.parent / "link").symlink_to(box)
    return box


CASES = [
    (name, read, how) for name, (_, inputs) in LINES.items() for read in inputs for how in ("is", "inside", "holds")
]


def written(box: Path, name: str, out: Path, *force: str) -> tuple[int, str]:
    """A command's line with an output."""
    line, inputs = LINES[name]
    values = {key: str(box / value) for key, value in inputs.items()}
    return call(name, *shlex.split(line.format(**values)), "--out", out, *force)


@pytest.mark.parametrize(("name", "read", "how"), CASES)
def test_no_output_touches_an_input(box, name, read, how):
    given = LINES[name][1][read]
    before = contents(box)
    for by, force in ((box, []), (box.parent / "link", ["--force"])):
        out = {"is": by / given, "inside": by / given / "new", "holds": by}[how]
        code, output = written(box, name, out, *force)
        assert (code, len(output.splitlines())) == (2, 1), (out, force, output)
        assert "which is an input" in output and (given in output or how == "holds"), (out, force)
    assert contents(box) == before and (box.parent / "link").is_symlink()


@pytest.mark.parametrize("name", FOLDERS)
def test_no_output_replaces_what_is_not_ours(box, name, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a.tex").write_text("mine")
    (tmp_path / "link").symlink_to("thesis")
    for out, force in (("thesis", []), ("link", ["--force"])):
        code, output = written(box, name, tmp_path / out, *force)
        assert (code, len(output.splitlines())) == (2, 1) and "is not a" in output, output
    assert contents(tmp_path / "thesis") == {"a.tex": b"mine"} and (tmp_path / "link").is_symlink()


@pytest.fixture(scope="module")
def own(box, tmp_path_factory) -> dict[str, Path]:
    """What each command writes, and alone replaces; the larger ones as their marks say it."""
    place = tmp_path_factory.mktemp("own")
    fine("init", box / "parent", "--config", box / "elastic.yaml", "--out", place / "init")
    fine("slice", box / "family", "--member", "small", "--out", place / "slice")
    shutil.copytree(box / "data", place / "data")
    low = ("--to", "fp8", "--layout", "compressed-tensors")
    fine("quantize", box / "family", *low, "--out", place / "quantize")
    marked = {"convert": "a checkpoint", "demo": "a demo", "rehearse": "a rehearsal"}
    for name, kind in marked.items():
        (place / name / "weights").mkdir(parents=True)
        (place / name / "weights" / "0.distcp").write_text("weights")
        sign(place / name, Output(kind))
    return {name: place / name for name in FOLDERS}


def fine(*arguments: object) -> None:
    code, output = call(*arguments)
    assert code == 0, output


@pytest.mark.parametrize("name", FOLDERS)
def test_no_output_replaces_a_file_that_was_put_into_it(box, own, tmp_path, name):
    out = Path(shutil.copytree(own[name], tmp_path / "out"))
    (out / "mine").mkdir()
    (out / "mine" / "notes.txt").write_text("mine")
    before = contents(tmp_path)
    code, report = written(box, name, out, "--force")
    assert (code, len(report.splitlines())) == (2, 1) and "contains mine/notes.txt" in report, report
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", FOLDERS)
def test_no_output_replaces_what_another_command_wrote(box, own, tmp_path, name):
    """A folder of several families was taken for one output of ours, by every command."""
    for number in "12":
        shutil.copytree(box / "family", tmp_path / "models" / number)
    others = [path for other, path in own.items() if other != name]
    for out in (tmp_path / "models", *others):
        before = contents(out)
        code, report = written(box, name, out, "--force")
        assert (code, len(report.splitlines())) == (2, 1), (out, report)
        assert "that nemo-elastic wrote, so --force does not replace it" in report or "a list of its files" in report
        assert contents(out) == before


def test_a_folder_of_members_is_replaced_by_the_same_alone(box, tmp_path):
    line = ("slice", box / "family", "--member", "small", "--member", "full", "--out", tmp_path / "cuts")
    fine(*line)
    fine(*line, "--force")
    fine("slice", box / "family", "--member", "small", "--out", tmp_path / "cuts" / "small", "--force")
    fine(*line, "--force")
    (tmp_path / "cuts" / "full" / "notes.txt").write_text("mine")
    code, output = call(*line, "--force")
    assert (
        code == 2 and "cuts: contains full/notes.txt, which is not a part of a folder of members, so --force" in output
    )
    assert (tmp_path / "cuts" / "full" / "notes.txt").exists()


@pytest.mark.parametrize("name", list(LINES))
def test_an_output_below_a_file_is_one_line(box, tmp_path, name):
    (tmp_path / "text").write_text("mine")
    for below, force in (("x", []), ("x/y", ["--force"])):
        out = tmp_path / "text" / below
        code, output = written(box, name, out, *force)
        assert (code, output) == (2, f"error: {out}: cannot be written (Not a directory: {out})\n")
    assert contents(tmp_path) == {"text": b"mine"}


def test_functions_hold_it_too(box, tmp_path):
    """What a script calls without a command, and what a block names."""
    place = Path(shutil.copytree(box, tmp_path / "box"))
    family, parent, ranking = place / "family", place / "parent", place / "ranking"
    source = open_source(family)
    own = source.family
    assert own is not None
    named = {"elastic": {**BLOCK["elastic"], "ranking": str(ranking)}}["elastic"]
    shapes = {**BLOCK["elastic"], "shapes": str(ranking / "ranking.json")}
    plain = ElasticConfig.from_dict(BLOCK["elastic"])
    before = contents(place)
    for out, write in (
        (family, lambda out: slice_checkpoint(family, out, member="small", force=True)),
        (family / "x", lambda out: slice_checkpoint(source, out, subnet=SMALL, force=True)),
        (parent, lambda out: init_family(parent, plain, out, force=True)),
        (ranking, lambda out: init_family(parent, plain, out, ranking, force=True)),
        (ranking, lambda out: init_family(parent, ElasticConfig.from_dict(named), out, force=True)),
        (ranking, lambda out: init_family(parent, ElasticConfig.from_dict(shapes), out, force=True)),
        (family, lambda out: write_family(out, source.parent, source.tensors, own, family, force=True)),
    ):
        with pytest.raises(ElasticError, match="which is an input; name"):
            write(out)
    assert contents(place) == before
