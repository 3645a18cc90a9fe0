# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo checkpoints at the command line: as NeMo, training and ModelOpt really write them, and as they break.

Training and pruning run once each, in processes of their own.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic.cli import main
from nemo_elastic.core.manifest import Family
from nemo_elastic.formats.checkpoint import Checkpoint
from nemo_elastic.formats.folders import open_source, read_shapes
from nemo_elastic.formats.megatron.context_files import read_io_json
from nemo_elastic.hosts.nemo.checkpoint.write import write_nemo_checkpoint
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.slicing.slicer import slice_checkpoint
from nemo_elastic.slicing.verification import verify
from tests.hosts.nemo.checkpoints import as_model, io_json, store
from tests.hosts.nemo.cutting import PARENT, assert_equal, random_tensors
from tests.parallel.forks import measured
from tests.parallel.runs import quiet
from tests.slicing.helpers import contents, scratch
from tests.strategies import parents
from tests.texts import FEW, library_text
from tests.workers import ROOT, environment

pytestmark = [pytest.mark.nemo, pytest.mark.slow]
#: what a card says of where it was cut from may differ; what a loader reads may not
LOADED = ("config.json", "elastic_member.json", "generation_config.json", "model.safetensors")

#: of the family that is trained, and of one that is made of a pruned model
TRAINED = {
    "budgets": [{"name": "full"}, {"name": "large", "ratio": 0.8}, {"name": "small", "ratio": 0.6}],
    "axes": {
        "hidden": [128, 112, 96],
        "ffn": {"choices": [512, 384, 256, 128], "stripes": 4},
        "mamba_heads": [16, 12, 8],
        "depth": [12, 11, 10],
    },
    "importance": {"samples": 2, "depth_samples": 2},
    "shapes": "even",
    "distill": {"teacher": "self"},
}
PRUNED = {
    "budgets": [{"name": "whole"}, {"name": "half", "ratio": 0.6}],
    "axes": {"hidden": [48, 24], "ffn": [64, 16]},
}


def measure(place: Path, parts: Collection[str]) -> dict[str, Any]:
    """Two steps of elastic training, into PLACE/checkpoint; the members that the model held at the end."""
    import fiddle
    import lightning.pytorch as pl

    from nemo_elastic.data.build import build_data
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from nemo_elastic.hosts.nemo.tiny.recipe import last_checkpoint, tiny_recipe

    quiet()
    build_data(place / "data", [library_text(place / "text", FEW)], vocab=500, held_out_problems=4)
    held: dict[str, Any] = {}

    class Recorder(pl.Callback):
        def on_train_end(self, trainer: Any, module: Any) -> None:
            names = [b.name for b in module.elastic_config.budgets]
            held.update({n: m.to_json() for n, m in zip(names, module.members.get(), strict=True)})

    recipe = tiny_recipe(place / "data", place / "run", steps=2, seq_length=64, micro_batch_size=2,
                         global_batch_size=2, eval_every=0, eval_sequences=2)  # fmt: skip
    recipe.model.config.vocab_size, recipe.model.config.make_vocab_size_divisible_by = 500, 64
    task = fiddle.build(apply_elastic(recipe, TRAINED, verbose=False, out=str(place / "elastic")))
    task.keywords["trainer"].callbacks.append(Recorder())
    task()
    last_checkpoint(place / "run").rename(place / "checkpoint")
    return held


trained = measured(measure)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory) -> Path:
    """ModelOpt has to be imported behind a mamba_ssm that is none: not in a fork of a process that has done so."""
    folder = tmp_path_factory.mktemp("pruned")
    command = [sys.executable, "-W", "ignore", "-m", "tests.hosts.nemo.prune_worker", str(folder)]
    env = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "checkpoint"


