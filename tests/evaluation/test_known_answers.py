# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic eval --calibrate`, from held-out prompts to auto.json and a family that chooses by it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nemo_elastic.core.manifest import Family
from nemo_elastic.data.encoded import Encoded
from nemo_elastic.data.eval_data import EvalData
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation.known_answers import (
    COST_SETTINGS,
    Measured,
    against_random,
    examples,
    held_out,
    measure,
    random_mix,
)
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.rows import Rows
from nemo_elastic.runtime import load_family
from nemo_elastic.serving.calibration import FILE, read_calibration
from nemo_elastic.slicing.family_folder import write_family
from tests.runtime.talking import overflowing
from tests.serving.calibrated import NAMES, PARAMETERS, made, signals_of
from tests.shapes import PARENT as SHAPE
from tests.slicing.helpers import run

COSTS = np.array([0.0, 0.4, 1.0])


@pytest.mark.parametrize(
    ("quality", "cost", "expected"),
    [
        ([0.0, 0.9, 1.0], 0.2, [0.5, 0.5, 0.0]),  # the middle one is above the line between the ends
        ([0.0, 0.1, 1.0], 0.25, [0.75, 0.0, 0.25]),  # and below it
        ([0.0, 0.9, 1.0], 0.4, [0.0, 1.0, 0.0]),
        ([0.0, 0.5, 1.0], 0.0, [1.0, 0.0, 0.0]),
        ([0.0, 0.5, 1.0], 1.0, [0.0, 0.0, 1.0]),
    ],
)
def test_the_best_lottery(quality, cost, expected):
    assert random_mix(COSTS, np.array(quality), cost) == pytest.approx(expected)


def test_a_random_choice_gains_nothing_and_foresight_does():
    rng = np.random.default_rng(0)
    right = (rng.random((4000, 1)) < [0.5, 0.7, 1.0]).astype(float)
    blind = against_random(rng.choice(3, 4000, p=[0.7, 0.0, 0.3]), COSTS, right)
    assert abs(blind.gain) < 2 * blind.half_width and 0.005 < blind.half_width < 0.03
    seen = against_random(np.where(right[:, 0] == 1, 0, 2), COSTS, right)
    assert seen.quality == 1.0 and seen.gain - seen.half_width > 0.15
    assert seen.cost == pytest.approx((right[:, 0] == 0).mean()) and seen.gain == pytest.approx(1 - seen.random)


def test_prompts_of_one_document_are_one_witness():
    """The same answers ten times over are no surer than once."""
    rng = np.random.default_rng(1)
    quality_nm, chosen = rng.random((50, 3)), rng.integers(3, size=50)
    once = against_random(chosen, COSTS, quality_nm)
    often = against_random(np.tile(chosen, 10), COSTS, np.tile(quality_nm, (10, 1)), np.tile(np.arange(50), 10))
    assert often.gain == pytest.approx(once.gain) and often.half_width == pytest.approx(once.half_width)
    unaware = against_random(np.tile(chosen, 10), COSTS, np.tile(quality_nm, (10, 1)))
    assert unaware.half_width < once.half_width / 3


PARENT = replace(SHAPE, vocab=400)
MEMBERS = {
    "12b": PARENT.full,
    "9b": PARENT.uniform(keep=(0, 1, 3, 4), hidden=12, ffn=12, mamba_heads=4),
    "6b": PARENT.uniform(keep=(0, 1, 3), hidden=8, ffn=8, mamba_heads=4),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory, data) -> Path:
    out = tmp_path_factory.mktemp("family") / "family"
    state = NemotronH.random(PARENT, seed=3, scale=1.5).state_dict()
    return write_family(out, PARENT, state, Family.of(PARENT, MEMBERS), data.tokenizer_dir)


@pytest.fixture
def folder(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "family"))


def prompts_and_answers(rows: Rows) -> list[tuple[list[int], list[int]]]:
    counted = [counts.nonzero()[:, 0].tolist() for counts in rows.counts_bl]
    parts = [(ids.tolist(), at[0] + 1, at[-1] + 2) for ids, at in zip(rows.ids_bl, counted, strict=True)]
    return [(ids[:start], ids[start:end]) for ids, start, end in parts]


