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
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_elastic.core.manifest import FILE as FAMILY_FILE
from nemo_elastic.formats.hf.quant_config import QUANT_FILE
from nemo_elastic.formats.hf.reading import MEMBER_FILE
from nemo_elastic.formats.schemes import COMPRESSED, MODELOPT
from tests.hostile import JSON, leaves
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
FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def never_a_traceback(folder: Path) -> None:
    """Any of the commands on a damaged folder: an exit code that they have, one line, and what is written is whole."""
    out = folder.parent / "cut"
    cut = ("slice", folder, "--member", "small", "--out", out)
    for command in (("inspect", folder), ("verify", folder, "--no-forward"), cut):
        code, error = call(*command)
        assert code in ((0, 1, 2) if command[0] == "verify" else (0, 2))
        assert len(error.splitlines()) == (code == 2) and error.startswith("error: " if code == 2 else "")
    assert out.exists() == (code == 0)
    assert code or call("verify", out, "--no-forward")[0] in (
        0,
        1,
    )  # 1: numbers that are not finite stay what they are


@contextlib.contextmanager
def damaged(original: Path) -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # flushing to a disk would take the time
    with tempfile.TemporaryDirectory(dir=memory) as place:
        yield Path(shutil.copytree(original, Path(place, "source")))


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


@pytest.fixture(scope="module")
def folders(originals, dense, tmp_path_factory) -> dict[str, Path]:  # noqa: F811
    place, layouts = tmp_path_factory.mktemp("low"), {"nvfp4": MODELOPT, "fp8": COMPRESSED}
    quantized = {precision: low(dense, place / precision, precision, layout) for precision, layout in layouts.items()}
    return quantized | {kind: originals / kind for kind in FILES.keys() - layouts.keys()}


@settings(FUZZ, max_examples=90)
@given(CHOICES, st.data())
def test_any_value_may_be_wrong(folders, which, data):
    kind, file = which
    with damaged(folders[kind]) as folder:
        path = folder / file
        value, rest = header_of(path) if file == SINGLE else (json.loads(path.read_text()), b"")
        at = data.draw(st.sampled_from(leaves(value)))
        inner = value
        for key in at[:-1]:
            inner = inner[key]
        if isinstance(inner, dict) and data.draw(st.booleans()):
            moved = inner.pop(at[-1])
            inner |= {data.draw(st.text(max_size=4)): moved} if data.draw(st.booleans()) else {}
        else:
            inner[at[-1]] = data.draw(JSON)
        if file == SINGLE:
            text = json.dumps(value).encode()
            path.write_bytes(len(text).to_bytes(8, "little") + text + rest)
        else:
            path.write_text(json.dumps(value))
        never_a_traceback(folder)
