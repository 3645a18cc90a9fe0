# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The house keeps its own rules: headers, sizes, and a documentation whose commands and links exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nemo_elastic.cli.app import COMMANDS, load_command
from nemo_elastic.config import ElasticConfig

ROOT = Path(__file__).parents[1]
BUILT = {".git", ".venv", ".venv-hf", ".venv-vllm", "runs", "site", "build", "dist", "shared", "nemo_experiments"}
HEADER = (
    "# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors\n# SPDX-License-Identifier: Apache-2.0\n"
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("**/*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def files(pattern):
    for path in sorted(ROOT.glob(pattern)):
        inside = path.relative_to(ROOT).parts
        if path.is_file() and inside[0] not in BUILT and "__pycache__" not in inside:
            yield path


def name(path):
    return str(path.relative_to(ROOT))


def blocks(*languages):
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if language in languages:
                yield page, text


def shell_lines():
    """Every command of the documentation's shell blocks, as words."""
    for page, text in blocks("bash", "sh", "shell", "console"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # variables before the command
                words = words[1:]
            if words:
                yield pytest.param(words, id=f"{name(page)}: {' '.join(words)}")


def test_every_python_file_has_the_header():
    found = list(files("**/*.py"))
    assert len(found) > 10
    assert [name(p) for p in found if not p.read_text(encoding="utf-8").startswith(HEADER)] == []


def test_no_python_file_is_too_long_to_read():
    long = {name(p): n for p in files("**/*.py") if (n := len(p.read_text(encoding="utf-8").splitlines())) > 450}
    assert long == {}, "about 400 lines is the limit"


def test_no_file_is_over_one_megabyte():
    assert [name(p) for p in files("**/*") if p.stat().st_size > 1_000_000] == []


@pytest.mark.parametrize("words", list(shell_lines()))
def test_commands_of_the_documentation_exist(words):
    program, rest = Path(words[0]).name, words[1:]
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {w for w in rest if "=" not in w and not w.startswith("-")} <= set(targets)
    elif program == "nemo-elastic":
        assert rest and rest[0] in COMMANDS
        command = load_command(rest[0])
        if not command.context_settings.get("ignore_unknown_options"):  # train hands them on to NeMo-Run
            known = {"--help"} | {option for param in command.params for option in param.opts}
            assert {w.partition("=")[0] for w in rest if w.startswith("-")} <= known
    else:
        assert program in {"pip", "pre-commit", "python", "cd", "git", "torchrun", "nemo", "sbatch", "vllm"}


def test_commands_named_in_running_text_exist():
    named = {
        command
        for page in PAGES
        for command in re.findall(r"`nemo-elastic ([a-z]+)\b", page.read_text(encoding="utf-8"))
    }
    assert named and named <= set(COMMANDS)
    table = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert {c for c in COMMANDS if f"`nemo-elastic {c}`" not in table} == set(), "docs/cli.md lists every command"


def test_elastic_blocks_of_the_documentation_are_valid():
    read = 0
    for _, text in blocks("yaml"):
        data = OmegaConf.to_container(OmegaConf.create(text))
        if "elastic" in data:
            assert ElasticConfig.from_dict(data["elastic"]).budgets[0].is_parent
            read += 1
    assert read >= 2


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_exist(page):  # mkdocs checks those inside docs/
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert local and [link for link in local if not (ROOT / link).exists()] == []


def test_ci_runs_what_the_makefile_offers():
    script = ROOT / ".ci" / "run"
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text(encoding="utf-8")
    assert all(f"make {target}" in text for target in ("lint", "docs", "test"))
