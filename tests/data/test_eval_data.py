# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Everything that `--data` takes, by every command that takes it, with a family of 131,072 tokens."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from nemo_elastic import load_family
from nemo_elastic.cli import cmd_specialize
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.budget import Budget
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.encoded import Encoded
from nemo_elastic.data.eval_data import read_eval_data
from nemo_elastic.data.folder import ChatFolder, DataFolder
from nemo_elastic.data.prepare import prepare
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation import answer_loss, known_answers, perplexity
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.tokenizer import load_tokenizer, what_differs
from nemo_elastic.nn.forward import Layers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking import Ranking
from nemo_elastic.ranking.measure import rank
from nemo_elastic.slicing.family_folder import write_family
from tests.data.large import TEMPLATE, VOCAB, asked, sums, write_gap, write_tokenizer
from tests.documentation import blocks, named_files
from tests.hosts.pages import in_small
from tests.shapes import PARENT, short_family
from tests.slicing.helpers import run
from tests.texts import FEW, library_text
from tests.workers import ROOT, environment

FAMILY = short_family(VOCAB)
SHAPE = FAMILY.parent
#: lengths of the page's stages -> ours, of two and of three conversations
LENGTHS = {8192: 84, 49152: 126}
#: file of the page -> what stands for its sizes
SIZES = {
    "stage1.yaml": {"total_steps: 6960": "total_steps: 6", "seq_length: 8192": f"seq_length: {LENGTHS[8192]}",
                    "global_batch_size: 1536": "global_batch_size: 2", "max_steps: 5170": "max_steps: 4",
                    "num_nodes: 16": "num_nodes: 1", "val_check_interval: 500": "val_check_interval: 4",
                    "warmup_steps: 60": "warmup_steps: 1"},
    "stage2.yaml": {"total_steps: 6960": "total_steps: 6", "seq_length: 49152": f"seq_length: {LENGTHS[49152]}",
                    "global_batch_size: 512": "global_batch_size: 2", "max_steps: 1790": "max_steps: 2",
                    "num_nodes: 16": "num_nodes: 1", "val_check_interval: 200": "val_check_interval: 2",
                    "warmup_steps: 60": "warmup_steps: 1", "done_steps: 5170": "done_steps: 4"},
}  # fmt: skip

#: the narrow parent, in both stages
SMALL = {
    "model": {
        "config": {
            "hybrid_override_pattern": "-M-*",
            "num_layers": 4,
            "hidden_size": 16,
            "ffn_hidden_size": 16,
            "mamba_num_heads": 6,
            "mamba_head_dim": 4,
            "mamba_num_groups": 2,
            "mamba_state_dim": 4,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "kv_channels": 4,
        }
    },
    "data": {"num_workers": 0},
    "trainer": {
        "devices": 1,
        "limit_val_batches": 1,
        "strategy": {"tensor_model_parallel_size": 1, "sequence_parallel": False},
    },
}
FORMS = ("text", "chats", "text folder", "chat folder")


