# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint says beside its weights: settings, tokenizer, `io.json`."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
import yaml

from nemo_elastic.formats.folders import read_shapes
from nemo_elastic.formats.megatron.context_files import read_context, read_io_json, token_ids
from tests.hosts.nemo.checkpoints import add_tokenizer, io_json, store
from tests.hosts.nemo.cutting import PARENT, random_tensors
from tests.hosts.nemo.poison import refused


@pytest.fixture(scope="module")
def state():
    return random_tensors(PARENT)


def test_the_tokenizer_is_the_one_that_the_context_names(state, tmp_path):
    folder = store(tmp_path / "a", PARENT, PARENT.full, state)
    assert read_shapes(folder).companions == folder
    assert "eos_token_id" not in token_ids(None)
    words = add_tokenizer(folder / "context")
    shapes = read_shapes(folder)
    assert shapes.companions == words
    assert (shapes.config["eos_token_id"], shapes.config["pad_token_id"], shapes.config["bos_token_id"]) == (
        1,
        2,
        None,
    )


def test_a_tokenizer_elsewhere_is_left_there(state, tmp_path):
    folder = store(tmp_path / "a" / "b", PARENT, PARENT.full, state)
    words = add_tokenizer(folder / "context")
    words.rename(tmp_path / "elsewhere")
    file = folder / "context" / "model.yaml"
    file.write_text(file.read_text().replace("pretrained_model_name: words", "pretrained_model_name: ../../elsewhere"))
    assert yaml.safe_load(file.read_text())["tokenizer"]["pretrained_model_name"] == "../../elsewhere"
    assert read_context(folder).tokenizer is None


#: what is wrong -> file, its content (None: it is gone), and the words for it
BROKEN = {
    "garbage in metadata.json": ("weights/metadata.json", "{", "metadata.json"),
    "no context": ("context/model.yaml", None, "has no context/model.yaml"),
    "a tag": ("context/model.yaml", "config: !!python/object/apply:os.mkdir [x]", "model.yaml: cannot be read"),
    "no config": ("context/model.yaml", "optim: {lr: 1}", "has no config of a model"),
    "another's table": (
        "context/model.yaml",
        "{config: {a: 1}, elastic: {budgets: [{name: a, latency: {table: /etc/passwd, ms: 1}}]}}",
        "model.yaml: elastic.budgets.latency.table: '/etc/passwd' is not allowed; the content of a table",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_text_is_one_line(state, tmp_path, kind):
    """What is wrong with the weights is in test_metadata and test_torch_files."""
    folder = store(tmp_path / "a", PARENT, PARENT.full, state)
    file, content, match = BROKEN[kind]
    (folder / file).write_text(content) if content is not None else (folder / file).unlink()
    refused(match, partial(read_shapes, folder))


LEAF = {"type": "leaf", "value": 7}


def test_the_other_file_is_read_as_data(state, tmp_path):
    folder = store(tmp_path / "a", PARENT, PARENT.full, state)
    data = yaml.safe_load((folder / "context" / "model.yaml").read_text())["config"]
    items = [[f"Attr(name={k!r})", {"type": "leaf", "value": v}] for k, v in data.items() if not isinstance(v, dict)]
    items += [["Attr(name='activation_func')", {"type": "pyref", "module": "os", "name": "system"}]]
    (folder / "context" / "model.yaml").unlink()
    (folder / "context" / "io.json").write_text(json.dumps(io_json(items)))
    assert read_shapes(folder).parent == replace(PARENT, ffn_stripes=1)


def graph(last: list) -> dict:
    """Sixty objects, each held twice by the one before: 2**60 ways to the last."""
    dictionary = {"module": "builtins", "name": "dict"}
    objects = {
        f"o{i}": {
            "type": dictionary,
            "items": [[f"Key(key={key!r})", {"type": "ref", "key": f"o{i + 1}"}] for key in "ab"],
            "paths": [],
        }
        for i in range(60)
    }
    objects["o60"] = {"type": dictionary, "items": last, "paths": []}
    objects["o0"]["paths"] = ["<root>.model"]
    return {"objects": objects}


def test_a_graph_of_configs_is_read_once_however_often_it_is_held(tmp_path):
    (tmp_path / "io.json").write_text(json.dumps(graph([["Key(key='c')", LEAF]])))
    value = read_io_json(tmp_path / "io.json", "model")
    for _ in range(60):
        value = value["b"]
    assert value == {"c": 7}


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[]", "is not a file that NeMo writes"),
        ({"objects": {}}, "has no object model"),
        (io_json([]), "has no config of a model"),
        (io_json([["hidden_size", LEAF]]), "is not a file that NeMo writes"),
        (graph([["Key(key='a')", {"type": "ref", "key": "o3"}]]), "contains itself"),
        (io_json([["Attr(name='a')", {"type": "ref", "key": "gone"}]]), "is not a file that NeMo writes"),
    ],
    ids=range(6),
)
def test_another_io_json_is_one_line(state, tmp_path, content, match):
    folder = store(tmp_path / "a", PARENT, PARENT.full, state)
    (folder / "context" / "model.yaml").unlink()
    (folder / "context" / "io.json").write_text(content if isinstance(content, str) else json.dumps(content))
    refused(match, partial(read_shapes, folder))
