# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The shell of the command line: lazy commands, one-line errors, exit codes."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_elastic import __version__
from nemo_elastic.cli import app, main
from nemo_elastic.cli.show import counting
from nemo_elastic.extras import installing

COMMAND = '''
import errno, typer
from nemo_elastic.errors import bad

def command(source: str, budget: str = "6b", code: int = 0, mode: str = "fine") -> None:
    """Cut one member; needs nemo-elastic[runtime].

    Example:

        nemo-elastic fake family/ --budget 6b
    """
    if mode == "bad":
        raise bad("budget", budget, "use one\\nof 6b, 9b")
    if mode == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "/out/file")
    if mode == "bug":
        raise OSError(errno.EBADF, "Bad file descriptor")
    if mode == "interrupt":
        raise KeyboardInterrupt
    if mode == "training":  # as Lightning ends one on Ctrl-C
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)
    if mode == "stopped":
        raise SystemExit(75)
    if mode == "torch":
        raise ModuleNotFoundError("No module named 'torch'", name="torch.nn")
    if mode == "unknown":
        raise ModuleNotFoundError("No module named 'nowhere'", name="nowhere")
    print(f"{source} {budget}")
    raise typer.Exit(code)
'''
TYPER = '''
import typer

command = typer.Typer()

@command.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(ctx: typer.Context) -> None:
    """Train."""
    print(ctx.args)
'''


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Two commands of our own, in modules that nothing has imported."""
    (tmp_path / "shell_fake.py").write_text(COMMAND)
    (tmp_path / "shell_typer.py").write_text(TYPER)
    monkeypatch.syspath_prepend(tmp_path)
    rows = {"fake": app.Row("shell_fake", "Fake help."), "loose": app.Row("shell_typer", "Loose help.")}
    monkeypatch.setattr(app, "COMMANDS", rows)
    yield rows
    for name in ("shell_fake", "shell_typer"):
        sys.modules.pop(name, None)


def run(capsys, *argv):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    out, err = capsys.readouterr()
    return exit.value.code, out, err


def python(*argv):
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=1800)


def test_help_lists_every_command_and_imports_none_of_them():
    code = (
        "import sys\n"
        "from nemo_elastic.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0, e.code\n"
        "heavy = {'torch', 'nemo', 'megatron', 'lightning', 'transformers', 'numpy', 'omegaconf', 'safetensors'}\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "mine = {name for name in sys.modules if name.startswith('nemo_elastic.')}\n"
        "print('loaded', sorted(loaded & heavy), sorted(mine), file=sys.stderr)\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    mine = [f"nemo_elastic.{name}" for name in ("cli", "cli.app", "errors", "extras")]
    assert done.stderr.strip() == f"loaded [] {mine}"
    for name in app.COMMANDS:
        assert f" {name} " in done.stdout


def test_python_dash_m_is_the_command():
    done = python("-m", "nemo_elastic", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"nemo-elastic {__version__}")


@pytest.mark.parametrize("name", list(app.COMMANDS))
def test_every_command_has_help_with_an_example(name, capsys):
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    after_usage = " ".join(out.partition("Usage:")[2].split()).partition("nemo-elastic")[2]
    assert f"nemo-elastic {name}" in after_usage, f"{name} --help shows no example"


def test_exit_code_1_is_reported_where_it_is_by_design(capsys):
    """By --help, and by the page's table, which names no other."""
    root = Path(app.__file__).parents[2]
    page = (root / "docs" / "large_runs.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| 1 \|.*", page, re.MULTILINE)
    folder = root / "nemo_elastic" / "cli"
    chosen = {name for name in app.COMMANDS if "typer.Exit(1)" in (folder / f"cmd_{name}.py").read_text()}
    assert chosen == set(re.findall(r"`([a-z]+)`", row)) and len(chosen) >= 4
    for name in chosen:
        assert "Exit code 1" in " ".join(run(capsys, name, "--help")[1].replace("│", " ").split()), name


