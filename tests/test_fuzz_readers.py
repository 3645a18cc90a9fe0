# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Every reader of other people's files, ten thousand damaged ones: a valid object or one clear line, nothing else.

What the commands then do with a damaged folder is in tests/slicing/test_faults_fuzz.py.
"""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.manifest import FILE, Family
from nemo_elastic.data.build import build_data
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation.harness import _end_of_text as end_of_text
from nemo_elastic.formats.checksums import CHECKSUMS_FILE, read_checksums
from nemo_elastic.formats.hf.config import from_hf_config, to_hf_config
from nemo_elastic.formats.hf.folder import MEMBER_FILE, member_to_json
from nemo_elastic.formats.megatron.stored import Stored
from nemo_elastic.formats.registry import read_shapes
from nemo_elastic.formats.source import Origin
from nemo_elastic.formats.tokenizer import load_tokenizer
from nemo_elastic.ranking import Ranking
from nemo_elastic.report import build_report, drawing, load_run
from nemo_elastic.report.html_page import render
from nemo_elastic.runtime.family_tokenizer import FamilyTokenizer
from tests.hostile import damaged, leaves
from tests.hosts.nemo.checkpoints import add_tokenizer, io_json, settings_of, store
from tests.hosts.nemo.cutting import PARENT as WHOLE
from tests.hosts.nemo.cutting import random_tensors
from tests.hosts.nemo.poison import TOLD, metadata_of
from tests.report.fabricate import make_run
from tests.shapes import PARENT

T = TypeVar("T")
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
    "search": {"candidates": 6, "tokens": 256},
    "router": {"hidden": 8, "tau": [1.0, 0.1], "gate": "hard", "freeze_at": 0.5},
    "distill": {"mode": "frozen_ce", "alpha": 0.5},
    "sampling": {"big": 1, "half": 2.5},
    "seed": 3,
}
#: words and marks of YAML and JSON; some of another kind of number, some too deep or too long
PIECES = [
    *(
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "- ",
        "\n",
        "'",
        '"',
        "\t",
        "? ",
        "|\n",
        "#",
        "~",
        "\0",
        "\ufeff",
        "---\n",
        "&a ",
        "*a",
    ),
    *("<<: *a", "!!python/name:os.system ", "!!binary ", "%YAML 9.9\n", "${", "${oc.env:HOME}", "${..seed}"),
    *("NaN", "1e999", "1:60:60", "2001-02-30", "1" * 5000, "0x" + "f" * 9000, "[" * 2000, '{"a":' * 2000),
]
CHECKSUMS = {
    "algorithm": "crc32", "tensors": {"backbone.embeddings.weight": "0123abcd", "lm_head.weight": "ffffffff"},
    "part_bytes": 262144, "parts": {"lm_head.weight": "0123abcd89ef4567"},
}  # fmt: skip
#: what is read -> examples of it; the suite draws a part of them, `make faults` all
EXAMPLES = {
    "block": 2500, "block file": 500, "family": 2400, "family file": 900, "subnet": 1200, "config.json": 1200,
    "member file": 500, "checksums": 500, "ranking": 600, "ranking tensors": 200, "data folder": 500, "tokenizer": 200,
    "results of a run": 300, "NeMo metadata": 1000, "NeMo context": 400, "metrics of a run": 1500,
    "report of a run": 25,
}  # fmt: skip


#: set by `make faults`
PART = 1 if os.environ.get("NEMO_ELASTIC_FUZZ") == "all" else 8


def examples(of: str) -> Callable[[Any], Any]:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=-(-EXAMPLES[of] // PART), suppress_health_check=checks, database=None)


def told(read: Callable[[], T]) -> T | None:
    """What was read, or None where it was refused in one clear line."""
    try:
        return read()
    except ElasticError as refused:
        line = str(refused)
        assert len(line) < 4100 and len(line.split()) >= 2, line
        return None


def put(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, default=repr, skipkeys=True))


def test_ten_thousand_in_all() -> None:
    assert sum(EXAMPLES.values()) >= 10_000


@examples("block")
@given(damaged(BLOCK))
def test_blocks(block: Any) -> None:
    config = told(lambda: ElasticConfig.from_dict(block))
    if config is not None:
        assert ElasticConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        told(lambda: (config.targets(PARENT), config.resolve_axes(PARENT), config.weights()))


@examples("family")
@given(damaged(FAMILY))
def test_families(data: Any) -> None:
    family = told(lambda: Family.from_json(data))
    if family is not None:
        assert Family.from_json(json.loads(json.dumps(family.to_json()))) == family


@examples("subnet")
@given(damaged(SMALL.to_json()) | damaged(PARENT.to_json()))
def test_shapes(data: Any) -> None:
    subnet = told(lambda: Subnet.from_json(data, PARENT))
    assert subnet is None or (subnet <= PARENT.full and Subnet.from_json(subnet.to_json(), PARENT) == subnet)
    parent = told(lambda: Parent.from_json(data))
    assert parent is None or Parent.from_json(parent.to_json()) == parent


@examples("config.json")
@given(damaged(CONFIG) | damaged(PUZZLE))
def test_configs(config: Any) -> None:
    found = told(lambda: from_hf_config(config, "config.json"))
    if found is not None:
        parent, held = found
        assert held <= parent.full and from_hf_config(to_hf_config(parent, held))[1].hidden == held.hidden


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("readers")
    put(place / "config.json", CONFIG)
    Ranking.trivial(PARENT).save(place / "ranking")
    return place


@st.composite
def texts(draw: st.DrawFn, whole: str) -> bytes:
    """A text with pieces of it, or of another language, in the wrong place."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(whole)))
        end = min(len(whole), at + draw(st.sampled_from([0, 0, 1, 5, 100])))
        whole = whole[:at] + draw(st.sampled_from(PIECES) | st.text(max_size=3)) + whole[end:]
    content = whole.encode("utf-8", "surrogatepass")
    return content[: draw(st.integers(0, len(content)))] if draw(st.integers(0, 5)) == 0 else content


