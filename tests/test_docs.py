# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of the pages have options that exist, the README's run; blocks are valid, links resolve, tables agree."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from nemo_elastic.cli import main
from nemo_elastic.cli.app import load_command
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.build import build_data
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.slicing.family_folder import write_family
from tests.documentation import PAGES, ROOT, SHELL, blocks, named_files
from tests.shapes import PARENT
from tests.slicing import strangers as theirs
from tests.workers import environment
from tools import tables

README = ROOT / "README.md"


# ------------------------------------------------------------------ commands


def parse(words: list[str]) -> None:
    """Check the options of a command; those that `train` hands on to NeMo-Run are named in its help."""
    command = load_command(words[1])
    with command.make_context(words[1], words[2:]) as context:
        given = {word.partition("=")[0] for word in context.params.get("overrides") or [] if word.startswith("-")}
    named = {name for each in command.params for name in re.findall(r"--[\w-]+", getattr(each, "help", None) or "")}
    assert given <= named, given - named


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(*SHELL, page=p)], ids=lambda p: p.stem)
def test_the_pages_commands_parse(page: Path) -> None:
    for block in blocks(*SHELL, page=page):
        for words in block.commands():
            if words[0] == "nemo-elastic" and "--help" not in words:
                print(*words)  # shown where it fails
                parse(words)


def test_the_page_of_commands_is_up_to_date() -> None:
    tool = [sys.executable, ROOT / "tools" / "command_reference.py"]
    made = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), "run it: > docs/commands.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README names: family/ and data/."""
    parent = replace(PARENT, vocab=400)
    members = {
        "12b": parent.full,
        "9b": parent.uniform(keep=(0, 1, 3, 4), hidden=12),
        "6b": parent.uniform(keep=(0, 1, 3), hidden=8, mamba_heads=4),
    }
    out = tmp_path_factory.mktemp("docs")
    data = build_data(out / "data", [Path(sysconfig.get_paths()["stdlib"]) / "json"], vocab=400, held_out_problems=8)
    state = NemotronH.random(parent).state_dict()
    write_family(out / "family", parent, state, Family.of(parent, members), data.tokenizer_dir)
    return out


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what the README names."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_commands_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "conf").symlink_to(ROOT / "conf")
    done = [words for block in blocks(*SHELL, page=README) for words in block.commands() if words[0] == "nemo-elastic"]
    done = [words for words in done if words[1] != "train"]
    for words in done:
        with pytest.raises(SystemExit) as ended:
            main(words[1:])
        assert (ended.value.code or 0) == 0, f"{' '.join(words)}: {capsys.readouterr().err}"
        assert "--out" not in words or any(Path(words[words.index("--out") + 1]).iterdir())
    assert {words[1] for words in done} == {"init", "inspect", "plan", "slice", "verify"}


#: commands, and what they print; what another processor computes a little differently
PAIR = re.compile(r"```bash\n((?:(?!```).)*?)```\n(?:(?!```).)*?\n```text\n((?:(?!```).)*)```", re.DOTALL)
COMPUTED = re.compile(r"\d+\.\d+(e[-+]\d+)?")


def test_the_tutorial_shows_what_its_commands_print(tmp_path: Path) -> None:
    pairs = PAIR.findall((ROOT / "docs" / "start.md").read_text(encoding="utf-8"))
    assert len(pairs) == 2
    for commands, shown in pairs:
        printed = ""
        for line in re.findall(r"^nemo-elastic (.*)", commands, re.MULTILINE):
            command = [sys.executable, "-m", "nemo_elastic", *line.split()]
            env = environment(COLUMNS="80", NO_COLOR="1")
            ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
            printed += "".join(f"{row.rstrip()}\n" for row in ran.stdout.splitlines())
        assert COMPUTED.sub("#", printed) == COMPUTED.sub("#", shown)


def test_the_commands_on_published_families_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In order and as they stand, on small folders of the published form."""
    whole, words = theirs.MOE, theirs.words(theirs.MOE)
    theirs.write(tmp_path / "elastic-30b", whole, words)
    for name, change in (("23b", {"hidden_size": 48}), ("12b", {"hidden_size": 48, "moe_intermediate_size": 32})):
        child = whole | change
        theirs.write(tmp_path / f"published-{name}", child, theirs.cut(words, whole, child))
    monkeypatch.chdir(tmp_path)
    done = [words for block in blocks(*SHELL, page=ROOT / "docs" / "nvidia.md") for words in block.commands()]
    for words in done:
        with pytest.raises(SystemExit) as ended:
            main(words[1:])
        assert (ended.value.code or 0) == 0, f"{' '.join(words)}: {capsys.readouterr().err}"
    assert {words[1] for words in done} == {"init", "inspect", "slice", "verify"}
    assert theirs.read(tmp_path / "23b") == theirs.read(tmp_path / "published-23b")


@pytest.mark.nemo
@pytest.mark.slow
def test_the_readmes_trainings_are_accepted(tmp_path: Path) -> None:
    """With the files that the page shows; a dry run builds nothing."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    for name, text in named_files(README).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    commands = [words for block in blocks(*SHELL, page=README) for words in block.commands() if "train" in words[1:3]]
    large = [words for words in commands if "nemotron_elastic_tiny" not in " ".join(words)]
    for words in large:
        command = [sys.executable, "-m", "nemo_elastic", *words[words.index("train") :], "--dryrun", "--yes"]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-2000:]}"
        assert "apply_elastic changes the recipe" in done.stdout
    assert large


# ------------------------------------------------------------------ blocks


def test_the_readmes_block_is_the_recipes_own() -> None:
    """The site includes the recipes' file itself; the README, which cannot, says the same."""
    (block,) = blocks("yaml", page=README)
    config = ElasticConfig.from_dict(OmegaConf.to_container(OmegaConf.create(block.text))["elastic"])
    assert config == ElasticConfig.load(ROOT / "conf" / "elastic_30b_a3b.yaml")


@pytest.mark.nemo
def test_the_readmes_python_runs(place: Path) -> None:
    """All but the call that starts a training, which is behind the guard of a script."""
    (place / "conf").symlink_to(ROOT / "conf")
    names: dict[str, Any] = {"__name__": "README"}
    for block in blocks("python", page=README):
        exec(compile(block.text, block.place, "exec"), names)
    assert isinstance(names["answer"], str) and names["answer"]


# ------------------------------------------------------------------ links and names


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_to_files_exist(page: str) -> None:  # mkdocs checks those inside docs/, and the tables that they include
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert local and [link for link in local if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", tables.pages(), ids=lambda p: p.stem)
def test_tables_of_pages_are_those_of_their_files(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == tables.filled(page), "run: .venv/bin/python -m tools.tables"


def test_the_files_that_the_promises_name_exist() -> None:
    table = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)`", table)
    assert len(named) > 20 and [name for name in named if not (ROOT / "tests" / name).is_file()] == []
