# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that `--data` takes, by every command that takes it, with a family of 131,072 tokens."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nemo_elastic import load_family
from nemo_elastic.cli import cmd_quantize, cmd_specialize
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.encoded import Encoded
from nemo_elastic.data.eval_data import drawn_pieces, read_eval_data, training_rows
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.data.prepare import prepare
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation import answer_loss, by_member, known_answers, perplexity
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.tokenizer import FamilyTokenizer
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.rows import Rows
from nemo_elastic.quantize import activations
from nemo_elastic.ranking import RankOptions
from nemo_elastic.ranking.measure import rank
from nemo_elastic.slicing import streamed
from nemo_elastic.slicing.family_folder import write_family
from tests.data.large import VOCAB, asked, sums, write_gap, write_tokenizer
from tests.shapes import PARENT, short_family
from tests.slicing.helpers import run
from tests.workers import ROOT

FAMILY = short_family(VOCAB)
SHAPE = FAMILY.parent


def block_12b() -> dict[str, Any]:
    """The 12B's block with axes, budgets and samples of so small a parent."""
    config = ElasticConfig.load(ROOT / "conf" / "elastic_12b.yaml")
    budgets = (Budget("12b"), Budget("9b", ratio=0.8), Budget("6b", ratio=0.6))
    importance = replace(config.importance, samples=4, depth_samples=1)
    axes = {name: replace(axis, per_layer=False) for name, axis in FAMILY.axes.items()}
    return replace(config, axes=axes, budgets=budgets, importance=importance).to_dict()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family, its text and conversations, and folders of both."""
    place = tmp_path_factory.mktemp("given")
    tokenizer = write_tokenizer(place / "tokenizer")
    state = NemotronH.random(SHAPE, seed=4).state_dict()
    write_family(place / "family", SHAPE, state, FAMILY, tokenizer)
    write_family(place / "parent", SHAPE, state, FAMILY, tokenizer)
    (place / "parent" / "elastic.json").unlink()
    (place / "elastic.yaml").write_text(yaml.safe_dump({"elastic": block_12b()}))
    words = "def f(x): return x + 12  # naïve, 日本語, 😀\n"
    (place / "text.jsonl").write_text("\n".join(json.dumps({"text": f"{i} {words}" * 4}) for i in range(150)))
    (place / "chats.jsonl").write_text(sums(200))
    prepare(place / "text folder", [place / "text.jsonl"], tokenizer)
    prepare(place / "chat folder", [place / "chats.jsonl"], tokenizer)
    return place


def test_conversations_choose_shapes_and_calibrate(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands that are not in `READ`."""
    for name, value in (("TOKENS", 300), ("LENGTH", 16), ("CANDIDATES", 2)):
        monkeypatch.setattr(cmd_specialize, name, value)
    monkeypatch.setattr(known_answers, "examples", partial(known_answers.examples, most=64, prompt=8, answer=4))
    asked = (place / "family", "--data", place / "chats.jsonl", "--json")
    most = FAMILY.members[0].parameters - 1000
    code, out, err = run("specialize", *asked, "--params", most, "--out", tmp_path / "task")
    assert code == 0 and json.loads(out)["specialized"]["held_out_tokens"] > 0, err
    code, out, err = run("eval", *asked, "--calibrate")
    assert code == 0 and json.loads(out)["samples"] == 64, err


READ = {
    "init": ("--config", "elastic.yaml", "--seq-length", 32, "--out", "out"),
    "quantize": ("--to", "fp8", "--out", "out"),
    "eval": ("--tokens", 512, "--seq-length", 64),
}