@examples("block file")
@given(texts(yaml.safe_dump({"elastic": BLOCK})) | texts(json.dumps(BLOCK)))
def test_block_files(folder: Path, text: bytes) -> None:
    (folder / "elastic.yaml").write_bytes(text)
    told(lambda: ElasticConfig.load(folder / "elastic.yaml"))


@examples("family file")
@given(texts(json.dumps(FAMILY)))
def test_family_files(folder: Path, text: bytes) -> None:
    (folder / FILE).write_bytes(text)
    told(lambda: Family.load(folder))
    (folder / FILE).unlink()


@examples("member file")
@given(damaged(member_to_json(PARENT, SMALL, Origin("small", "ab12" * 16, {"a": 1}))))
def test_member_files(folder: Path, data: Any) -> None:
    put(folder / MEMBER_FILE, data)
    told(lambda: read_shapes(folder))


@examples("checksums")
@given(damaged(CHECKSUMS))
def test_checksums(folder: Path, data: Any) -> None:
    put(folder / CHECKSUMS_FILE, data)
    found = told(lambda: read_checksums(folder))
    for sums in () if found is None else found.values():
        assert int(sums.whole, 16) >= 0 and len(sums.whole) == 8
        assert len(sums.parts) % 8 == 0 and int(sums.parts or "0", 16) >= 0 and 4096 <= sums.part_bytes <= 2**40


@examples("ranking")
@given(st.data())
def test_rankings(folder: Path, data: st.DataObject) -> None:
    whole = folder / "ranking" / "ranking.json"
    content = whole.read_bytes()
    try:
        put(whole, data.draw(damaged(json.loads(content))))
        ranking = told(lambda: Ranking.load(folder / "ranking"))
        assert ranking is None or len(ranking.digest) == 64
    finally:
        whole.write_bytes(content)


@examples("ranking tensors")
@given(st.data())
def test_tensors_of_rankings(folder: Path, data: st.DataObject) -> None:
    path = folder / "ranking" / "ranking.safetensors"
    content, tensors = path.read_bytes(), load_file(path)
    dtypes = st.sampled_from([np.int8, np.uint8, np.int32, np.float16, np.float64, np.bool_])
    name = data.draw(st.sampled_from(sorted(tensors)))
    how = data.draw(st.sampled_from(["dtype", "shape", "values", "gone", "byte"]))
    if how == "dtype":
        tensors[name] = tensors[name].astype(data.draw(dtypes))
    elif how == "shape":
        tensors[name] = tensors[name][: data.draw(st.integers(0, 3))].reshape(1, -1)
    elif how == "values":
        tensors[name] = np.full_like(tensors[name], data.draw(st.integers(-(2**40), 2**40)))
    elif how == "gone":
        del tensors[name]
    try:
        save_file(tensors, path)
        if how == "byte":
            broken = bytearray(content)
            broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
            path.write_bytes(broken)
        ranking = told(lambda: Ranking.load(folder / "ranking", PARENT))
        assert ranking is None or ranking.digest == Ranking.trivial(PARENT).digest
    finally:
        path.write_bytes(content)


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    source = Path(sysconfig.get_paths()["stdlib"], "json")
    return build_data(tmp_path_factory.mktemp("data") / "data", [source], vocab=300, held_out_problems=2)


@examples("data folder")
@given(st.data())
def test_data_folders(data_folder: DataFolder, data: st.DataObject) -> None:
    path = data_folder.path / "data.json"
    try:
        put(path, data.draw(damaged(data_folder.to_json())))
        told(lambda: DataFolder.open(data_folder.path))
    finally:
        put(path, data_folder.to_json())