def fine(*arguments) -> str:
    """What the command line says, as a user meets it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as done:
        main([str(a) for a in arguments])
    assert not done.value.code, err.getvalue()
    return out.getvalue()


def tensors_of(source: Checkpoint) -> dict[str, torch.Tensor]:
    return {name: raw.torch() for name, raw in source.tensors.items()}


def logits(source: Checkpoint, tokens_bs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return NemotronH(source.parent, tensors_of(source), source.subnet, trainable=False)(tokens_bs)


# ------------------------------------------------------------------ there and back


@settings(max_examples=1)
@given(drawn=parents(pattern=st.permutations("M-*M-").map("".join)))
def test_any_model_goes_through_nemo_unchanged(drawn):
    parent = replace(drawn, tied=True)
    own = random_tensors(parent)
    with scratch() as place:
        write_nemo_checkpoint(place / "nemo", parent, parent.full, own)
        source = open_source(place / "nemo")
        assert (source.parent, source.subnet) == as_model(parent, parent.full)
        assert_equal(tensors_of(source), own)

        fine("convert", place / "nemo", "--format", "hf", "--out", place / "hf")
        report = json.loads(fine("convert", place / "hf", "--format", "nemo", "--out", place / "nemo2", "--json"))
        assert (report["format"], report["pattern"]) == ("nemo", parent.pattern)
        fine("convert", place / "nemo2", "--format", "hf", "--out", place / "hf2")
        assert contents(place / "hf") == contents(place / "hf2")
        again = open_source(place / "hf2")
        assert (again.parent, again.subnet) == as_model(parent, parent.full)
        assert_equal({t: v for t, v in tensors_of(again).items() if t in own}, own)


def test_what_lightning_logs_does_not_stand_before_the_json(tmp_path, monkeypatch):
    """NeMo-Run gives the root logger a handler that writes on stdout, and Lightning's messages may reach it."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_module

    folder = store(tmp_path / "nemo", PARENT, PARENT.full, random_tensors(PARENT))
    fine("convert", folder, "--format", "hf", "--out", tmp_path / "hf")
    handler, logger = logging.Handler(), logging.getLogger(rank_zero_module.log.name.partition(".")[0])
    handler.emit = lambda record: print(record.getMessage())
    monkeypatch.setattr(logger, "handlers", [*logger.handlers, handler])
    monkeypatch.setattr(logger, "level", logging.INFO)
    out = fine("convert", tmp_path / "hf", "--format", "nemo", "--out", tmp_path / "nemo2", "--json")
    assert json.loads(out)["format"] == "nemo"


# ------------------------------------------------------------------ a trained family


def test_what_training_left_is_the_family_that_it_trained(trained, tmp_path):
    checkpoint, held = trained / "checkpoint", json.loads((trained / "results.json").read_text())
    source = open_source(checkpoint)
    assert {name: member.to_json() for name, member in source.members.items()} == held
    assert source.parent.vocab == 512 and source.parent.ffn_stripes == 4  # 500 tokens, padded
    report = json.loads(fine("inspect", checkpoint, "--json"))
    assert list(report["members"]) == ["full", "large", "small"]

    last = shutil.copytree(checkpoint, tmp_path / "run" / "checkpoints" / "step=1-last")  # as a training leaves it
    fine("convert", tmp_path / "run", "--format", "hf", "--out", tmp_path / "family")
    assert Family.load(tmp_path / "family") == open_source(last).family
    assert verify(tmp_path / "family", parent=checkpoint, tokens=8).ok
    for name in source.members:
        fine("slice", last, "--member", name, "--out", tmp_path / "a" / name)
        fine("slice", tmp_path / "family", "--member", name, "--out", tmp_path / "b" / name)
        a, b = contents(tmp_path / "a" / name), contents(tmp_path / "b" / name)
        assert {file: a[file] for file in LOADED} == {file: b[file] for file in LOADED}, name


def test_the_tokenizer_goes_along(trained, pruned, tmp_path):
    fine("convert", trained / "checkpoint", "--format", "hf", "--out", tmp_path / "family")
    fine("slice", trained / "checkpoint", "--member", "small", "--out", tmp_path / "small")
    fine("slice", tmp_path / "family", "--member", "full", "--format", "nemo", "--out", tmp_path / "nemo")
    fine("convert", pruned, "--format", "hf", "--out", tmp_path / "pruned")
    words = (trained / "data" / "tokenizer" / "tokenizer.json").read_bytes()
    copied = tmp_path / "nemo" / "context" / "tokenizer"
    for folder in (tmp_path / "family", tmp_path / "small", copied):
        assert (folder / "tokenizer.json").read_bytes() == words, folder
    assert not list(copied.glob("*.safetensors")) and (tmp_path / "pruned" / "tokenizer.json").is_file()
    for name in ("family", "small", "pruned"):
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert isinstance(config["eos_token_id"], int) and isinstance(config["pad_token_id"], int), name


