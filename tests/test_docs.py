# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Commands of the pages parse and those of the README run; blocks are valid, names exist, links resolve."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
import runpy
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import nemo_elastic
from nemo_elastic.cli import main
from nemo_elastic.cli.app import COMMANDS, load_command
from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.core.manifest import Family
from nemo_elastic.data.build import build_data
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.slicing.family_folder import write_family
from tests.documentation import PAGES, ROOT, SHELL, Block, blocks, named_files
from tests.shapes import PARENT
from tests.slicing import strangers as theirs
from tests.workers import environment
from tools import tables

README = ROOT / "README.md"
#: programs that are other people's, and are only named
OTHERS = {"curl", "pip", "pre-commit", "cd", "git", "sbatch", "vllm", "docker", "ns"}
#: modules and scripts that are other people's
FOREIGN = {
    "lm_eval", "vllm.entrypoints.openai.api_server", "convert_hf_to_gguf.py", "Megatron-LM/tools/preprocess_data.py"
}  # fmt: skip


# ------------------------------------------------------------------ commands parse


class Parsed(Exception):
    """A script's options were read; it went no further."""


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(*SHELL, page=p)], ids=lambda p: p.stem)
def test_the_pages_commands_parse(page: Path) -> None:
    for words in {tuple(w): w for block in blocks(*SHELL, page=page) for w in block.commands()}.values():
        print(*words)  # shown where it fails
        with pytest.MonkeyPatch.context() as patch:
            parse_command(words, patch)


