# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Readers of other people's files, hundreds of damaged ones: a valid object or one clear line, nothing else.

What the commands then do with a damaged folder is in tests/slicing/test_faults_fuzz.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Subnet
from nemo_elastic.core.manifest import Family
from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.formats.hf.config import from_hf_config, to_hf_config
from nemo_elastic.formats.megatron.stored import Stored
from tests.hostile import as_json, damaged, examples, read_or_refused, texts
from tests.hosts.nemo.checkpoints import add_tokenizer, io_json, settings_of, store
from tests.hosts.nemo.cutting import PARENT as WHOLE
from tests.hosts.nemo.cutting import random_tensors
from tests.hosts.nemo.poison import DESCRIBED, metadata_of
from tests.shapes import PARENT

SMALL = PARENT.uniform([0, 1, 3, 4], hidden=8, ffn=8, mamba_heads=4)
MADE = Family.of(PARENT, {"full": PARENT.full, "small": SMALL}, provenance={"a": 1}, drop_order=(4, 3, 2, 1, 0))
MADE = MADE.with_extra("own", PARENT.uniform([0, 2, 4], ffn=8))
FAMILY, CONFIG = MADE.to_json(), to_hf_config(PARENT, SMALL)
PUZZLE = to_hf_config(PARENT, Subnet(8, (PARENT.layer(1, ffn=8), PARENT.layer(4, ffn=4))))
BLOCK = {
    "budgets": [
        {"name": "big"},
        {"name": "half", "ratio": 0.5},
        {"name": "tiny", "memory": {"size": "18KiB", "batch": 2}},
    ],
    "axes": {"hidden": [16, 8], "ffn": {"choices": [16, 8], "per_layer": True, "stripes": 4}, "depth": [5, 4]},
    "ranking": None,
    "importance": {"samples": 8, "ffn": "first", "depth": "cosine"},
    "shapes": "router",
    "search": {"candidates": 6, "tokens": 256},
    "router": {"hidden": 8, "tau": [1.0, 0.1], "gate": "hard", "freeze_at": 0.5},
    "distill": {"terms": {"kl": 1, "ce": 0.5}},
    "sampling": {"big": 1, "half": 2.5},
    "seed": 3,
}


def read_block(data: Any) -> ElasticConfig:
    config = ElasticConfig.from_dict(data)
    read_or_refused(lambda: (config.targets(PARENT), config.resolve_axes(PARENT), config.weights()))
    return config


#: a whole value, its reader, and the value of an object that was read
READERS: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "block": (BLOCK, read_block, ElasticConfig.to_dict),
    "elastic.json": (FAMILY, Family.from_json, Family.to_json),
    "config.json": (CONFIG, from_hf_config, lambda both: to_hf_config(*both)),
    "config.json of a puzzle": (PUZZLE, from_hf_config, lambda both: to_hf_config(*both)),
}


@pytest.mark.parametrize("name", READERS)
@examples(80)
@given(st.data())
def test_what_is_read_of_a_damaged_value_comes_back(name: str, data: st.DataObject) -> None:
    whole, read, written = READERS[name]
    value = data.draw(damaged(whole))
    found = read_or_refused(lambda: read(value))
    if found is not None:
        assert read(json.loads(json.dumps(written(found)))) == found


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = store(tmp_path_factory.mktemp("nemo") / "one", WHOLE, WHOLE.full, random_tensors(WHOLE))
    add_tokenizer(folder / "context")
    return folder


@st.composite
def broken(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes of which some are changed, gone, or twice."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at, size = draw(st.integers(0, len(content))), draw(st.sampled_from([1, 1, 1, 4, 50, 1000]))
        new = draw(st.binary(max_size=4) | st.sampled_from([content[at : at + size] * 2, b"", b"0", b"b", b"h\x05R"]))
        content[at : at + size] = new
    return bytes(content)


@examples(50)
@given(st.data())
def test_metadata_of_nemo(checkpoint: Path, data: st.DataObject) -> None:
    """Bytes, values and JSON; what is taken for a checkpoint is read, too."""
    weights = checkpoint / "weights"
    file, kind = data.draw(
        st.sampled_from([(".metadata", "bytes"), (".metadata", "described"), ("metadata.json", "json")])
    )
    whole = (weights / file).read_bytes()
    try:
        if kind == "bytes":
            content = data.draw(broken(whole))
        elif kind == "described":
            content = metadata_of(data.draw(damaged(DESCRIBED)))
        else:
            content = data.draw(texts(whole.decode()) | damaged(json.loads(whole)).map(as_json))
        (weights / file).write_bytes(content)
        stored = read_or_refused(lambda: Stored(checkpoint))
        for name in stored.sizes if stored else ():
            actual = read_or_refused(partial(stored.read, name))
            assert actual is None or tuple(actual.shape) == stored.sizes[name]
    finally:
        (weights / file).write_bytes(whole)


@examples(20)
@given(st.data())
def test_contexts_of_nemo(checkpoint: Path, data: st.DataObject) -> None:
    """`model.yaml`, or `io.json` where it is absent."""
    file, other = checkpoint / "context" / "model.yaml", checkpoint / "context" / "io.json"
    whole = file.read_text()
    try:
        if data.draw(st.booleans()):
            file.write_bytes(data.draw(texts(whole) | damaged(yaml.safe_load(whole)).map(as_json)))
        else:
            file.unlink()
            plain = {k: v for k, v in settings_of(WHOLE, WHOLE.full).items() if not isinstance(v, dict)}
            graph = io_json([[f"Attr(name={k!r})", {"type": "leaf", "value": v}] for k, v in plain.items()])
            other.write_bytes(data.draw(texts(json.dumps(graph)) | damaged(graph).map(as_json)))
        shapes = read_or_refused(lambda: read_shapes(checkpoint))
        assert shapes is None or shapes.subnet <= shapes.parent.full
    finally:
        file.write_text(whole)
        other.unlink(missing_ok=True)