def block_12b() -> dict[str, Any]:
    """The 12B's block with axes, budgets and samples of so small a parent."""
    config = ElasticConfig.load(ROOT / "conf" / "elastic_12b.yaml")
    budgets = (Budget("12b"), Budget("9b", ratio=0.8), Budget("6b", ratio=0.6))
    assert [b.name for b in budgets] == [b.name for b in config.budgets]
    importance = replace(config.importance, samples=4, depth_samples=1)
    search = replace(config.search, candidates=4, tokens=64)
    axes = {name: replace(axis, per_layer=False) for name, axis in FAMILY.axes.items()}
    return replace(config, axes=axes, budgets=budgets, importance=importance, search=search).to_dict()


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
def test_every_command_takes_it(form: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    block = tmp_path / "elastic.yaml"
    block.write_text(yaml.safe_dump({"elastic": block_12b()}))
    small = ("--config", block, "--seq-length", 32, "--json")
    code, out, err = run("rank", family, "--data", data, "--out", tmp_path / "ranking", *small)
    assert code == 0 and len(json.loads(out)["depth"]) == 4, err
    seen = Ranking.load(tmp_path / "ranking").provenance
    assert seen["samples"] == 4 and ("counted" in seen) == given.is_chat and seen.get("counted", 1) < seen["tokens"]
    for name, value in (("TOKENS", 300), ("LENGTH", 16), ("CANDIDATES", 2)):
        monkeypatch.setattr(cmd_specialize, name, value)
    monkeypatch.setattr(known_answers, "examples", partial(known_answers.examples, most=64, prompt=8, answer=4))
    most = FAMILY.members[0].parameters - 1000
    if "folder" not in form:  # little is held out there
        code, out, err = run("specialize", family, "--data", data, "--params", most, "--out", tmp_path / "task", "--json")
        assert code == 0 and json.loads(out)["specialized"]["held_out_tokens"] > 0, err
        code, out, err = run("calibrate", family, "--data", data, "--force", "--json")
        assert code == 0 and json.loads(out)["samples"] == 64, err


@pytest.mark.nemo
@pytest.mark.slow
def test_the_page_from_conversations_to_answers(place: Path, tmp_path: Path) -> None:
    """Every command that makes data and of "From conversations to answers", as they stand there, but for sizes.

    A family is ranked, trained in both stages, cut and asked, with NeMo's own recipe of the 12B and the page's sizes.
    """
    page = ROOT / "docs" / "data.md"
    shown = [block for block in blocks("bash", page=page) if "--tokenizer parent/" in block.text][-2:]
    assert [words[1] for block in shown for words in block.commands()] == [
        *("data", "data", "rank", "eval"),
        *("data", "data", "convert", "train", "train", "convert", "eval", "slice", "chat"),
    ]
    for name in ("family", "parent"):
        (tmp_path / name).symlink_to(place / "family")
    for name, count in (("chats", 24), ("conversations/sums", 100)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.jsonl").write_text(sums(count))
    (tmp_path / "notes.jsonl").symlink_to(place / "text.jsonl")
    library_text(tmp_path / "corpus", FEW)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "elastic_12b.yaml").write_text(yaml.safe_dump({"elastic": block_12b()}))
    files = named_files(page)
    for name, sizes in SIZES.items():
        stage = OmegaConf.create(in_small(files[name], sizes))
        (tmp_path / name).write_text(OmegaConf.to_yaml(OmegaConf.merge(stage, SMALL)))
    first, second = (block.text for block in shown)
    lines = [
        f'nemo-elastic() {{ echo "== $1"; {shlex.quote(sys.executable)} -W ignore -m nemo_elastic "$@"; }}',
        in_small(first, {"--seq-length 128": "--seq-length 64"}),
        "rm family",  # the untrained one, in whose place the next comes
        in_small(second, {f"--seq-length {long}": f"--seq-length {short}" for long, short in LENGTHS.items()}),
    ]
    done = subprocess.run(
        ["/bin/bash", "-ec", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, timeout=1800,
        env=environment(NEMORUN_HOME=str(tmp_path / "home")),
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert DataFolder.open(tmp_path / "text").tokens("train").max() > 2**16
    assert "layers from least important" in done.stderr
    assert done.stdout.count("  trainer.accelerator: gpu -> cpu\n") == 2
    assert done.stdout.count("the loss counts answers alone") == 3, "of every folder of conversations"
    check_training(tmp_path)
    check_family(tmp_path, place / "tokenizer")
    answer, about = done.stdout.rpartition("== chat\n")[2], done.stderr.splitlines()[-1]
    asked_in_form = load_tokenizer(tmp_path / "6b").encode("<user>\nWhat is 12 + 34?\n<assistant>\n").ids
    assert answer.strip() and re.match(rf"\(6b: \d+ tokens after {len(asked_in_form)},", about), about


def check_training(place: Path) -> None:
    """Both stages ran on answers alone, the second where the first ended, and brought members closer to the parent."""
    ranked = Ranking.load(place / "runs" / "stage1" / "elastic" / "ranking").provenance
    assert 0 < ranked["counted"] < ranked["tokens"] / 2
    rates = []
    for stage, name, length, steps in ((1, "chats-8k", LENGTHS[8192], 4), (2, "chats-48k", LENGTHS[49152], 2)):
        packed = np.load(place / name / "training.npy", allow_pickle=True)
        made = ChatFolder.open(place / name)
        assert made.marked and len(packed) < 0.6 * made.conversations["train"], "several to a sequence"
        counted = [sum(row["loss_mask"]) for row in packed]
        lines = [json.loads(line) for line in (place / f"runs/stage{stage}/metrics.jsonl").read_text().splitlines()]
        taken = [line for line in lines if line["kind"] == "step"]
        tokens = np.diff([0, *(line["tokens"] for line in taken)])
        assert len(tokens) == steps and 2 * min(counted) <= tokens.min() <= tokens.max() <= 2 * max(counted) < length
        rates += [line["lr"] for line in taken]
        held_out = [line for line in lines if line["kind"] == "heldout"]
        for line in held_out:
            assert list(line["losses"]) == ["12b", "9b", "6b"] and np.isfinite([*line["losses"].values()]).all()
        if stage == 1:
            assert all(held_out[-1]["kl"][member] < held_out[0]["kl"][member] for member in ("9b", "6b"))
    assert rates == sorted(rates, reverse=True) and len({*rates[1:]}) == 5, "one schedule over both stages"


def check_family(place: Path, tokenizer: Path) -> None:
    """It and the member that was cut out have the sizes, the tokenizer and the chat template that they should have."""
    family, cut = open_source(place / "family"), open_source(place / "6b")
    assert list(family.members) == ["12b", "9b", "6b"]
    sizes = [parameters(family.parent, member) for member in family.members.values()]
    assert sizes[0] > sizes[1] > sizes[2] == parameters(cut.parent, cut.held)
    for source in (family, cut):
        assert what_differs(source.folder, tokenizer) is None
        assert (source.folder / "chat_template.jinja").read_text() == TEMPLATE


def test_conversations_are_ranked_on_one_by_one(
    place: Path,
    tmp_path: Path,
) -> None:
    """By their answers: what is asked behind a conversation, and what padding makes of it, changes nothing."""
    few, out, block = tmp_path / "few.jsonl", tmp_path / "ranking", tmp_path / "elastic.yaml"
    few.write_text(sums(2))
    config = block_12b()
    block.write_text(yaml.safe_dump({"elastic": config | {"importance": {"samples": 2, "depth": "cosine"}}}))
    line = ("rank", place / "family", "--data", few, "--seq-length", 64)
    assert run(*line, "--out", out, "--config", block)[0] == 0
    source = open_source(place / "family")
    texts = read_eval_data(few, source, "train").texts
    rows = [Rows(torch.tensor(t.ids[None, :-1]).long(), torch.tensor(t.counts[None, 1:]).float()) for t in texts]
    wanted = rank(Layers(load_family(source).model.weights()), SHAPE, rows, Ranking.load(out).options)
    actual = Ranking.load(out)
    assert actual.provenance["counted"] == sum(r.counted for r in rows)
    for name, scores in wanted.scores.items():
        np.testing.assert_allclose(actual.scores[name], scores, rtol=1e-4, atol=1e-7)
    code, _, err = run(*line, "--out", tmp_path / "more")
    assert code == 2 and err.startswith("error: --data: ") and err.count("\n") == 1


def test_what_was_left_out_is_told(place: Path, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(sums(30) + asked("What?", ""))
    code, _, err = run("eval", place / "family", "--data", path, "--tokens", 2000, "--seq-length", 64)
    assert code == 0
    assert (
        f"1 of 31 conversations with an empty answer or without an answer: left out; the first is {path} line 31"
        in err
    )
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
    with pytest.raises(ElasticError, match="counts no token"):
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
    with pytest.raises(ElasticError, match=f"has a vocabulary of {VOCAB} tokens, but .*bare has 300"):
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
        with pytest.raises(ElasticError, match=r"--data: .* 7000[01]\b.*family (has 1000|is 999)"):
            read_eval_data(tmp_path / data, open_source(tmp_path / "family"))


def test_a_chat_folder_without_its_list_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "chat folder", tmp_path / "chats")
    (tmp_path / "chats" / "chat.json").write_text("[]")
    with pytest.raises(ElasticError, match=r"chat.json: \[\] is not allowed; a mapping"):
        read_eval_data(tmp_path / "chats", open_source(place / "family"))