@pytest.mark.parametrize(
    ("command", "form"),
    [
        *(("eval", form) for form in ("text.jsonl", "text folder", "chats.jsonl", "chat folder")),
        *(("init", form) for form in ("text.jsonl", "chat folder")),
        *(("quantize", form) for form in ("text folder", "chats.jsonl")),
    ],
)
def test_what_is_read_is_drawn_from_all_of_the_data(
    command: str, form: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much as the pages say, from both halves of the data, and the same again."""
    seen: list[list[int]] = []

    def stop(rows: Any) -> None:
        seen[:] = [list(map(int, row)) for row in rows]
        raise ElasticError("seen")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        streamed, "rank", lambda model, parent, rows, *_, **__: stop(r for b in rows for r in b.ids_bl)
    )
    monkeypatch.setattr(activations, "largest_inputs", lambda family, pieces, *_: stop(ids for (ids,) in pieces))
    monkeypatch.setattr(by_member, "answer_loss", lambda model, read, *_: stop(document.ids for document in read))
    monkeypatch.setattr(cmd_quantize, "PIECES", 4)
    monkeypatch.setattr(cmd_quantize, "PIECE", 64)
    block = block_12b()
    block["importance"]["samples"] = 64
    (tmp_path / "elastic.yaml").write_text(yaml.safe_dump({"elastic": block}))
    source = place / ("parent" if command == "init" else "family")
    line = (command, source, "--data", place / form, *READ[command])
    assert run(*line)[0] == 2
    first, texts = list(seen), form.startswith("text")
    assert run(*line)[0] == 2 and seen == first
    if texts or command != "eval":  # which takes conversations until there are enough answers
        assert len(seen) == {"init": 64, "quantize": 4, "eval": 8}[command]
    if texts or command == "quantize":
        assert {len(ids) for ids in seen} == {{"init": 32, "quantize": 64, "eval": 65}[command]}
    opened = FamilyTokenizer.read(place / "tokenizer")
    numbers = {int(n) for ids in seen for n in re.findall(r"(?:\n|is )(\d+) (?:def|\+)", opened.decode(ids))}
    half = 75 if texts else 100
    assert min(numbers) < half <= max(numbers) < 2 * half


def test_specialize_reads_as_much_as_its_help_says(place: Path, tmp_path: Path) -> None:
    lines = (json.dumps({"text": f"{i} " + "f(x) + 12 " * 60}) for i in range(2000))
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    halves = cmd_specialize._halves(tmp_path / "text.jsonl", open_source(place / "family"), True)
    assert 32_000 < halves.search.tokens <= 32_768 and 3.9 * 32_768 < halves.held_out.tokens <= 4 * 32_768
    assert halves.search.rows.ids_bl.shape[1] <= 513


@given(st.integers(0, 300), st.integers(1, 20), st.integers(1, 20), st.integers(0, 3))
def test_pieces_are_drawn_without_overlap(count: int, size: int, most: int, seed: int) -> None:
    pieces = drawn_pieces(np.arange(count), size, most, seed)
    whole = max(1, count // size)
    assert len(pieces) == min(most, whole) and {len(ids) for ids in pieces} == {min(size, count)}
    assert len({*np.concatenate(pieces)}) == sum(map(len, pieces))


def test_conversations_are_ranked_on_one_by_one(place: Path, tmp_path: Path) -> None:
    """By their answers: what is asked behind a conversation, and what padding makes of it, changes nothing."""
    few = tmp_path / "few.jsonl"
    few.write_text(sums(2))
    source, options = open_source(place / "family"), RankOptions(depth="cosine")
    actual = streamed.rank_streamed(source, streamed.Sequences(*training_rows(few, source, 2, 64)), options)
    texts = read_eval_data(few, source, "train").texts
    rows = [Rows(torch.tensor(t.ids[None, :-1]).long(), torch.tensor(t.counts[None, 1:]).float()) for t in texts]
    wanted = rank(Layers(load_family(source).model.weights()), SHAPE, rows, options)
    assert actual.provenance["counted"] == sum(r.counted for r in rows)
    for name, scores in wanted.scores.items():
        np.testing.assert_allclose(actual.scores[name], scores, rtol=1e-4, atol=1e-7)
    with pytest.raises(ElasticError, match=r"^--data: "):
        training_rows(few, source, 64, 64)


def test_a_chat_folder_is_read_by_its_own_tokenizer(place: Path, tmp_path: Path) -> None:
    """As in training: the parent's may have no chat template, or there may be none."""
    wanted = read_eval_data(place / "chat folder", open_source(place / "parent")).tokens
    bare = tmp_path / "bare"
    shutil.copytree(place / "parent", bare)
    (bare / "chat_template.jinja").unlink()
    np.testing.assert_array_equal(read_eval_data(place / "chat folder", open_source(bare)).tokens, wanted)
    with pytest.raises(ElasticError, match=r"line \d+: messages: .*bare/chat_template.jinja, or give rows"):
        read_eval_data(place / "chats.jsonl", open_source(bare))
    for file in bare.glob("tokenizer*"):
        file.unlink()
    np.testing.assert_array_equal(read_eval_data(place / "chat folder", open_source(bare)).tokens, wanted)


def test_what_was_left_out_is_told(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(sums(30) + asked("What?", ""))
    code, _, err = run("eval", place / "family", "--data", path, "--tokens", 2000, "--seq-length", 64)
    assert code == 0
    assert "1 of 31 conversations" in err and f"{path} line 31" in err


def test_a_conversation_is_read_from_its_beginning_and_answers_alone_count() -> None:
    shape = replace(PARENT, vocab=40)
    model = NemotronH.random(shape, seed=1)
    rng = np.random.default_rng(0)
    documents = [Encoded(None, rng.integers(2, 40, n), rng.random(n) < 0.4) for n in (5, 30, 12, 64, 7)]
    total = count = 0.0
    for ids, counts in ((document.ids, document.counts) for document in documents):
        logits_lv = model(torch.from_numpy(ids[None, :-1]))[0].detach().double().log_softmax(-1)
        losses = -logits_lv.gather(1, torch.from_numpy(ids[1:, None]))[:, 0].numpy()
        total, count = total + losses[counts[1:]].sum(), count + counts[1:].sum()
    result = answer_loss(model, documents, 64, batch=3)
    assert (result.nats, result.tokens) == (pytest.approx(total / count, rel=1e-5), count)
    assert answer_loss(model, documents, 64, batch=1).nats == pytest.approx(result.nats, rel=1e-6)
    ids = documents[3].ids
    assert answer_loss(model, [Encoded(None, ids)], 16).nats == pytest.approx(
        perplexity(model, ids, 16).nats, rel=1e-6
    )
    with pytest.raises(ElasticError, match=r"^data: "):
        answer_loss(model, [Encoded(None, ids, np.zeros(64, dtype=bool))], 8)


@pytest.mark.parametrize("what", ["vocabulary", "merges"])
def test_another_tokenizer_is_refused_by_what_differs(what: str, place: Path, tmp_path: Path) -> None:
    other = write_tokenizer(tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    if what == "merges":
        content["model"]["merges"] = content["model"]["merges"][:-1]
    else:
        vocab = content["model"]["vocab"]
        vocab["unused 7"], vocab["unused 8"] = vocab["unused 8"], vocab["unused 7"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    prepare(tmp_path / "chats", [place / "chats.jsonl"], other)
    with pytest.raises(ElasticError, match=f"another tokenizer than .*: the {what} differ"):
        read_eval_data(tmp_path / "chats", open_source(place / "family"))


def test_a_model_of_fewer_tokens_and_one_without_a_tokenizer(place: Path, tmp_path: Path) -> None:
    shape = replace(SHAPE, vocab=300)
    family = Family.of(shape, {"full": shape.full})
    write_family(tmp_path / "bare", shape, NemotronH.random(shape).state_dict(), family)
    bare = open_source(tmp_path / "bare")
    with pytest.raises(ElasticError, match=f"{VOCAB} tokens, but .*bare has 300"):
        read_eval_data(place / "text folder", bare)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ElasticError, match=r"--data: .*empty.jsonl has no text"):
        read_eval_data(tmp_path / "empty.jsonl", open_source(place / "family"))


def test_an_id_beyond_a_familys_rows_is_refused(small: DataFolder, tmp_path: Path) -> None:
    """A tokenizer of fewer tokens than the family has rows may have it."""
    (tmp_path / "text.jsonl").write_text('{"text": "near <far>"}\n' * 40)
    gap = write_gap(tmp_path / "tokenizer", small.tokenizer_dir)
    prepare(tmp_path / "data", [tmp_path / "text.jsonl"], gap)
    shape = replace(SHAPE, vocab=1000)
    family = Family.of(shape, {"full": shape.full})
    write_family(tmp_path / "family", shape, NemotronH.random(shape).state_dict(), family, gap)
    for data in ("data", "text.jsonl"):
        with pytest.raises(ElasticError, match=r"--data: .* 7000[01]\b.*family (has 1000|is 999)"):
            read_eval_data(tmp_path / data, open_source(tmp_path / "family"))
