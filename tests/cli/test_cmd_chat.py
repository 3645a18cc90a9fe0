# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic chat`: one answer, lines from another program, and a terminal with a person before it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_elastic.cli import main
from nemo_elastic.cli.cmd_chat import _show, _typed
from nemo_elastic.runtime import load_family
from tests.runtime.talking import overflowing, talking_family

SUMMARY = (
    r"\(6b: \d+ tokens after \d+, [\d.]+ tokens/s; "
    r"[\d.]+ KiB of weights for 3 members( \+ [\d.]+ \w+ for members)?, [\d.]+ [MG]iB in all\)\n"
)
SHORT = ("--max-new-tokens", "12")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return talking_family(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return talking_family(tmp_path_factory.mktemp("plain"), template=None)


@pytest.fixture
def chat(capsys, monkeypatch):
    def run(*arguments: object, stdin: str | bytes = "") -> tuple[object, str, str]:
        words = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(words), encoding="utf-8"))
        with pytest.raises(SystemExit) as ended:
            main(["chat", *map(str, arguments)])
        return (ended.value.code or 0, *capsys.readouterr())

    return run


def shown(text: str) -> str:
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def test_one_answer(folder, plain, chat):
    """The text alone on stdout, what it took on stderr."""
    member = load_family(folder).select("6b")
    code, out, err = chat(folder, "def f(x):", "--member", "6b", *SHORT)
    expected = member.generate([{"role": "user", "content": "def f(x):"}], 12)
    assert (code, out) == (0, shown(expected) + "\n") and re.fullmatch(SUMMARY, err)
    how = ("--temperature", "0.9", "--seed", "3")
    expected = load_family(plain).select("6b").generate("Hi", 12, temperature=0.9, seed=3)
    code, out, _ = chat(plain, "-", "--member", "6b", *how, *SHORT, stdin="Hi\n")
    assert (code, out) == (0, shown(expected) + "\n")


def test_json(folder, plain, chat):
    member = load_family(plain).select("12b")
    code, out, err = chat(plain, "def f(x):", "--json", *SHORT)
    report = json.loads(out)
    assert code == 0 and err == "" and out.isascii()
    assert report["text"] == member.generate("def f(x):", 12) and report["source"] == str(plain)
    assert (report["member"], report["parameters"], report["new_tokens"]) == ("12b", member.parameters, 12)
    assert report["prompt_tokens"] == len(load_family(plain).tokenizer.encode("def f(x):"))
    assert report["tokens_per_second"] == pytest.approx(12 / report["seconds"])
    assert 0 < report["bytes"]["weights"] < report["bytes"]["process"]


def test_a_draft_answers_nothing_itself(plain, chat):
    """The same text; what was drafted is reported. For a member of its own size nothing is drafted."""
    arguments = (plain, "def f(x):", *SHORT)
    code, out, err = chat(*arguments, "--draft", "6b")
    assert (code, out) == (0, chat(*arguments)[1])
    match = re.search(r"tokens/s, (\d+) of (\d+) accepted that 6b drafted; ", err)
    assert match and int(match[1]) <= int(match[2])
    draft = json.loads(chat(*arguments, "--draft", "6b", "--json")[1])["draft"]
    assert draft == {"member": "6b", "drafted_tokens": int(match[2]), "accepted_tokens": int(match[1])}
    assert json.loads(chat(*arguments, "--draft", "6b", "--member", "6b", "--json")[1])["draft"] is None
    _, _, err = chat(plain, "--draft", "9b", stdin="/member\n/member 9b\n")
    assert "[12b], 9b, 6b: " in err and err.count(" parameters answer, 9b drafts\n") == 1


def test_lines_of_another_program_are_one_conversation(folder, chat):
    lines = "Hi\n/member 9b\n\nMore\n//think\n/reset\nHi\n/member\n/help\n/quit\nnever\n"
    code, out, err = chat(folder, "--member", "6b", *SHORT, stdin=lines)
    family = load_family(folder)
    said, expected = [], ""
    for name, text in (("6b", "Hi"), ("9b", "More"), ("9b", "/think"), ("9b", None), ("9b", "Hi")):
        if text is None:
            said = []
            continue
        said.append({"role": "user", "content": text})
        answer = family.select(name).generate(said, 12)
        said.append({"role": "assistant", "content": answer})
        expected += shown(answer) + "\n"
    assert (code, out) == (0, expected)
    assert err.count("12b, [9b], 6b: ") == 2 and "forgotten" in err and "/member NAME" in err