# ------------------------------------------------------------------ pruned by ModelOpt


def test_a_pruned_checkpoint_computes_what_it_computed_in_megatron(pruned, tmp_path):
    saved = np.load(pruned.with_name("logits.npz"))
    tokens_bs, wanted = torch.from_numpy(saved["tokens"]), torch.from_numpy(saved["logits"])
    fine("convert", pruned, "--format", "hf", "--out", tmp_path / "hf")
    for folder in (pruned, tmp_path / "hf"):
        torch.testing.assert_close(logits(open_source(folder), tokens_bs), wanted, rtol=1e-5, atol=1e-5)


def test_pruning_did_what_it_was_asked(pruned):
    parent = open_source(pruned).parent
    assert (parent.hidden, parent.ffn, parent.mamba_heads, parent.mamba_head_dim) == (48, 64, 6, 12)
    assert (parent.attention_heads, parent.kv_heads, parent.attention_head_dim, parent.vocab) == (4, 2, 8, 72)
    # the reason why no context is asked for the layers
    data = yaml.safe_load((pruned / "context" / "model.yaml").read_text())["config"]
    assert (parent.num_layers, data["num_layers"], len(data["hybrid_override_pattern"])) == (6, 6, 8)


def test_a_pruned_checkpoint_becomes_one_that_stock_nemo_builds(pruned, tmp_path):
    fine("convert", pruned, "--format", "nemo", "--out", tmp_path / "nemo")
    data = yaml.safe_load((tmp_path / "nemo" / "context" / "model.yaml").read_text())
    source = open_source(tmp_path / "nemo")
    assert data["config"]["hybrid_override_pattern"] == source.parent.pattern
    assert data["_target_"] == "nemo.collections.llm.gpt.model.ssm.MambaModel"
    assert_equal(tensors_of(source), tensors_of(open_source(pruned)))


def test_a_family_of_a_pruned_parent(pruned, tmp_path):
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({"elastic": PRUNED}))
    fine("init", pruned, "--config", tmp_path / "e.yaml", "--out", tmp_path / "family")
    assert verify(tmp_path / "family", parent=pruned, tokens=8).ok
    cut = slice_checkpoint(tmp_path / "family", tmp_path / "half", member="half")
    assert cut.subnet.hidden == 24 and (tmp_path / "family" / "tokenizer.json").is_file()


# ------------------------------------------------------------------ contexts without model.yaml


@pytest.mark.parametrize("which", ["trained", "pruned"])
def test_the_other_file_of_the_context_says_the_same(trained, pruned, tmp_path, which):
    folder = {"trained": trained / "checkpoint", "pruned": pruned}[which]
    wanted = read_shapes(folder)
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    (copy / "context" / "model.yaml").unlink()
    actual = read_shapes(copy)
    assert (actual.parent, actual.subnet, actual.family) == (wanted.parent, wanted.subnet, wanted.family)
    assert actual.config == wanted.config
    assert actual.companions.name == wanted.companions.name


def test_what_a_context_does_not_say_its_class_does(tmp_path):
    from nemo.collections.llm.gpt.model import ssm

    data = io_json([])
    made = {"module": "nemo.collections.llm.gpt.model.ssm", "name": "NemotronNano9Bv2"}
    data["objects"]["about"]["items"][0][1] = made
    (tmp_path / "io.json").write_text(json.dumps(data))
    read = read_io_json(tmp_path / "io.json", "model")["config"]
    wanted = ssm.NemotronNano9Bv2(apply_rope_fusion=False)
    for name in ("mamba_num_groups", "mamba_state_dim", "num_query_groups", "num_layers", "layernorm_epsilon"):
        assert read[name] == getattr(wanted, name), name