def test_the_command_writes_what_the_family_then_chooses_by(folder, data):
    code, out, err = run("eval", folder, "--data", data.path, "--calibrate", "--json")
    report = json.loads(out)
    assert (code, err) == (0, "") and report["samples"] >= 64 and report["out"] == str(folder / FILE)
    assert [row["member"] for row in report["members"]] == ["6b", "9b", "12b"]
    assert [row["cost"] for row in report["members"]][::2] == [0, 1]
    assert [row["dial"] for row in report["auto"]] == list(COST_SETTINGS)
    assert all(row["interval"][0] <= row["gain"] <= row["interval"][1] for row in report["auto"])
    family = load_family(folder)
    given = examples(EvalData.of(data))
    assert len(given) == report["samples"]
    own = {name: family.select(name).parameters for name in family.names}
    calibration = read_calibration(folder, own)
    prompts = [prompt for prompt, _ in prompts_and_answers(given)]
    chosen = calibration.choose(np.array([signals_of(family.select("6b"), prompt) for prompt in prompts]), 0.5)
    costs = [row["cost"] for row in report["members"]]
    assert sum(costs[member] for member in chosen) / len(given) == pytest.approx(0.5, abs=0.03)
    code, out, err = run("eval", folder, "--data", data.path, "--calibrate", "--force")
    assert code == 0 and "random_nats" in out and "±" in out
    shows = any(row["interval"][0] > 0 for row in report["auto"])
    assert ("warning: no gain is above 0" in err) == (not shows) and err.endswith(f"written: {folder / FILE}\n")
    assert read_calibration(folder, own) == calibration, "the same prompts are sampled"


def test_examples_are_problems_and_pieces_that_do_not_overlap(data):
    given = prompts_and_answers(examples(EvalData.of(data), 64, 20, 6))
    problems, pieces = given[:8], given[8:]
    assert all((len(prompt), len(answer)) == (20, 6) for prompt, answer in pieces) and len(pieces) == 56
    text = data.tokenizer().decode(problems[0][0] + problems[0][1])
    assert text.startswith("question: ") and "\nsteps:" in text and "answer: " in text
    stream = data.tokens("val").tolist()
    texts = [prompt + answer for prompt, answer in pieces]
    starts = [next(i for i in range(0, len(stream), 26) if stream[i : i + 26] == text) for text in texts]
    assert starts == sorted(set(starts))
    same, other = (prompts_and_answers(examples(EvalData.of(data), 64, 20, 6, seed)) for seed in (0, 1))
    assert same == given != other
    with pytest.raises(ElasticError, match=r"^--data: has \d+ prompts"):
        examples(EvalData.of(data), 512, 500, 500)


def test_answers_that_no_template_marks_are_not_known():
    chats = EvalData([Encoded(None, np.arange(2, 90), np.ones(88, dtype=bool))] * 100)
    with pytest.raises(ElasticError, match=r"^--data: .*generation"):
        examples(chats)
    half = np.arange(88) >= 44
    assert len(examples(EvalData([Encoded(None, np.arange(2, 90), half)] * 100), 70)) == 70


def test_as_many_prompts_are_read_as_the_help_says(data, monkeypatch):
    given = examples(EvalData([Encoded(None, np.arange(100_000) % 400)]))
    assert given.ids_bl.shape == (512, 96) and int(given.every_count().sum()) == 512 * 32
    monkeypatch.setattr(type(data), "problems", lambda self, known=data.problems(): known * 99)
    mixed = EvalData.of(data)
    monkeypatch.setattr(EvalData, "tokens", np.arange(100_000) % 400)
    assert sum(row[0] == data.end_id for row in examples(mixed).ids_bl.tolist()) == 256


def test_what_is_measured_is_the_answer_alone(folder, data):
    """Signals as a running family reads them; quality as one forward of each member gives it."""
    family, rows = load_family(folder), examples(EvalData.of(data), 64, 20, 6)
    seen, given = [], prompts_and_answers(rows)
    measured = measure(family, rows, batch=5, done=seen.append)
    assert sum(seen) == 64 * 3 and measured.members == ("6b", "9b", "12b")
    small = family.select("6b")
    for i in (0, 3, 20, 33):
        prompt, answer = given[i]
        assert measured.signals_ns[i] == pytest.approx(signals_of(small, prompt), rel=1e-3, abs=1e-4)
        for column, name in enumerate(measured.members):
            logits_lv = family.select(name)(torch.tensor([prompt + answer]))[0, :-1]
            loss = F.cross_entropy(logits_lv[len(prompt) - 1 :], torch.tensor(answer))
            assert measured.quality_nm[i, column] == pytest.approx(-float(loss), rel=1e-4)


def test_each_half_is_chosen_for_by_the_other():
    """Signals that say what is gained are worth it on prompts that were not fitted; others are worth nothing."""
    signals_ns, quality_nm = made(600)
    rows = held_out(Measured(NAMES, PARAMETERS, signals_ns, quality_nm))
    assert all(row.gain - row.half_width > 0.1 for row in rows)
    assert [row.cost for row in rows] == pytest.approx(COST_SETTINGS, abs=0.05)
    blind = np.random.default_rng(5).permutation(signals_ns)
    rows = held_out(Measured(NAMES, PARAMETERS, blind, quality_nm))
    assert all(row.gain < 2 * row.half_width for row in rows)


def test_members_that_give_no_numbers_are_not_calibrated(folder, data):
    code, out, err = run("eval", overflowing(folder), "--data", data.path, "--calibrate")
    assert (code, out) == (2, "") and err.strip().startswith("error: logits: ") and not (folder / "auto.json").exists()