def test_the_runtime_extra_is_enough(folder):
    """A chat template is rendered, tokens are drawn, and nothing of NeMo's or transformers' was imported."""
    code = (
        "import sys\n"
        "from nemo_elastic.cli import main\n"
        "try: main(['chat', *sys.argv[1:]])\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    arguments = [str(folder), "Hi", "--temperature", "1", *SHORT]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=1800)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"torch", "tokenizers", "jinja2"} <= loaded, done.stderr
    assert not loaded & {"transformers", "nemo", "megatron", "lightning", "nemo_run", "pandas", "huggingface_hub"}


@pytest.mark.parametrize(
    ("arguments", "stdin", "line"),
    [
        (("{f}", "Hi", "--draft", "7b"), "", "--draft: '7b'"),
        (("{p}", ""), "", "prompts[0]: []"),
        (("{f}", "-"), b"\xff", "stdin: "),
        (("{f}", "\udcff"), "", r"prompts: '\udcff'"),
        (("{f}",), "/member 7b\n", "member: '7b'"),
        (("{f}",), "/mmbr 9b\n", "line: '/mmbr 9b'"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(folder, plain, chat, arguments, stdin, line):
    arguments = [a.replace("{f}", str(folder)).replace("{p}", str(plain)) for a in arguments]
    code, _, err = chat(*arguments, stdin=stdin)
    assert code == 2 and err.startswith(f"error: {line}") and err.count("\n") == 1, err


def test_what_a_model_writes_does_not_reach_the_terminal_raw(capsys):
    _show("a\x1b[31mred\x07\x9b2J\u202e\r\n\tb\x00")
    assert capsys.readouterr().out == "a\\x1b[31mred\\x07\\x9b2J\\u202e\\r\n\tb\\x00"


def test_answers_that_go_into_a_file_have_no_marks_between(capsys, monkeypatch):
    """`chat family/ > answers`: the mark of a line stands on stderr."""
    asked = []
    monkeypatch.setattr("builtins.input", lambda mark: asked.append(mark) or "Hi")
    assert next(_typed(SimpleNamespace(name="6b"))) == "Hi" and asked == [""]
    assert capsys.readouterr() == ("", "6b> ")


def test_names_and_templates_do_not_reach_the_terminal_raw(tmp_path, chat):
    hostile = talking_family(tmp_path, template="{{ raise_exception('\x1b[31m no') }}")
    path = hostile / "elastic.json"
    family = json.loads(path.read_text())
    family["members"] = {n.replace("6b", "6b\x1b[31m"): m for n, m in family["members"].items()}
    path.write_text(json.dumps(family))
    for stdin in ("/member\n", "Hi\n"):
        _, out, err = chat(hostile, stdin=stdin)
        assert "\x1b" not in out + err and ("\\x1b" in err)


# ------------------------------------------------------------------ a terminal


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        master, slave = pty.openpty()
        env = os.environ | {"TERM": "dumb", "OMP_NUM_THREADS": "1"}
        # In a session of its own it takes the terminal, so that Ctrl-C on it is a signal. Not in a `preexec_fn`: a
        # process with threads, as a worker of the tests is, may for ever wait there for a lock of one of them.
        take = (
            "import fcntl, os, sys, termios as t; fcntl.ioctl(0, t.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-W", "ignore", "-m", "nemo_elastic", "chat", *arguments]
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", take, *command],
            stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        self.master, self.read = master, ""

    def until(self, words: str, seconds: float = 900) -> str:
        """Read up to some words; gives what came before them."""
        ends = time.monotonic() + seconds
        while words not in self.read:
            if time.monotonic() > ends:
                raise TimeoutError(self.read)
            if select.select([self.master], [], [], 1)[0]:
                self.read += os.read(self.master, 4096).decode(errors="replace")
        before, _, self.read = self.read.partition(words)
        return before

    def begins(self) -> None:
        """Wait until there is something to read."""
        while not self.read.strip():
            self.read += os.read(self.master, 4096).decode(errors="replace")

    def type(self, words: str) -> None:
        os.write(self.master, words.encode())

    def interrupt(self) -> str:
        """Press Ctrl-C until it is seen; gives what came before it was.

        A signal that comes between `input`'s prompt and its wait for a key is seen with the next key only.
        """
        ends = time.monotonic() + 300
        while time.monotonic() < ends:
            self.type("\x03")
            with contextlib.suppress(TimeoutError):
                return self.until("interrupted", 10)
        raise TimeoutError(self.read)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for one in opened:
        one.close()


@pytest.mark.slow
def test_ctrl_c_ends_the_answer_and_not_the_session(plain, terminal):
    one = Terminal(str(plain), "--member", "6b", "--max-new-tokens", "1000000")
    terminal.append(one)
    begin = one.until("6b> ")
    assert "12b, 9b, [6b]: " in begin and "The family has no chat template: the member continues your text." in begin
    one.type("def f(\r")
    one.until("def f(")
    one.begins()
    assert "Traceback" not in one.interrupt()
    summary = one.until("6b> ")
    found = re.search(r"6b: (\d+) tokens after", summary)
    assert found and 0 < int(found[1]) < 10**6
    one.type("/member 9b\r")
    assert "12b, [9b], 6b: " in one.until("9b> ")
    one.type("/nothing\r")
    assert "error: line: '/nothing' is not allowed" in one.until("9b> ")
    one.type("\x04")
    assert one.process.wait(600) == 0


@pytest.mark.slow
def test_ctrl_c_where_nothing_is_answered_is_130(folder, terminal):
    one = Terminal(str(folder), *SHORT)
    terminal.append(one)
    assert "no chat template" not in one.until("12b> ")
    one.interrupt()
    assert one.process.wait(600) == 130


@pytest.mark.parametrize("more", [("--json",), ("--draft", "6b"), ("--temperature", 1)])
def test_an_answer_of_no_numbers_is_an_error(tmp_path, chat, more):
    code, out, err = chat(overflowing(talking_family(tmp_path)), "Hello", *more)
    assert (code, out) == (2, "") and err.startswith("error: logits: ") and err.count("\n") == 1
