# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic eval`, from its arguments to its table."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_elastic.core.manifest import Family
from nemo_elastic.data.build import save_tokenizer, train_tokenizer
from nemo_elastic.data.eval_data import drawn_pieces
from nemo_elastic.evaluation import answer_accuracy, perplexity
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.runtime.talking import overflowing
from tests.shapes import PARENT
from tests.slicing.helpers import run

PARENT_400 = replace(PARENT, vocab=400)
MEMBERS = {"12b": PARENT_400.full, "6b": PARENT_400.uniform(keep=(0, 1, 3), hidden=8, mamba_heads=4)}
QUICK = ("--tokens", 200, "--seq-length", 64, "--limit", 4)


@pytest.fixture(scope="module")
def model():
    return NemotronH.random(PARENT_400)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, data):
    out = tmp_path_factory.mktemp("family") / "family"
    return write_family(out, PARENT_400, model.state_dict(), Family.of(PARENT_400, MEMBERS), data.tokenizer_dir)


def test_json_has_the_figures_of_every_member(folder, data, model):
    code, out, err = run("eval", folder, "--data", data.path, *QUICK, "--json")
    assert code == 0 and not err
    rows = json.loads(out)
    family = FamilyRuntime(model, MEMBERS)
    assert [row["member"] for row in rows] == ["12b", "6b"]
    for row in rows:
        member = family.select(row["member"])
        losses = [perplexity(member, ids, 64).nats for ids in drawn_pieces(data.tokens("val"), 65, 4)]
        assert row["source"] == str(folder) and row["parameters"] == member.parameters
        assert row["loss"] == pytest.approx(sum(losses) / 4, rel=1e-6) and row["tokens"] == 256
        assert row["perplexity"] == pytest.approx(math.exp(row["loss"]), rel=1e-5)
        assert row["answers"] == answer_accuracy(member, data.problems()[:4], data.tokenizer_dir).to_json()


def test_the_table_names_members_losses_and_tasks(folder, data, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = run("eval", folder, "--data", data.path, *QUICK)
    assert code == 0
    rows = json.loads(run("eval", folder, "--data", data.path, *QUICK, "--json")[1])
    for row in rows:
        line = next(x for x in out.splitlines() if f" {row['member']} " in x)
        assert f"{row['parameters']:,}" in line and f"{row['loss']:.4f}" in line and "/4" in line and " 256 " in line


def test_some_members_of_several_sources(folder, data, tmp_path):
    slice_checkpoint(folder, tmp_path / "small", member="6b")
    quick = (*QUICK[:-1], 1)
    code, out, err = run("eval", folder, tmp_path / "small", "--data", data.path, "--member", "6b", *quick, "--json")
    rows = json.loads(out)
    assert code == 0, err
    assert [(row["source"], row["member"]) for row in rows] == [(str(folder), "6b"), (str(tmp_path / "small"), "6b")]
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-6) and rows[0]["answers"]["total"] == 1


def test_what_the_cases_of_bad_input_do_not_reach_is_one_line(folder, data, tmp_path, monkeypatch, model):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    save_tokenizer(train_tokenizer(["other words " * 9], 300), tmp_path / "other")
    other = write_family(
        tmp_path / "family", PARENT_400, model.state_dict(), Family.of(PARENT_400, MEMBERS), tmp_path / "other"
    )
    text = tmp_path / "text.txt"
    text.write_text("words and words")
    cases = [
        ((folder, "--tasks", "arc_easy"), "pip install 'lm-eval"),
        ((other, "--data", data.path), "another tokenizer"),
        ((folder, "--data", text, "--limit", 2), "--limit: belongs to "),
    ]
    for arguments, words in cases:
        code, out, err = run("eval", *arguments)
        assert code == 2 and not out and len(err.splitlines()) == 1 and words in err, (arguments, err)


def test_nothing_is_held_after_a_source(folder, data, monkeypatch):
    """Slices of a member are dropped before the next one is measured."""
    held = []
    monkeypatch.setattr(FamilyRuntime, "release", lambda self: held.append(self.slice_bytes) or self._selected.clear())
    assert run("eval", folder, "--data", data.path, *QUICK[:-1], 1)[0] == 0
    assert len(held) == 2 and held[0] == 0 < held[1]
    assert not torch.is_inference_mode_enabled()


def test_a_loss_that_is_no_number_is_an_error_that_names_the_member(folder, data, tmp_path):
    broken = overflowing(Path(shutil.copytree(folder, tmp_path / "broken")))
    code, out, err = run("eval", broken, "--data", data.path, *QUICK, "--json")
    assert (code, out) == (2, "") and err.startswith(f"error: {broken}: 12b: loss: ")


def test_tokens_outside_the_vocabulary_are_reported_before_anything_is_read(folder, data, tmp_path):
    wrong = Path(shutil.copytree(data.path, tmp_path / "data"))
    np.memmap(wrong / "val.bin", dtype="<u2", mode="r+")[-1] = 60_000
    code, out, err = run("eval", folder, "--data", wrong, *QUICK)
    assert (code, out) == (2, "") and f"error: {wrong}/val.bin: 60000 " in err and "Traceback" not in err