def parse_command(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a command's options, whosever it is, without running anything."""
    program, rest = Path(words[0]).name, words[1:]
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert {w for w in rest if "=" not in w and not w.startswith("-")} <= set(targets)
    elif program == "nemo-elastic":
        parse(rest)
    elif program == "nemo":
        assert rest[0] in ("elastic", "llm")
        if rest[0] == "elastic":
            parse(rest[1:])
    elif program in ("python", "torchrun"):
        parse_python(rest, monkeypatch)
    else:
        assert program in OTHERS


def parse(words: Sequence[str]) -> None:
    """Read the options of `nemo-elastic`, without running anything."""
    assert words and words[0] in COMMANDS
    if "--help" in words:
        return
    with load_command(words[0]).make_context(words[0], list(words[1:])) as context:
        overrides = context.params.get("overrides") or ()
        assert all(re.fullmatch(r"--yes|[\w.\[\]]+[*+|/-]?=.+", word) for word in overrides), overrides


def parse_python(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the repository's, or a script of it whose options are read by its own parser."""
    if words[0] == "-m":
        if words[1] not in FOREIGN and words[1] != "nemo_elastic":
            path = ROOT / Path(*words[1].split(".")).with_suffix(".py")
            text = path.read_text(encoding="utf-8")
            assert all(f'"{w.partition("=")[0]}"' in text for w in words[2:] if w.startswith("--"))
        return
    at = next(i for i, word in enumerate(words) if word.endswith(".py"))
    script, rest = words[at], words[at + 1 :]
    if script in FOREIGN:
        return
    assert (ROOT / script).is_file()
    if not rest:
        return
    read = argparse.ArgumentParser.parse_args

    def stop(self, *args, **kwargs):
        read(self, *args, **kwargs)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(sys, "argv", [script, *rest])
    monkeypatch.syspath_prepend(ROOT / Path(script).parent)
    with pytest.raises(Parsed):
        runpy.run_path(str(ROOT / script), run_name="__main__")


# ------------------------------------------------------------------ commands run


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


@pytest.mark.usefixtures("place")
def test_the_readmes_commands_run(capsys: pytest.CaptureFixture[str]) -> None:
    done = [words for block in blocks(*SHELL, page=README) for words in block.commands() if words[0] == "nemo-elastic"]
    done = [words for words in done if words[1] != "train"]
    for words in done:
        with pytest.raises(SystemExit) as ended:
            main(words[1:])
        assert (ended.value.code or 0) == 0, f"{' '.join(words)}: {capsys.readouterr().err}"
        assert "--out" not in words or any(Path(words[words.index("--out") + 1]).iterdir())
    assert {words[1] for words in done} == {"init", "inspect", "slice", "verify"}


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
@pytest.mark.parametrize("page", (README, ROOT / "docs" / "train.md"), ids=lambda p: p.stem)
def test_the_trainings_are_accepted(page: Path, tmp_path: Path) -> None:
    """With the files that the page shows; a dry run builds nothing."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    for name, text in named_files(page).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    commands = [words for block in blocks(*SHELL, page=page) for words in block.commands() if "train" in words[1:3]]
    large = [words for words in commands if "nemotron_elastic_tiny" not in " ".join(words)]
    for words in large:
        command = [sys.executable, "-m", "nemo_elastic", *words[words.index("train") :], "--dryrun", "--yes"]
        done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr[-2000:]}"
        assert "apply_elastic changes the recipe" in done.stdout
    assert large


# ------------------------------------------------------------------ blocks of YAML and JSON


def test_elastic_blocks_are_valid() -> None:
    read = 0
    for block in blocks("yaml", "yml"):
        data = OmegaConf.to_container(OmegaConf.create(block.text))
        if isinstance(data, dict) and "elastic" in data:
            assert ElasticConfig.from_dict(data["elastic"]).budgets[0].is_parent, block.place
            read += 1
    assert read >= 4


def test_the_readmes_block_is_the_recipes_own() -> None:
    """The site includes the recipes' file itself; the README, which cannot, says the same."""
    (block,) = blocks("yaml", page=README)
    config = ElasticConfig.from_dict(OmegaConf.to_container(OmegaConf.create(block.text))["elastic"])
    assert config == ElasticConfig.load(ROOT / "conf" / "elastic_12b.yaml")


def test_examples_of_json_are_json() -> None:
    for block in blocks("json"):
        json.loads(block.text)


# ------------------------------------------------------------------ blocks of Python


def ours(block: Block) -> dict[str, Any]:
    """Names that a block imports from this package."""
    seen = {}
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nemo_elastic":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                seen[alias.asname or alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "nemo_elastic":
                    importlib.import_module(alias.name)
    return seen


def needs_nemo(block: Block) -> bool:
    return re.search(r"\bnemo(_run)?\b|apply_elastic|ElasticPlugin|nemotron_elastic", block.text) is not None


def check_names(block: Block) -> None:
    """Imports resolve, and calls of what was imported have arguments that it takes."""
    names = ours(block)
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            given = {k.arg: None for k in node.keywords if k.arg}
            inspect.signature(names[node.func.id]).bind_partial(*node.args, **given)


def test_python_compiles_and_its_names_exist() -> None:
    for block in blocks("python", "py"):
        compile(block.text, block.place, "exec")
        if not needs_nemo(block):
            check_names(block)


@pytest.mark.nemo
@pytest.mark.parametrize("page", (README, ROOT / "docs" / "train.md"), ids=lambda p: p.stem)
def test_python_of_the_first_pages_runs(page: Path, place: Path) -> None:
    """All but the call that starts a training, which is behind the guard of a script."""
    (place / "conf").symlink_to(ROOT / "conf")
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks("python", page=page):
        check_names(block)
        exec(compile(block.text, block.place, "exec"), names)
    if page == README:
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


@pytest.mark.nemo
def test_public_names_have_docstrings() -> None:
    for name in set(nemo_elastic.__all__) - {"__version__", "PAPER"}:
        assert inspect.getdoc(getattr(nemo_elastic, name)), name


def test_the_files_that_the_promises_name_exist() -> None:
    table = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = re.findall(r"`([\w/]+\.py)`", table)
    assert len(named) > 20 and [name for name in named if not (ROOT / "tests" / name).is_file()] == []
