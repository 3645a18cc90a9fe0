# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Sources that are damaged, lie, or mean harm: one line, nothing written, and nothing read outside of the folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemo_elastic import slice_checkpoint
from nemo_elastic.core.manifest import FILE as FAMILY_FILE
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from tests.shapes import PARENT

from .helpers import SMALL, contents, random_values, write

UP = "backbone.layers.1.mixer.up_proj.weight"
NORM = "backbone.norm_f.weight"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD, CHECKSUMS = "model-00001-of-00004.safetensors", "elastic_checksums.json"


@pytest.fixture
def source(request, originals, tmp_path):
    """A copy to damage; `family` unless the test asks for another."""
    kind = getattr(request, "param", "family")
    return Path(shutil.copytree(originals / kind, tmp_path / kind))


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def put(path: Path, header: dict[str, Any] | bytes, data: bytes, length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def change(path: Path, at: tuple[Any, ...], value: Any) -> None:
    """Put a value into a JSON file; `...` takes the key away."""
    data = json.loads(path.read_text())
    inner = data
    for key in at[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    path.write_text(json.dumps(data))


def in_header(name: str, **fields: Any) -> Callable[[Path], None]:
    """Let the header of the single file say something else about a tensor."""

    def damage(folder: Path) -> None:
        header, data = header_of(folder / SINGLE)
        header[name] |= fields
        put(folder / SINGLE, header, data)

    return damage


def cut_off(file: str, keep: float) -> Callable[[Path], None]:
    return lambda folder: os.truncate(folder / file, int((folder / file).stat().st_size * keep))


def without(name: str) -> Callable[[Path], None]:
    """Take a tensor out of the single file, properly."""

    def damage(folder: Path) -> None:
        header, data = header_of(folder / SINGLE)
        gone = header.pop(name)["data_offsets"]
        for info in header.values():
            if "data_offsets" in info and info["data_offsets"][0] >= gone[1]:
                info["data_offsets"] = [at - (gone[1] - gone[0]) for at in info["data_offsets"]]
        put(folder / SINGLE, header, data[: gone[0]] + data[gone[1] :])

    return damage


def renamed(name: str, other: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        header, data = header_of(folder / SINGLE)
        put(folder / SINGLE, {other if n == name else n: info for n, info in header.items()}, data)

    return damage


def replaced(text: bytes, other: bytes) -> Callable[[Path], None]:
    """Change the header's text, which no JSON writer would write like that."""

    def damage(folder: Path) -> None:
        content = (folder / SINGLE).read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        header = content[8:start]
        assert text in header
        put(folder / SINGLE, header.replace(text, other, 1), content[start:])

    return damage


def long_header(length: int) -> Callable[[Path], None]:
    return lambda folder: put(folder / SINGLE, *header_of(folder / SINGLE), length=length)


def pointing(file: str, to: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / file).unlink()
        (folder / file).symlink_to(to)

    return damage


def said(file: str, *at: Any, value: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / file, at, value)


def manifest_of_another(folder: Path) -> None:
    other = write(folder.parent / "other", replace(PARENT, hidden=12), {"small": PARENT.uniform(hidden=8)})
    shutil.copy(other / FAMILY_FILE, folder)
    shutil.rmtree(other)


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    # truncated
    "an empty file": ("family", cut_off(SINGLE, 0), "its header is cut off"),
    "half a header": ("family", cut_off(SINGLE, 0.02), "its header is cut off"),
    "half of the data": ("family", cut_off(SINGLE, 0.5), "truncated"),
    "a byte short": ("family", cut_off(SINGLE, 0.99999), "truncated"),
    "a shard that is truncated": ("sharded", cut_off(SHARD, 0.7), f"{SHARD}: truncated"),
    # wrong index
    "an index without map": ("sharded", said(INDEX, "weight_map", value=...), "has no weight_map"),
    "an index of a list": ("sharded", said(INDEX, "weight_map", value=[UP]), "has no weight_map"),
    "an index that is no JSON": ("sharded", cut_off(INDEX, 0.5), "not valid JSON"),
    "an index that lacks a tensor": ("sharded", said(INDEX, "weight_map", UP, value=...), "but not in the index"),
    "an index with one too many": ("sharded", said(INDEX, "weight_map", "x", value=SHARD), "'x' is not in that file"),
    "an index that names the wrong file": ("sharded", said(INDEX, "weight_map", NORM, value=SHARD), "does not fit"),
    "an index of no file": ("sharded", said(INDEX, "weight_map", NORM, value="gone.safetensors"), "no such file"),
    "a shard that is gone": ("sharded", lambda f: (f / SHARD).unlink(), "no such file"),
    # missing and other tensors
    "a missing tensor": ("family", without(UP), f"tensor {UP!r} is missing"),
    "a missing tensor of a member": ("member", without(NORM), f"tensor {NORM!r} is missing"),
    "a tensor too many": ("family", renamed(UP, "backbone.extra"), f"tensor {UP!r} is missing"),
    "no weights": ("family", lambda f: (f / SINGLE).unlink(), "has no weights"),
    # headers that lie
    "a header of exabytes": ("family", long_header(2**60), "its header is cut off"),
    "a header longer than the file": ("family", long_header(10**6), "its header is cut off"),
    "a header that ends early": ("family", long_header(100), "not a safetensors file"),
    "another shape of the same size": ("family", in_header(UP, shape=[8, 32]), "has shape [8, 32], not [16, 16]"),
    "a shape of another size": ("family", in_header(UP, shape=[16, 17]), "is another size"),
    "a shape that overflows": ("family", in_header(UP, shape=[2**62, 2**62]), "is another size"),
    "a negative shape": ("family", in_header(UP, shape=[-16, -16]), "no valid shape"),
    "a shape of fractions": ("family", in_header(UP, shape=[16.0, 16]), "no valid shape"),
    "no shape": ("family", in_header(UP, shape=None), "no valid shape"),
    "negative offsets": ("family", in_header(UP, data_offsets=[-1024, 0]), "no valid shape and data_offsets"),
    "offsets behind the end": ("family", in_header(UP, data_offsets=[10**9, 10**9 + 1024]), "leaves a hole"),
    "offsets backwards": ("family", in_header(UP, data_offsets=[1024, 0]), "is another size"),
    "offsets that overlap": ("family", in_header(UP, data_offsets=[0, 1024]), "overlaps another tensor"),
    "an unknown dtype": ("family", in_header(UP, dtype="F12"), "has dtype 'F12'"),
    "another dtype of the same size": ("family", in_header(UP, dtype="F16", shape=[16, 32]), "has shape [16, 32]"),
    "a name twice": ("family", replaced(NORM.encode(), UP.encode()), "appears twice"),
    "a header of a list": ("family", lambda f: put(f / SINGLE, b"[1]", b""), "no JSON object"),
    # names that lead outside
    "an index that leads up": ("sharded", said(INDEX, "weight_map", UP, value=f"../family/{SHARD}"), "same folder"),
    "an index that leads away": ("sharded", said(INDEX, "weight_map", UP, value="/etc/passwd"), "same folder"),
    "an index that leads down": ("sharded", said(INDEX, "weight_map", UP, value="a/b.safetensors"), "same folder"),
    "an index of a backslash": ("sharded", said(INDEX, "weight_map", UP, value="..\\x.safetensors"), "same folder"),
    "an index with a zero": ("sharded", said(INDEX, "weight_map", UP, value="a\0.safetensors"), "same folder"),
    "an index of a long name": ("sharded", said(INDEX, "weight_map", UP, value="a" * 999 + ".safetensors"), "name"),
    "a tensor whose name leads up": ("family", renamed(UP, "../../" + UP), "is missing"),
    "a member whose name leads up": ("member", said(MEMBER_FILE, "name", value="../x"), "letters, digits, dots"),
    "a member whose name is up": ("member", said(MEMBER_FILE, "name", value=".."), "letters, digits, dots"),
    # links
    "a file that points nowhere": ("family", pointing(SINGLE, "gone"), "has no weights"),
    "a file that points at itself": ("family", pointing(SINGLE, SINGLE), "has no weights"),
    "a shard that points nowhere": ("sharded", pointing(SHARD, "gone"), "no such file"),
    "a shard that points at itself": ("sharded", pointing(SHARD, SHARD), "symbolic links"),
    "a shard that is a folder": ("sharded", lambda f: ((f / SHARD).unlink(), (f / SHARD).mkdir()), "directory"),
    "a config that points at itself": ("family", pointing("config.json", "config.json"), "symbolic links"),
    # of another model
    "a manifest of another model": ("family", manifest_of_another, "config.json and elastic.json describe different"),
    "a config of another model": ("family", said("config.json", "hidden_size", value=12), "describe different models"),
    "a manifest of the future": ("family", said(FAMILY_FILE, "version", value=9), "reads version 1"),
    "a wrong count": ("family", said(FAMILY_FILE, "members", "small", "parameters", value=1), "its shape has"),
    "a manifest that is cut off": ("family", cut_off(FAMILY_FILE, 0.5), "not valid JSON"),
    "a manifest that is no text": ("family", lambda f: (f / FAMILY_FILE).write_bytes(b"\xff\xfe"), "not UTF-8"),
}  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("what", DAMAGE)
def test_a_broken_source_is_one_line_and_no_output(originals, tmp_path, run, what):
    kind, damage, message = DAMAGE[what]
    source = tmp_path / kind
    shutil.copytree(originals / kind, source)
    damage(source)
    before = names(tmp_path)
    for command in (["slice", source, "--budget", "small", "--out", tmp_path / "out" / "cut"], ["verify", source]):
        code, out, err = run(*command)
        assert (code, out) == (2, "") and err.startswith("error: ") and message in err and len(err.splitlines()) == 1
        assert "Traceback" not in err and len(err) < 1500
    assert names(tmp_path) == before
    # and once it is whole again, so is the cut
    shutil.rmtree(source)
    shutil.copytree(originals / kind, source)
    assert run("slice", source, "--budget", "small", "--out", tmp_path / "out" / "cut")[0] == 0
    assert contents(tmp_path / "out" / "cut").keys() == contents(originals / "member").keys()
    assert names(tmp_path / "out") == ["cut"]


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", ".", "", "a\nb", "a\0b", "-"])
def test_no_member_has_a_name_that_leads_anywhere(source, tmp_path, run, name):
    data = json.loads((source / FAMILY_FILE).read_text())
    data["members"][name] = data["members"].pop("small")
    (source / FAMILY_FILE).write_text(json.dumps(data))
    code, _, err = run("slice", source, "--budget", "full", "--out", tmp_path / "out")
    assert code == 2 and "letters, digits, dots and dashes" in err and len(err.splitlines()) == 1
    assert names(tmp_path) == ["family"]


def test_checksums_of_another_model_are_reported(source, originals, run, tmp_path):
    other = write(tmp_path / "other", PARENT, {"small": SMALL}, tensors=random_values(PARENT, 1))
    shutil.copy(other / CHECKSUMS, source)
    code, out, _ = run("verify", source, "--no-forward", "--json")
    failed = [check for check in json.loads(out)["checks"] if check["ok"] is False]
    assert code == 1 and [check["name"] for check in failed] == ["checksums"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", ["F32", "F16"])
def test_weights_that_are_no_numbers_are_cut_and_reported(tmp_path, run, value, dtype):
    values = {name: x.astype("<f4" if dtype == "F32" else "<f2") for name, x in random_values(PARENT).items()}
    values[UP][0, 0] = value
    write(tmp_path / "family", PARENT, {"small": SMALL}, tensors=values)
    assert run("slice", tmp_path / "family", "--budget", "small", "--out", tmp_path / "cut")[0] == 0
    cut = open_source(tmp_path / "cut").tensors[UP].numpy()
    np.testing.assert_array_equal(cut[0], values[UP][0, :8])
    for folder in ("family", "cut"):
        code, out, err = run("verify", tmp_path / folder, "--no-forward", "--json")
        failed = [check for check in json.loads(out)["checks"] if check["ok"] is False]
        assert code == 1 and err == "" and [check["name"] for check in failed] == ["finite"]
        assert "1 values are not" in failed[0]["figure"] and UP in failed[0]["figure"]
        code, out, _ = run("verify", tmp_path / folder, "--no-forward")
        assert code == 1 and "FAILED" in out and "up_proj" in out


@pytest.mark.parametrize("kind", ["family", "sharded", "member"])
def test_the_layout_of_the_hubs_cache(originals, tmp_path, run, kind):
    """models--x/snapshots/REVISION/* are links into models--x/blobs: they lead out of their folder, and may."""
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "0123"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, path in enumerate(sorted((originals / kind).iterdir())):
        shutil.copy(path, blobs / str(i))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(i)))
    (tmp_path / "link").symlink_to(snapshot)
    slice_checkpoint(originals / kind, tmp_path / "expect", member="small")
    for i, folder in enumerate((snapshot, tmp_path / "link")):
        assert run("verify", folder, "--no-forward")[0] == 0
        assert run("slice", folder, "--budget", "small", "--out", tmp_path / str(i))[0] == 0
        assert contents(tmp_path / str(i)) == contents(tmp_path / "expect")
        assert not any(path.is_symlink() for path in (tmp_path / str(i)).iterdir())


def test_what_goes_along_is_copied_by_name_alone(source, tmp_path, run):
    """A tokenizer may be a link within its folder. What is no file, or has another name, stays behind."""
    (tmp_path / "secret").write_text("s")
    (source / "secret").symlink_to(tmp_path / "secret")
    (source / "sub").mkdir()
    (source / "sub" / "tokenizer.json").write_text("{}")
    (source / "vocab.json").mkdir()
    (source / "merges.txt").symlink_to("gone")
    os.mkfifo(source / "tokenizer.model")
    (source / "tokenizer.json").symlink_to(source / "sub" / "tokenizer.json")
    assert run("slice", source, "--budget", "small", "--out", tmp_path / "cut")[0] == 0
    left = set(names(source)) & set(names(tmp_path / "cut"))
    assert not left & {"secret", "sub", "vocab.json", "merges.txt", "tokenizer.model"} and "tokenizer.json" in left
    assert (tmp_path / "cut" / "tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize("out", ["cut", "sub/cut", SINGLE, "../family/cut"])
def test_an_output_inside_the_source(source, run, out):
    before = contents(source)
    code, _, err = run("slice", source, "--budget", "small", "--out", source / out, "--force")
    assert code == 2 and "is inside" in err and len(err.splitlines()) == 1 and contents(source) == before


def test_an_output_around_the_source(source, tmp_path, run):
    before = contents(source)
    code, _, err = run("slice", source, "--budget", "small", "--out", tmp_path, "--force")
    assert code == 2 and "holds" in err and len(err.splitlines()) == 1 and contents(source) == before


@pytest.mark.parametrize("name", ["n" * 300, "gone", "a\nb", ""])
def test_a_source_that_cannot_be(tmp_path, run, name):
    for command in ("slice", "inspect", "verify"):
        options = ["--budget", "x", "--out", tmp_path / "out"] if command == "slice" else []
        code, _, err = run(command, f"{tmp_path}/{name}", *options)
        assert code == 2 and len(err.splitlines()) == 1 and err.startswith("error: ")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["[bold]", "x[/y]", "%s {x}", "a b", "é", "-x", "a\nb"])
def test_a_folder_of_an_odd_name_is_a_folder(originals, tmp_path, run, name):
    """Square brackets are markup where tables are printed, also one that closes in the next folder."""
    source = Path(shutil.copytree(originals / "family", tmp_path / name / "family"))
    assert run("inspect", source)[0] == 0 and run("verify", source, "--no-forward")[0] == 0
    code, out, _ = run("slice", source, "--budget", "small", "--out", tmp_path / name / "cut")
    assert code == 0 and str(tmp_path / name / "cut") in out and open_source(tmp_path / name / "cut").held == SMALL
