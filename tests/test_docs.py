# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The documentation does what it says: commands parse, cheap ones run, blocks are valid, code compiles."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from nemo_elastic.cli import main
from nemo_elastic.cli.app import COMMANDS, load_command
from nemo_elastic.config.block import ElasticConfig
from tests.documentation import PAGES, ROOT, SHELL, blocks, named_files
from tests.workers import environment
from tools import tables

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
        assert all(re.fullmatch(r"[\w.\[\]]+[*+|/-]?=.+", word) for word in overrides), overrides


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


def test_a_wrong_command_does_not_parse() -> None:
    for wrong in ("slice family/", "slice family/ --bugdet 6b --out x", "inspect", "nothing"):
        with pytest.raises(Exception):  # noqa: B017  # typer's own, which differ between its versions
            parse(wrong.split())


def test_commands_named_in_running_text_exist() -> None:
    named = {
        command
        for page in PAGES
        for command in re.findall(r"`nemo-elastic ([a-z]+)\b", page.read_text(encoding="utf-8"))
    }
    assert named and named <= set(COMMANDS)
    table = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert {c for c in COMMANDS if f"`nemo-elastic {c}`" not in table} == set(), "docs/cli.md lists every command"


# ------------------------------------------------------------------ commands run

#: commands that are not run here, and where they are
NOT_RUN = {
    "demo": "its own CI step",
    "train": "below, as a dry run",
    "convert": "NeMo: tests/hosts/nemo/checkpoint/test_convert.py",
    "data": "tests/data/test_cli.py",
    "report": "tests/report",
    "rehearse": "tests/rehearsal",
    "specialize": "tests/evaluation/test_cli_specialize.py",
    "serve": "tests/serving and, with vLLM, tests/vllm/serve.py",
}


