# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The bridge to lm-eval: scoring and decoding without it, the whole way with it, and the page's task file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_elastic import load_family
from nemo_elastic.cli import main
from nemo_elastic.data.build import EOS_ID, save_tokenizer, train_tokenizer
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation import harness
from nemo_elastic.evaluation.scoring import greedy_answers
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime import FamilyRuntime
from tests.documentation import blocks, named_files
from tests.runtime.talking import talking_family
from tests.shapes import PARENT
from tests.workers import ROOT

MEMBER = FamilyRuntime(NemotronH.random(PARENT, dtype=torch.float64)).select(PARENT.uniform(hidden=8, keep=(0, 1, 3)))
token = st.integers(0, PARENT.vocab - 1)
ids = st.lists(token, min_size=1, max_size=6)


@settings(max_examples=30)
@given(pairs=st.lists(st.tuples(ids, ids | st.just([])), min_size=1, max_size=5), batch=st.integers(1, 3))
def test_scores_are_those_of_each_pair_alone(pairs, batch):
    actual = harness.score_continuations(MEMBER, pairs, batch)
    for (context, rest), (logprob, greedy) in zip(pairs, actual):
        logprobs = MEMBER(torch.tensor([[*context, *rest]]))[0].log_softmax(-1)
        at = range(len(context) - 1, len(context) + len(rest) - 1)
        assert logprob == pytest.approx(sum(logprobs[i, t].item() for i, t in zip(at, rest)), rel=1e-5, abs=1e-5)
        assert greedy == all(logprobs[i].argmax().item() == t for i, t in zip(at, rest))


@settings(max_examples=20)
@given(prompts=st.lists(ids, min_size=1, max_size=5), end=token)
def test_generation_drops_the_end_and_keeps_the_order(prompts, end):
    limits = list(range(1, len(prompts) + 1))
    actual = greedy_answers(MEMBER, prompts, limits, end, 2)
    for prompt, limit, new in zip(prompts, limits, actual):
        alone = MEMBER.generate([prompt], limit, (end,))[0]
        assert new == (alone[:-1] if alone[-1] == end else alone)


def test_text_is_cut_at_the_first_stop():
    assert harness.cut_at("one\ntwo. three", ["\n\n", ".", "\n"]) == "one"
    assert harness.cut_at("one", ["\n", ""]) == "one"


def test_settings_of_a_task():
    assert harness._generation({"until": "\n", "max_gen_toks": 5}) == (["\n"], 5)
    assert harness._generation({"until": ["a", "b"], "max_new_tokens": 7, "do_sample": False}) == (["a", "b"], 7)
    assert harness._generation({"do_sample": True, "temperature": 0.0}) == ([], 256)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"do_sample": True, "temperature": 0.7}, "do_sample"),
        ({"until": 5}, "until"),
        ({"until": ["a", 5]}, "until"),
        ({"max_gen_toks": "x"}, "max_gen_toks"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_settings_of_a_task_that_are_refused(settings, field):
    with pytest.raises(ElasticError) as refused:
        harness._generation(settings)
    assert refused.value.at == (field,)


def test_the_whole_way_through_lm_eval(tmp_path, monkeypatch):
    """Three kinds of requests of two local tasks, against what they are by hand."""
    tasks = pytest.importorskip("lm_eval.tasks", reason="optional: pip install 'lm-eval>=0.4.13'")
    # to read its own thousands of tasks takes most of the time
    monkeypatch.setattr(tasks, "TaskManager", partial(tasks.TaskManager, include_defaults=False))
    texts = [f"{a} plus {b} is {a + b}." for a in range(9) for b in range(9)]
    tokenizer = train_tokenizer(texts, 300)
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    parent = replace(PARENT, vocab=300)
    member = FamilyRuntime(NemotronH.random(parent, dtype=torch.float64)).select()
    rows = [{"q": f"{a} plus 2 is", "options": ["3", "4", "11"], "gold": 1, "text": texts[a]} for a in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    common = (
        "dataset_path: json\ndataset_kwargs: {data_files: {test: " + str(tmp_path / "rows.jsonl") + "}}\n"
        "test_split: test\n"
    )
    (tmp_path / "sums").mkdir()
    (tmp_path / "sums" / "choice.yaml").write_text(
        "task: sums_choice\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{gold}}'\n"
        "doc_to_choice: '{{options}}'\nmetric_list: [{metric: acc}]\n" + common
    )
    (tmp_path / "sums" / "rolling.yaml").write_text(
        "task: sums_rolling\noutput_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
        "metric_list: [{metric: word_perplexity}]\n" + common
    )
    (tmp_path / "sums" / "say.yaml").write_text(
        "task: sums_say\noutput_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '4'\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 4}\nmetric_list: [{metric: exact_match}]\n" + common
    )
    names = ["sums_choice", "sums_rolling", "sums_say"]
    actual = harness.Harness(names, tmp_path / "sums").run(member, tmp_path / "tokenizer", limit=5)

    def encode(text):
        return tokenizer.encode(text).ids

    right = logprob = words = said = 0
    for row in rows[:5]:
        context = encode(row["q"])
        pairs = [(context, encode(f"{row['q']} {o}")[len(context) :]) for o in row["options"]]
        scores = [s for s, _ in harness.score_continuations(member, pairs, 3)]
        right += scores.index(max(scores)) == row["gold"]
        logprob += harness.score_continuations(member, [([EOS_ID], encode(row["text"]))], 1)[0][0]
        words += len(row["text"].split())
        text = tokenizer.decode(member.generate([context], 4, (EOS_ID,))[0])
        said += harness.cut_at(text, ["."]) == "4"
    assert actual["sums_choice"]["acc"] == right / 5
    assert actual["sums_rolling"]["word_perplexity"] == pytest.approx(2.718281828 ** (-logprob / words), rel=1e-5)
    assert actual["sums_say"]["exact_match"] == said / 5
    with pytest.raises(ElasticError, match="no task 'sums_nothing'"):
        harness.Harness(["sums_nothing"], tmp_path / "sums")
    say = (tmp_path / "sums" / "say.yaml").read_text()
    (tmp_path / "sums" / "say.yaml").write_text(say.replace("['.']", "5"))
    with pytest.raises(ElasticError, match=r"^--tasks: sums_say: until: "):  # before any member is read
        harness.Harness(names, tmp_path / "sums")


@pytest.mark.slow
def test_members_answer_the_page_s_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows are as the page has them: their solution ends in another answer than is right."""
    pytest.importorskip("lm_eval", reason="`pip install -e .[dev]` brings it")
    page, asked = ROOT / "docs" / "evaluation.md", ("2 + 2?", "The first of 12 apples?", "def f(x):")
    talking_family(tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "questions.yaml").write_text(named_files(page)["tasks/questions.yaml"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    said = load_family("family").select("9b").generate(list(asked), 256)
    answers = [re.sub(r".*(answer is|answer:|####)", "", s.strip("\n").split("\n")[-1]).strip() for s in said]
    right = (answers[0], "nothing that it says", answers[2])
    rows = ({"input": q, "output": "The answer is no.", "answer": a} for q, a in zip(asked, right, strict=True))
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    commands = (each for block in blocks("bash", page=page) for each in block.commands())
    command = next(each for each in commands if {"nemo-elastic", "questions"} <= {*each})
    with pytest.raises(SystemExit) as done:
        main([*command[1:], "--member", "9b", "--json"])
    captured = capsys.readouterr()
    assert done.value.code in (None, 0), captured.err
    [row] = json.loads(captured.out)
    assert row["tasks"] == {"questions": {"exact_match,last_line": pytest.approx(2 / 3)}}
