# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that `--data` takes, by every command that takes it, with a family of 131,072 tokens."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_elastic import load_family
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.encoded import Encoded
from nemo_elastic.data.eval_data import read_eval_data
from nemo_elastic.data.folder import DataFolder
from nemo_elastic.data.prepare import prepare
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation import answer_loss, perplexity
from nemo_elastic.formats.folders import open_source
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking import Ranking, RankOptions
from nemo_elastic.ranking.measure import rank
from nemo_elastic.slicing.family_folder import write_family
from tests.data.large import VOCAB, asked, sums, write_gap, write_tokenizer
from tests.shapes import PARENT, short_family
from tests.slicing.helpers import run

FAMILY = short_family(VOCAB)
SHAPE = FAMILY.parent
FORMS = ("text", "chats", "text folder", "chat folder")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family, its text and conversations, and folders of both."""
    place = tmp_path_factory.mktemp("given")
    tokenizer = write_tokenizer(place / "tokenizer")
    state = NemotronH.random(SHAPE, seed=4).state_dict()
    write_family(place / "family", SHAPE, state, FAMILY, tokenizer)
    words = "def f(x): return x + 12  # naïve, 日本語, 😀\n"
    (place / "text").write_text("\n".join(json.dumps({"text": f"{i} {words * 4}"}) for i in range(150)))
    (place / "text").rename(place / "text.jsonl")
    (place / "chats.jsonl").write_text(sums(200))
    for kind in ("text", "chats"):
        prepare(place / f"{kind.removesuffix('s')} folder", [place / f"{kind}.jsonl"], tokenizer)
    return place


def given_by(place: Path, form: str) -> Path:
    return place / (form if "folder" in form else f"{form}.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_command_takes_it(form: str, place: Path, tmp_path: Path) -> None:
    data, family = given_by(place, form), place / "family"
    code, out, err = run("eval", family, "--data", data, "--tokens", 60, "--seq-length", 64, "--json")
    assert code == 0, err
    rows, source = json.loads(out), open_source(family)
    given = read_eval_data(data, source, most=60)
    assert given.is_chat == ("chat" in form) and given.tokens.max() > 2**16
    member = load_family(source).select("small")
    if given.is_chat:
        expected = answer_loss(member, given.documents, 64, max_tokens=60)
    else:
        expected = perplexity(member, given.tokens, 64, max_tokens=60)
    assert rows[1]["loss"] == pytest.approx(expected.nats) and rows[1]["tokens"] == expected.tokens >= 60
    small = ("--samples", 4, "--seq-length", 32, "--depth", "cosine", "--json")
    code, out, err = run("rank", family, "--data", data, "--out", tmp_path / "ranking", *small)
    assert code == 0 and len(json.loads(out)["depth"]) == 4, err
    seen = Ranking.load(tmp_path / "ranking").provenance
    assert seen["samples"] == 4 and ("counted" in seen) == given.is_chat and seen.get("counted", 1) < seen["tokens"]
    sizes = ("--tokens", 300, "--seq-length", 16, "--candidates", 2, "--ratio", 0.9)
    if "folder" not in form:  # little is held out there
        code, out, err = run("specialize", family, "--data", data, *sizes, "--out", tmp_path / "task.json", "--json")
        assert code == 0 and json.loads(out)["specialized"]["held_out_tokens"] > 0, err
        words = ("--samples", 64, "--prompt-tokens", 8, "--answer-tokens", 4, "--force", "--json")
        code, out, err = run("calibrate", family, "--data", data, *words)
        assert code == 0 and json.loads(out)["samples"] == 64, err


def test_conversations_are_ranked_on_one_by_one(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their answers: what is asked behind a conversation, and what padding makes of it, changes nothing."""
    few, out, size = tmp_path / "few.jsonl", tmp_path / "ranking", ("--seq-length", 64, "--depth", "cosine")
    few.write_text(sums(2))
    assert run("rank", place / "family", "--data", few, "--out", out, "--samples", 2, *size)[0] == 0
    source = open_source(place / "family")
    texts = read_eval_data(few, source, "train").texts
    rows = [Rows(torch.tensor(t.ids[None, :-1]).long(), torch.tensor(t.counts[None, 1:]).float()) for t in texts]
    wanted = rank(Layers(load_family(source).model.weights()), SHAPE, rows, RankOptions(depth="cosine"))
    actual = Ranking.load(out)
    assert actual.provenance["counted"] == sum(r.counted for r in rows)
    for name, scores in wanted.scores.items():
        np.testing.assert_allclose(actual.scores[name], scores, rtol=1e-4, atol=1e-7)
    code, _, err = run("rank", place / "family", "--data", few, "--out", tmp_path / "more", *size)
    assert code == 2 and "--samples: 64 is not allowed; at most the data's 2 conversations, or windows" in err


def test_what_was_left_out_is_told(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(sums(30) + asked("What?", ""))
    code, _, err = run("eval", place / "family", "--data", path, "--tokens", 2000, "--seq-length", 64)
    assert code == 0
    assert f"1 of 31 conversations with an empty answer, or none: left out; the first is {path} line 31" in err
    assert "the loss counts answers alone" in err


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
    with pytest.raises(ElasticError, match="no token counts"):
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
    with pytest.raises(ElasticError, match=f"another tokenizer than that of .*: their {what} differ"):
        read_eval_data(tmp_path / "chats", open_source(place / "family"))


def test_a_model_of_fewer_tokens_and_one_without_a_tokenizer(place: Path, tmp_path: Path) -> None:
    shape = replace(SHAPE, vocab=300)
    family = Family.of(shape, {"full": shape.full})
    write_family(tmp_path / "bare", shape, NemotronH.random(shape).state_dict(), family)
    bare = open_source(tmp_path / "bare")
    with pytest.raises(ElasticError, match=f"has {VOCAB} tokens of vocabulary, .*bare knows 300"):
        read_eval_data(place / "text folder", bare)
    with pytest.raises(ElasticError, match=r"tokenizer.json: no tokenizer here"):
        read_eval_data(place / "text.jsonl", bare)
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
        with pytest.raises(ElasticError, match=r"--data: .* 7000[01]\b.*family knows 1000"):
            read_eval_data(tmp_path / data, open_source(tmp_path / "family"))


def test_a_chat_folder_without_its_list_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "chat folder", tmp_path / "chats")
    (tmp_path / "chats" / "chat.json").write_text("[]")
    with pytest.raises(ElasticError, match=r"chat.json: \[\] is not allowed; a mapping"):
        read_eval_data(tmp_path / "chats", open_source(place / "family"))