def runs(words: list[str]) -> bool:
    """On a tiny family, without NeMo, lm-eval or a GPU."""
    return (
        words[0] == "nemo-elastic"
        and words[1] not in NOT_RUN
        and not {"--tasks", "cuda", "nemo", "pruned/"} & set(words)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with what the pages name: family/, other-9b/, parent/, data/, conf/, elastic.yaml, a recipe's run.

    Conversations are in chats.jsonl and chats-8k/, text/ is data/.

    The family has an extra shape `task`, which is that of task.json: `specialize` is not run here.
    """
    from nemo_elastic.core.manifest import Family
    from nemo_elastic.data.build import build_data
    from nemo_elastic.data.prepare import prepare
    from nemo_elastic.nn.nemotron_h import NemotronH
    from nemo_elastic.slicing.family_folder import write_family
    from nemo_elastic.slicing.slicer import slice_checkpoint
    from tests.data.large import sums
    from tests.shapes import PARENT

    parent = replace(PARENT, vocab=400)
    members = {
        "12b": parent.full,
        "9b": parent.uniform(keep=(0, 1, 3, 4), hidden=12),
        "6b": parent.uniform(keep=(0, 1, 3), hidden=8, mamba_heads=4),
    }
    out = tmp_path_factory.mktemp("docs")
    data = build_data(out / "data", [Path(sysconfig.get_paths()["stdlib"]) / "json"], vocab=400, held_out_problems=8)
    (data.tokenizer_dir / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    state = NemotronH.random(parent).state_dict()
    family = Family.of(parent, members).with_extra("task", parent.uniform(keep=(0, 2, 4), hidden=12))
    write_family(out / "family", parent, state, family, data.tokenizer_dir)
    (out / "task.json").write_text(json.dumps({"subnet": family.member("task").subnet.to_json()}))
    slice_checkpoint(out / "family", out / "other-9b", member="9b")
    slice_checkpoint(out / "family", out / "parent", member="12b")
    (out / "text").symlink_to(out / "data")
    (out / "chats.jsonl").write_text(sums(20))
    prepare(out / "chats-8k", [out / "chats.jsonl"], data.tokenizer_dir, length=8192)
    (out / "conf").symlink_to(ROOT / "conf")
    (out / "runs" / "nemotron_elastic_tiny").mkdir(parents=True)
    (out / "runs" / "nemotron_elastic_tiny" / "family").symlink_to(out / "family")
    (out / "elastic.yaml").write_text(next(b.text for b in blocks("yaml", page=PAGES[0]) if "elastic:" in b.text))
    return out


def pages_with(test) -> list[Path]:
    """Pages that have a command of which something holds."""
    return [p for p in PAGES if any(test(w) for b in blocks(*SHELL, page=p) for w in b.commands())]


@pytest.mark.parametrize("page", pages_with(runs), ids=lambda p: p.stem)
def test_the_pages_commands_run(page: Path, made: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    for name in made.iterdir():
        (tmp_path / name.name).symlink_to(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    done: set[str] = set()
    for block in blocks(*SHELL, page=page):
        for words in block.commands():
            if not runs(words) or " ".join(words) in done:
                continue
            done.add(" ".join(words))
            written = Path(words[words.index("--out") + 1]) if "--out" in words else None
            if written is not None and written.is_dir():  # another command of the page wrote it
                written.unlink() if written.is_symlink() else shutil.rmtree(written)
            with pytest.raises(SystemExit) as ended:
                main(words[1:])
            fine = (0, 1) if words[1] == "doctor" else (0,)
            assert (ended.value.code or 0) in fine, f"{block.place}: {' '.join(words)}: {capsys.readouterr().err}"
            assert written is None or written.is_file() or any(written.iterdir())
    assert done


def test_every_command_is_run_or_says_why_not() -> None:
    run = {words[1] for block in blocks(*SHELL) for words in block.commands() if runs(words)}
    assert run & {*NOT_RUN} == set() and run >= {"slice", "inspect", "verify", "eval", "plan", "doctor", "schema"}


# ------------------------------------------------------------------ blocks of YAML


def test_elastic_blocks_are_valid_and_the_recipes_own_on_the_first_pages() -> None:
    """The site includes the recipes' file itself; the README, which cannot, says the same."""
    conf, read, shown = ElasticConfig.load(ROOT / "conf" / "elastic_12b.yaml"), 0, set()
    for block in blocks("yaml", "yml"):
        data = OmegaConf.to_container(OmegaConf.create(block.text))
        if isinstance(data, dict) and "elastic" in data:
            config = ElasticConfig.from_dict(data["elastic"])
            assert config.budgets[0].is_parent, block.place
            read += 1
            if "5120" in block.text:
                assert config == conf, block.place
                shown.add(block.page.stem)
    assert read >= 4 and shown >= {"README", "quickstart", "index", "bridge"}
    pages = (PAGES[0], ROOT / "docs" / "quickstart.md")
    readme, start = (next(b.text for b in blocks("python", page=p) if "apply_elastic" in b.text) for p in pages)
    assert readme == start


def properties(schema: Any) -> set[str]:
    """Names of the fields at any depth of a JSON schema."""
    if not isinstance(schema, (dict, list)):
        return set()
    own, inner = (schema, schema.values()) if isinstance(schema, dict) else ({}, schema)
    return set(own.get("properties", {})).union(*map(properties, inner))


def test_elastic_snippets_of_the_tables_are_valid() -> None:
    """`axes.ffn.per_layer` and the like name fields that there are."""
    from nemo_elastic.config.block import json_schema
    from nemo_elastic.core.kinds.registry import all_axes

    fields = properties(json_schema())
    axes = "|".join(all_axes())
    text = (ROOT / "docs" / "migration.md").read_text(encoding="utf-8")
    named = re.findall(
        rf"`(?:axes\.(?:{axes})|router|search|halving|memory|importance|distill|budgets\[\])\.(\w+)", text
    )
    assert len(named) > 12 and set(named) <= fields
    flows = re.findall(r"`((?:memory|budgets): [{\[].*?[}\]])`", text)
    assert len(flows) >= 2
    for flow in flows:
        assert OmegaConf.create(flow)


def trains(words: list[str]) -> bool:
    """A large recipe on NeMo: tests of both hosts run the other host's, and the tiny one, from the pages."""
    own = words[:2] == ["nemo-elastic", "train"] or words[:3] == ["nemo", "elastic", "train"]
    return own and "--host" not in words and "nemotron_elastic_tiny" not in " ".join(words)


@pytest.mark.nemo
@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with(trains), ids=lambda p: p.stem)
def test_training_commands_are_accepted(page: Path, tmp_path: Path) -> None:
    """With the YAML files that the page itself shows; NeMo-Run's dry run builds nothing."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    for name, text in named_files(page).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    env = environment(COLUMNS="200")
    ran = 0
    for block in blocks(*SHELL, page=page):
        for words in block.commands():
            if trains(words):
                rest = words[words.index("train") :]
                command = [sys.executable, "-m", "nemo_elastic", *rest, "--dryrun", "--yes"]
                done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1800)
                assert done.returncode == 0, f"{block.place}: {done.stderr[-2000:]}"
                assert "apply_elastic changes the recipe" in done.stdout
                ran += 1
    assert ran


# ------------------------------------------------------------------ blocks of Python

PYTHON = blocks("python", "py")
#: of blocks that need the other host; of those that start something only as a script
OTHER_HOST, GUARD = "megatron.bridge", 'if __name__ == "__main__":'
#: names and attributes of code that would start something, or load a model that is not there
STARTS = ("run.run(", "Experiment(", "Executor(", "AutoModel", ".generate(", "family_experiment(")


def ours(block) -> dict[str, Any]:
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


def needs_nemo(block) -> bool:
    return re.search(r"\bnemo(_run)?\b|apply_elastic|ElasticPlugin|nemotron_elastic", block.text) is not None


def check_names(block) -> None:
    """Imports resolve, and calls of what was imported have arguments that it takes."""
    names = ours(block)
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            given = {k.arg: None for k in node.keywords if k.arg}
            inspect.signature(names[node.func.id]).bind_partial(*node.args, **given)


def test_python_compiles_and_its_names_exist() -> None:
    for block in PYTHON:
        compile(block.text, block.place, "exec")
        if not needs_nemo(block):
            check_names(block)


@pytest.mark.nemo
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.page == p and needs_nemo(b) for b in PYTHON)],
                         ids=lambda p: p.stem)  # fmt: skip
def test_python_with_nemo_runs(page: Path, made: Path, monkeypatch) -> None:
    """Blocks of a page go on from one another; what would start something is only looked at, but for its guard."""
    monkeypatch.chdir(made)
    monkeypatch.syspath_prepend(ROOT / "recipes")
    names: dict[str, Any] = {"__name__": page.stem}
    for block in blocks("python", "py", page=page):
        if OTHER_HOST in block.text:  # tests/hosts/bridge/test_apply.py runs it, in its own environment
            continue
        check_names(block)
        if GUARD in block.text or not any(word in block.text for word in STARTS):
            exec(compile(block.text, block.place, "exec"), names)


@pytest.mark.parametrize("page", [PAGES[0], ROOT / "docs" / "deploy.md"], ids=lambda p: p.stem)
def test_the_runtime_of_the_pages_runs(page: Path, made: Path, monkeypatch) -> None:
    import torch

    monkeypatch.chdir(made)
    ours = [b for b in blocks("python", page=page) if re.search(r"load_family|small\.generate", b.text)]
    assert len(ours) == (2 if page.stem == "deploy" else 1)
    names: dict[str, Any] = {"tokens": torch.tensor([[1, 17, 4]])}
    for block in ours:  # the second goes on from the first
        exec(compile(block.text, block.place, "exec"), names)
    assert isinstance(names["answer"], str) and names["answer"]
    if page.stem == "deploy":
        assert len(names["answers"]) == 2 and all(isinstance(answer, str) for answer in names["answers"])
        assert len(names["new_ids"]) == 32 and names["logits"].shape == (1, 3, 400)


# ------------------------------------------------------------------ links


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_exist(page: str) -> None:  # mkdocs checks those inside docs/
    links = re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert local and [link for link in local if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", tables.pages(), ids=lambda p: p.stem)
def test_tables_of_pages_are_those_of_their_files(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == tables.filled(page), "run: .venv/bin/python -m tools.tables"


def test_examples_of_json_are_json() -> None:
    for block in blocks("json"):
        json.loads(block.text)