def test_a_command_is_imported_only_when_it_is_called(table, capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0 and "Fake help." in out and "Loose help." in out
    assert "shell_fake" not in sys.modules
    code, out, _ = run(capsys, "fake", "family/", "--budget", "9b")
    assert (code, out) == (0, "family/ 9b\n")
    assert "shell_fake" in sys.modules and "shell_typer" not in sys.modules


def test_a_command_has_its_help_settings_and_exit_code(table, capsys):
    code, out, _ = run(capsys, "fake", "--help")
    assert code == 0 and "nemo-elastic[runtime]" in out and "nemo-elastic fake family/ --budget 6b" in out
    code, out, _ = run(capsys, "loose", "--yaml", "run.yaml", "trainer.max_steps=3")
    assert (code, out) == (0, "['--yaml', 'run.yaml', 'trainer.max_steps=3']\n")
    assert run(capsys, "fake", "family/", "--code", "7")[0] == 7


@pytest.mark.parametrize(
    ("mode", "code", "line"),
    [
        ("bad", 2, "error: budget: '6b' is not allowed; use one of 6b, 9b\n"),
        ("full", 2, "error: no space left on the disk (/out/file)\n"),
        ("interrupt", 130, "interrupted\n"),
        ("training", 130, "interrupted\n"),
        ("stopped", 75, ""),
        ("torch", 2, f"error: torch is not installed; {installing('runtime')} brings it\n"),
    ],
)
def test_what_a_user_can_fix_is_one_line(table, capsys, mode, code, line):
    assert run(capsys, "fake", "family/", "--mode", mode) == (code, "", line)


def test_debug_shows_where_an_error_comes_from(table, capsys):
    code, out, err = run(capsys, "--debug", "fake", "family/", "--mode", "bad")
    first, *_, raised, last = err.splitlines()
    assert (code, out, first) == (2, "", "Traceback (most recent call last):")
    assert raised.endswith("use one of 6b, 9b") and last == "error: budget: '6b' is not allowed; use one of 6b, 9b"


@pytest.mark.parametrize(("mode", "error"), [("bug", OSError), ("unknown", ModuleNotFoundError)])
def test_a_bug_keeps_its_traceback(table, mode, error):
    with pytest.raises(error) as raised:
        main(["fake", "family/", "--mode", mode])
    assert mode == "unknown" or raised.value.errno == errno.EBADF


def test_a_terminal_without_utf8_ends_no_command(table, monkeypatch):
    screen = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", screen)
    with pytest.raises(SystemExit) as ended:
        main(["fake", "famille-é", "--budget", "±"])
    screen.flush()
    assert (ended.value.code, screen.buffer.getvalue()) == (0, rb"famille-\xe9 \xb1" + b"\n")


def test_off_a_terminal_each_step_is_named_once(capsys):
    for quiet in (False, True):
        with counting("all", quiet) as tell:
            for name, total in (("widths", None), ("depth", 21), ("widths", 3)):
                for done in range(5):
                    tell(done, total, name)
        assert capsys.readouterr() == ("", "" if quiet else "widths\ndepth\nwidths\n")


def test_a_deleted_current_folder_is_one_line(table, tmp_path, monkeypatch, capsys):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work").rmdir()
    code, out, err = run(capsys, "fake", "family/")
    assert (code, out) == (2, "") and err.startswith("error: the current folder ") and err.count("\n") == 1
    assert run(capsys, "--version")[0] == 0


MODULE, SCRIPT = ["-m", "nemo_elastic"], ["-c", "from nemo_elastic.cli import main; main()"]
MOMENTS = ("nemo_elastic.cli.app", "typer", "parse", "invoke")


@pytest.mark.parametrize(("moment", "way"), [*((moment, MODULE) for moment in MOMENTS), ("typer", SCRIPT)])
def test_ctrl_c_at_once_is_one_word(tmp_path, moment, way):
    """In the first tenth of a second, while this program imports what it tells its errors with."""
    hook = f"""
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {moment!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""
    if moment == "parse":
        hook = "import os, signal, typer.core\n"
        hook += "def kill(*_): os.kill(os.getpid(), signal.SIGINT)\ntyper.core.TyperGroup.parse_args = kill\n"
    if moment == "invoke":
        hook = "import os, signal, sys\nos.getcwd = lambda: os.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "sitecustomize.py").write_text(hook)
    root = Path(app.__file__).parents[2]
    env = os.environ | {"PYTHONPATH": f"{tmp_path}:{root}"}
    done = subprocess.run(
        [sys.executable, *way, "doctor", "--schema"], capture_output=True, text=True, timeout=1800, env=env, cwd=root
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["fakee"], "Did you mean 'fake'?"),
        (["fake"], "source"),
        (["fake", "family/", "--nope"], "--nope"),
        (["--nope"], "--nope"),
    ],
)
def test_wrong_usage_exits_with_2(table, capsys, argv, word):
    code, out, err = run(capsys, *argv)
    assert code == 2
    assert word.lower() in (out + err).lower()
    assert "Traceback" not in err
