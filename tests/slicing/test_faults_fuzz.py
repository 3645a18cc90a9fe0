# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Any damage at all, drawn by hypothesis: an exit code that the commands have, one line, and never half an output."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.core.manifest import FILE as FAMILY_FILE
from nemo_elastic.formats.hf.quant_config import QUANT_FILE
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.formats.schemes import COMPRESSED, MODELOPT
from tests.hostile import as_json, damaged, examples
from tests.quantize.conftest import dense  # noqa: F401
from tests.quantize.damage import low

from .helpers import call

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
#: files to damage in each of the originals
FILES = {
    "family": [SINGLE, "config.json", FAMILY_FILE, "elastic_checksums.json"],
    "sharded": [INDEX],
    "member": [MEMBER_FILE, "config.json"],
    "nvfp4": [SINGLE, "config.json", QUANT_FILE],
    "fp8": [SINGLE, "config.json"],
}
CHOICES = st.sampled_from([(kind, file) for kind, files in FILES.items() for file in files])


def never_a_traceback(folder: Path) -> None:
    """Any of the commands on a damaged folder: an exit code that they have, one line, and what is written is whole."""
    out = folder.parent / "cut"
    cut = ("slice", folder, "--member", "small", "--out", out)
    for command in (("inspect", folder), ("verify", folder, "--no-forward"), cut):
        code, error = call(*command)
        assert code in ((0, 1, 2) if command[0] == "verify" else (0, 2))
        assert len(error.splitlines()) == (code == 2) and error.startswith("error: " if code == 2 else "")
    assert out.exists() == (code == 0)
    # 1: numbers that are not finite stay what they are
    assert code or call("verify", out, "--no-forward")[0] in (0, 1)


@contextlib.contextmanager
def copied(original: Path) -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # flushing to a disk would take the time
    with tempfile.TemporaryDirectory(dir=memory) as place:
        yield Path(shutil.copytree(original, Path(place, "source")))


@pytest.fixture(scope="module")
def folders(originals, dense, tmp_path_factory) -> dict[str, Path]:  # noqa: F811
    place, layouts = tmp_path_factory.mktemp("low"), {"nvfp4": MODELOPT, "fp8": COMPRESSED}
    quantized = {precision: low(dense, place / precision, precision, layout) for precision, layout in layouts.items()}
    return quantized | {kind: originals / kind for kind in FILES.keys() - layouts.keys()}


@examples(90)
@given(CHOICES, st.data())
def test_any_value_may_be_wrong(folders, which, data):
    kind, file = which
    with copied(folders[kind]) as folder:
        path = folder / file
        content = path.read_bytes()
        if file == SINGLE:
            start = 8 + int.from_bytes(content[:8], "little")
            header = as_json(data.draw(damaged(json.loads(content[8:start]))))
            path.write_bytes(len(header).to_bytes(8, "little") + header + content[start:])
        else:
            path.write_bytes(as_json(data.draw(damaged(json.loads(content)))))
        never_a_traceback(folder)
