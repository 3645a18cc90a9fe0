# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A case of the catalogue: whole folders, the damage done to them, a command, the line that it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from nemo_elastic import slice_checkpoint
from nemo_elastic.data.build import build_data
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.formats.schemes import COMPRESSED, MODELOPT, scheme_of
from nemo_elastic.quantize.writing import quantize_folder
from nemo_elastic.ranking import Ranking
from tests.shapes import PARENT as SHAPE
from tests.slicing.helpers import random_values, write

CATALOGUE = Path(__file__).with_name("cases.yaml")
PARENT = replace(SHAPE, vocab=512)
SMALL = PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4)
BLOCK: dict[str, Any] = {
    "elastic": {
        "budgets": [{"name": "big"}, {"name": "half", "ratio": 0.7}],
        "axes": {"hidden": [16, 12, 8], "ffn": {"choices": [16, 8], "stripes": 4}, "depth": [5, 4]},
    }
}
#: a block for `nemotron_nano_12b_v2`
LARGE: dict[str, Any] = {
    "elastic": {
        "budgets": [{"name": "12b"}, {"name": "9b", "params": 8.9e9}],
        "axes": {"hidden": [5120, 4480], "ffn": {"choices": [20480, 15360], "stripes": 8}, "depth": [62, 58]},
    },
    "teacher": "/checkpoints/12b",
}


@dataclass(frozen=True)
class Case:
    """One row of the catalogue.

    Attributes:
        run: the command line after `nemo-elastic`, in a folder with the originals that it or the damage names.
        says: how the line begins, without `error: `: field and value, or file and three words; … stands for anything.
        write: file -> its text; an empty folder where the name ends in a slash.
        set: JSON or YAML file -> {dotted.path: value}; a value of $gone takes the entry away.
        swap: file -> [text that is in it, text instead].
        cut: file -> number of bytes that its end has lost.
        remove: files and folders.
        fifo: pipes.
        sparse: file -> bytes that it has, none of them on the disk.
        nemo: needs NeMo.
    """

    run: str
    says: str
    write: dict[str, str] = field(default_factory=dict)
    set: dict[str, dict[str, Any]] = field(default_factory=dict)
    swap: dict[str, list[str]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    fifo: list[str] = field(default_factory=list)
    sparse: dict[str, int] = field(default_factory=dict)
    nemo: bool = False

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.run)

    @property
    def names(self) -> set[str]:
        """First parts of all paths that it names."""
        damages = (self.write, self.set, self.swap, self.cut, self.remove, self.fifo, self.sparse)
        paths = [*self.arguments, *(path for damage in damages for path in damage)]
        return {path.rpartition("=")[2].lstrip("@").split("/")[0] for path in paths}

    def damage(self, place: Path) -> None:
        """Do to the copies in `place` what the row says."""
        for name, text in self.write.items():
            path = place / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.write_bytes(text.encode("latin-1" if "\xff" in text else "utf-8"))
        for name, values in self.set.items():
            path = place / name
            data = (json.loads if path.suffix == ".json" else yaml.safe_load)(path.read_text())
            for at, value in values.items():
                _set(data, at, value)
            path.write_text(json.dumps(data) if path.suffix == ".json" else yaml.safe_dump(data))
        for name, (old, new) in self.swap.items():
            content = (place / name).read_bytes()
            assert content.count(old.encode()) >= 1, f"{name} has no {old}"
            (place / name).write_bytes(content.replace(old.encode(), new.encode(), 1))
        for name, lost in self.cut.items():
            content = (place / name).read_bytes()
            (place / name).write_bytes(content[:-lost])
        for name in self.remove:
            path = place / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name in self.fifo:
            os.mkfifo(place / name)
        for name, size in self.sparse.items():
            with open(place / name, "wb") as file:
                file.truncate(size)


def _set(data: Any, at: str, value: Any) -> None:
    *way, last = [int(part) if part.isdecimal() else part for part in re.split(r"\.", at)]
    for part in way:
        data = data[part]
    if value == "$gone":
        del data[last]
    else:
        data[last] = value


def read_cases(path: Path = CATALOGUE) -> list[Case]:
    """The catalogue; a field that a case has not is an error."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # every process of a run reads it
    return [Case(**row) for row in yaml.load(path.read_text(encoding="utf-8"), loader)]


class Originals:
    """Whole folders and files by name, each made when the first case needs it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.made: set[str] = set()

    def copy(self, names: set[str], place: Path) -> None:
        """Put copies of those that are named into a folder."""
        for name in sorted(names & set(MAKERS)):
            original = self.get(name)
            if original.is_dir():
                shutil.copytree(original, place / name)
            else:
                shutil.copy(original, place / name)

    def get(self, name: str) -> Path:
        path = self.place / name
        if name not in self.made:
            MAKERS[name](self, path)
            self.made.add(name)
        return path

    @cached_property
    def tensors(self) -> Any:
        return random_values(PARENT)

    def family(self, path: Path) -> None:
        write(path, PARENT, {"small": SMALL}, tensors=self.tensors)

    def member(self, path: Path) -> None:
        slice_checkpoint(self.get("family"), path, member="small")

    def thin(self, path: Path) -> None:
        slice_checkpoint(self.get("family"), path, subnet=replace(SMALL, hidden=4))

    def parent(self, path: Path) -> None:
        slice_checkpoint(self.get("family"), path, member="full")
        (path / MEMBER_FILE).unlink()

    def blocks(self, path: Path) -> None:
        """A family whose widths are blocks of 16."""
        shape = replace(PARENT, hidden=32, ffn=64, ffn_stripes=2, mamba_heads=4, mamba_head_dim=8, mamba_groups=2)
        write(path, shape, {"small": shape.uniform(hidden=16, ffn=32, mamba_heads=4)}, tensors=random_values(shape))

    def nvfp4(self, path: Path) -> None:
        quantize_folder(self.get("blocks"), path, scheme_of("nvfp4", MODELOPT))

    def fp8(self, path: Path) -> None:
        quantize_folder(self.get("blocks"), path, scheme_of("fp8", COMPRESSED))

    def ranking(self, path: Path) -> None:
        Ranking.trivial(PARENT).save(path)

    def data(self, path: Path) -> None:
        build_data(path, [Path(sysconfig.get_paths()["stdlib"], "json")], vocab=400, held_out_problems=8)

    def block(self, path: Path) -> None:
        path.write_text(yaml.safe_dump(BLOCK))

    def ranked(self, path: Path) -> None:
        path.write_text(yaml.safe_dump({"elastic": BLOCK["elastic"] | {"ranking": "ranking"}}))

    def large(self, path: Path) -> None:
        path.write_text(yaml.safe_dump(LARGE))


MAKERS: dict[str, Callable[[Originals, Path], None]] = {
    "family": Originals.family,
    "member": Originals.member,
    "thin": Originals.thin,
    "parent": Originals.parent,
    "blocks": Originals.blocks,
    "nvfp4": Originals.nvfp4,
    "fp8": Originals.fp8,
    "ranking": Originals.ranking,
    "data": Originals.data,
    "elastic.yaml": Originals.block,
    "ranked.yaml": Originals.ranked,
    "12b.yaml": Originals.large,
}
