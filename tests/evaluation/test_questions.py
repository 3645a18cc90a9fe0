# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Questions with known answers: what counts as one, sampled from a member in memory and from a server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from nemo_elastic import load_family
from nemo_elastic.cli import main
from nemo_elastic.errors import ElasticError
from nemo_elastic.evaluation.questions import (
    Asking,
    Question,
    Score,
    ask_endpoint,
    ask_member,
    extract_answer,
    pass_at,
    read_questions,
)
from tests.runtime.talking import talking_family

ASKED = [{"role": "user", "content": "2 + 2?"}]


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        ("4", "4"),
        (" The answer is 4. ", "4"),
        ("<think>answer: 5</think>\nanswer: 4\n", "4"),
        ("two and two\n**Answer:** 4", "4"),
        ("Final answer: 1,234", "1234"),
        (r"so \boxed{\frac{1}{2}} it is, answer: no", r"\frac{1}{2}"),
        (r"\boxed{1} and then \boxed{ 2 }", "2"),
        (r"\boxed{1", r"\boxed{1"),
        ("4 is 2 + 2\n#### 4", "4"),
        ("answer: 1\nanswer: 2", "2"),
        ("answer: $12.50$", "12.50"),
        ("  Paris,\n France. ", "Paris, France"),
        ("", ""),
    ],
)
def test_the_answer_in_what_was_said(said: str, answer: str) -> None:
    assert extract_answer(said) == answer


def test_pass_at_k_is_the_share_of_draws_with_a_right_one() -> None:
    for samples in range(1, 7):
        for right in range(samples + 1):
            for k in range(1, samples + 1):
                draws = list(combinations(range(samples), k))
                assert pass_at(k, right, samples) == pytest.approx(sum(min(d) < right for d in draws) / len(draws))
    reported = Score((0, 3, 6), 6).to_json()
    assert (reported["accuracy"], reported["correct"], list(reported["pass_at"])) == (0.5, 9, ["1", "2", "4", "6"])
    assert reported["pass_at"]["1"] == pytest.approx(0.5) and reported["pass_at"]["6"] == pytest.approx(2 / 3)
    assert Score((1,) * 4 + (0,) * 4, 1).to_json()["interval"] == pytest.approx([0.053, 0.947], abs=0.01)


def test_questions_are_any_conversations_with_an_answer(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows: list[dict[str, Any]] = [
        {"messages": [*ASKED, {"role": "assistant", "content": "<think>2 and 2</think> The answer is 4."}]},
        {"messages": ASKED, "answer": 4},
        {"input": "2 + 2?", "output": "4"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_questions(path) == [Question(ASKED, "4")] * 3 and len(read_questions(path, 2)) == 2
    path.write_text(json.dumps({"messages": ASKED}))
    with pytest.raises(ElasticError, match=r"questions.jsonl line 1: no question with an answer"):
        read_questions(path)
    path.write_text("")
    with pytest.raises(ElasticError, match="has no questions"):
        read_questions(path)


def test_a_member_is_asked_by_its_template_and_samples_differ(tmp_path: Path) -> None:
    member = load_family(talking_family(tmp_path)).select("6b")
    greedy = member.generate(ASKED, 6)
    questions, seen = [Question(ASKED, extract_answer(greedy)), Question(ASKED, "nothing that it says")], []
    score = ask_member(member, questions, Asking(max_new_tokens=6), lambda *reported: seen.append(reported))
    assert (score, seen) == (Score((1, 0), 1), [(2, 1)])
    how = Asking(samples=6, temperature=5.0, max_new_tokens=2, batch=4)
    assert ask_member(member, questions[:1], how).right[0] < 6, "hot samples differ"
    assert ask_member(member, questions, how) == ask_member(member, questions, how)
    with pytest.raises(ElasticError, match="--samples: 2 is not allowed; 1 at temperature 0"):
        Asking(samples=2)
    (tmp_path / "bare").mkdir()
    plain = load_family(talking_family(tmp_path / "bare", template=None)).select("6b")
    said = extract_answer(plain.generate("2 + 2? ", 6))
    assert ask_member(plain, [Question(ASKED, said)], Asking(max_new_tokens=6)) == Score((1,), 1)


class Server(BaseHTTPRequestHandler):
    """Chat completions that say 4 for even seeds; what was asked is kept."""

    asked: list[dict[str, Any]]
    broken: str | None

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "key": self.headers["Authorization"], **request})
        said = "4" if request["seed"] % 2 == 0 else None
        body = self.broken or json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]})
        self.send_response(404 if self.broken == "no such model" else 200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, type[Server]]]:
    kind = type("Kind", (Server,), {"asked": [], "broken": None})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/v1", kind
        serving.shutdown()