@examples("tokenizer")
@given(st.data())
def test_tokenizers(data_folder: DataFolder, data: st.DataObject) -> None:
    """Their settings, and the library's own file."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = data_folder.tokenizer_dir / name
        content = path.read_text(encoding="utf-8")
        try:
            path.write_bytes(data.draw(texts(content)))
            told(lambda: end_of_text(data_folder.tokenizer_dir, load_tokenizer(data_folder.tokenizer_dir).token_to_id))
            told(lambda: FamilyTokenizer.read(data_folder.tokenizer_dir))
        finally:
            path.write_text(content, encoding="utf-8")


RESULTS = {
    "version": 1, "members": [{"name": "full", "loss": 1.5, "accuracy_by_task": {"add": 0.5}, "pattern": "M-"}],
    "seconds": {"data": 1.0}, "bigram_loss": 3.0, "parent_loss": {"start": 3.0, "end": 2.0}, "targets": {"full": 5},
}  # fmt: skip
STEP = {"kind": "step", "step": 1, "tokens": 10, "loss": 1.0, "lr": 0.1}


@examples("results of a run")
@given(damaged(RESULTS), damaged(STEP))
def test_runs(folder: Path, results: Any, step: Any) -> None:
    run = folder / "run"
    (run / "stage1").mkdir(parents=True, exist_ok=True)
    put(run / "metrics.json", results)
    put(run / "stage1" / "metrics.jsonl", step)
    told(lambda: load_run(run))


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


@examples("NeMo metadata")
@given(st.data())
def test_metadata_of_nemo(checkpoint: Path, data: st.DataObject) -> None:
    """Bytes, values and JSON; what is taken for a checkpoint is read, too."""
    weights = checkpoint / "weights"
    file, kind = data.draw(st.sampled_from([(".metadata", "bytes"), (".metadata", "told"), ("metadata.json", "json")]))
    whole = (weights / file).read_bytes()
    try:
        if kind == "bytes":
            content = data.draw(broken(whole))
        elif kind == "told":
            content = metadata_of(data.draw(damaged(TOLD)))
        else:
            content = data.draw(texts(whole.decode()) | damaged(json.loads(whole)).map(as_json))
        (weights / file).write_bytes(content)
        stored = told(lambda: Stored(checkpoint))
        for name in stored.sizes if stored else ():
            found = told(partial(stored.read, name))
            assert found is None or tuple(found[0].shape) == stored.sizes[name]
    finally:
        (weights / file).write_bytes(whole)


@examples("NeMo context")
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
        shapes = told(lambda: read_shapes(checkpoint))
        assert shapes is None or shapes.held <= shapes.parent.full
    finally:
        file.write_text(whole)
        other.unlink(missing_ok=True)


def as_json(value: Any) -> bytes:
    return json.dumps(value, default=repr, skipkeys=True).encode()


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose metrics lie in two parts, as version 0.1 left them after a stop; few lines of each."""
    run = make_run(tmp_path_factory.mktemp("runs") / "run")
    for stage in ("parent", "stage1", "stage2"):
        path = run / stage / "metrics.jsonl"
        lines = path.read_text().splitlines()
        path.write_text("\n".join(lines[::13]))
    moved = run / "stage1" / "run_0"
    moved.mkdir()
    (moved / "metrics.jsonl").write_text("\n".join(lines[:12]))
    return run


@st.composite
def damaged_lines(draw: st.DrawFn, text: str) -> bytes:
    """A file of JSON lines with values damaged, or the text itself."""
    if draw(st.integers(0, 3)) == 0:
        return draw(texts(text))
    value = draw(damaged([json.loads(line) for line in text.splitlines()]))
    lines = value if isinstance(value, list) else [value]
    return "\n".join(json.dumps(line, default=repr, skipkeys=True) for line in lines).encode()


@examples("metrics of a run")
@given(st.data())
def test_metrics(whole_run: Path, folder: Path, data: st.DataObject) -> None:
    """Read and told on a page; the pictures are those of the test below."""
    run = folder / "metrics"
    names = ["stage1/metrics.jsonl", "stage1/run_0/metrics.jsonl", "stage2/metrics.jsonl"]
    hit = data.draw(st.sampled_from(names))
    for name in names:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        text = (whole_run / name).read_text()
        (run / name).write_bytes(data.draw(damaged_lines(text)) if name == hit else text.encode())
    page = told(lambda: render(load_run(run), {}))
    assert page is None or "<script" not in page


@examples("report of a run")
@given(st.data())
def test_reports(whole_run: Path, data: st.DataObject) -> None:
    """Every picture drawn of damaged files."""
    files = sorted(p for p in whole_run.rglob("*.json*") if p.parent.name != "report")
    path = data.draw(st.sampled_from(files))
    text = path.read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "DPI", 20)
        try:
            path.write_bytes(
                data.draw(damaged_lines(text if path.suffix == ".jsonl" else json.dumps(json.loads(text))))
            )
            page = told(lambda: build_report(whole_run))
            assert page is None or "</html>" in page.read_text(encoding="utf-8")
        finally:
            path.write_text(text)


@settings(max_examples=50)
@given(st.data())
def test_damage_is_damage(data: st.DataObject) -> None:
    """The strategy leaves what it damages alone, and does change it."""
    before = json.dumps(BLOCK)
    out = [data.draw(damaged(BLOCK)) for _ in range(10)]
    assert json.dumps(BLOCK) == before and any(one != BLOCK for one in out)
    assert ("router", "tau", 0) in leaves(BLOCK)