def test_a_server_is_asked_as_openai_s_clients_ask(
    server: tuple[str, type[Server]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, kind = server
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    seen: list[tuple[int, int]] = []
    how = Asking(samples=4, temperature=0.6, max_new_tokens=7, batch=3)
    questions = [Question(ASKED, "4"), Question(ASKED, "5")]
    assert ask_endpoint(url, "9b", questions, how, lambda *reported: seen.append(reported)) == Score((2, 0), 4)
    assert seen[-1] == (8, 2) and len(kind.asked) == 8
    assert sorted(asked["seed"] for asked in kind.asked) == list(range(8))
    first = kind.asked[0]
    assert (first["path"], first["key"], first["model"]) == ("/v1/chat/completions", "Bearer secret", "9b")
    assert (first["messages"], first["temperature"], first["max_tokens"]) == (ASKED, 0.6, 7)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("no such model", "answers 404: no such model"),
        ("<html>", "gives no chat completion"),
        ('{"choices": []}', "gives no chat completion"),
        ('{"choices": [{"message": {"content": 4}}]}', "gives no chat completion"),
    ],
)
def test_a_server_that_refuses_is_one_line(broken: str, said: str, server: tuple[str, type[Server]]) -> None:
    url, kind = server
    kind.broken = broken
    with pytest.raises(ElasticError, match=f"--endpoint: {url}/chat/completions {said}"):
        ask_endpoint(url, "9b", [Question(ASKED, "4")], Asking())


def test_no_server_is_one_line() -> None:
    with pytest.raises(ElasticError, match="--endpoint: 'localhost' is not allowed; the URL of a server"):
        ask_endpoint("localhost", "9b", [Question(ASKED, "4")], Asking())
    with pytest.raises(ElasticError, match=r"cannot be reached \(.*refused"):
        ask_endpoint("http://127.0.0.1:9/v1", "9b", [Question(ASKED, "4")], Asking())


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as done:
        main(["eval", *map(str, words)])
    captured = capsys.readouterr()
    return int(done.value.code or 0), captured.out, captured.err


def test_the_command_asks_members_and_servers(
    tmp_path: Path, server: tuple[str, type[Server]], capsys: pytest.CaptureFixture[str]
) -> None:
    family, path = talking_family(tmp_path), tmp_path / "questions.jsonl"
    said = extract_answer(load_family(family).select("9b").generate(ASKED, 6))
    path.write_text("\n".join(json.dumps({"messages": ASKED, "answer": a}) for a in ("4", said or "?")))
    words = ("--questions", path, "--max-new-tokens", 6)
    code, out, err = run(capsys, family, "--member", "9b", *words, "--json")
    assert code == 0, err
    [row] = json.loads(out)
    assert row["member"] == "9b" and row["questions"]["questions"] == 2 and row["questions"]["samples"] == 1
    url, _ = server
    served = (*words, "--endpoint", url, "--model", "9b")
    code, out, err = run(capsys, *served, "--samples", 2, "--temperature", 1, "--json")
    assert code == 0, err
    [row] = json.loads(out)
    assert (row["source"], row["member"]) == (url, "9b") and row["questions"]["pass_at"] == {"1": 0.25, "2": 0.5}
    code, out, _ = run(capsys, *served)
    assert code == 0 and "pass@1" in out and "1/2" in out
    for wrong, line in (
        ((family, *words, "--endpoint", url), "--endpoint: give --model, the name of what answers there"),
        (("--questions", path), "eval: no source; name a family, or --endpoint URL"),
        ((family, "--samples", 2), "eval: nothing to measure"),
    ):
        code, _, err = run(capsys, *wrong)
        assert code == 2 and line in err
