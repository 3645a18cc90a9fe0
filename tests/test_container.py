# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The Dockerfile: what it builds on, in which order, and the check that fails a build."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from nemo_elastic.cli.app import COMMANDS
from tests.documentation import PAGES

ROOT = Path(__file__).parents[1]


def instructions() -> list[tuple[str, str]]:
    """(word, arguments) of every instruction, comments and continuations resolved."""
    lines = [x for x in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if not x.startswith("#")]
    text = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (x.partition(" ") for x in text.splitlines() if x)]


@pytest.fixture(scope="module")
def keep() -> ModuleType:
    spec = importlib.util.spec_from_file_location("keep", ROOT / "docker" / "keep.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_instruction_is_known_and_the_base_is_25_11() -> None:
    actual = instructions()
    assert {word for word, _ in actual} <= {"ARG", "FROM", "WORKDIR", "COPY", "RUN"}
    assert actual[0] == ("ARG", "BASE=nvcr.io/nvidia/nemo:25.11") and actual[1] == ("FROM", "${BASE}")


def test_releases_are_written_before_the_installation_and_checked_after_it() -> None:
    runs = [rest for word, rest in instructions() if word == "RUN"]
    write = next(i for i, r in enumerate(runs) if "keep.py write" in r)
    install = [i for i, r in enumerate(runs) if re.search(r"\bpip install\b", r)]
    check = next(i for i, r in enumerate(runs) if "keep.py check" in r)
    assert install and write < min(install) <= max(install) < check
    (file,) = {w for r in runs for w in shlex.split(r) if w.endswith("kept.txt")}
    for i in install:
        for call in re.findall(r"pip install[^;]*", runs[i]):  # pip's and uv's
            assert f"-c {file}" in call and "[" not in call, "constrained, and no extra"
    assert runs[check].startswith(f"python docker/keep.py check {file} &&")


def test_docker_commands_of_the_documentation_name_what_exists() -> None:
    """Those of nemo-elastic itself are checked by test_docs."""
    pages = [ROOT / "Dockerfile", ROOT / "docs" / "containers.md"]
    lines = [x for p in pages for x in re.findall(r"docker (?:build|run) .*?(?=   |$)", p.read_text(), re.MULTILINE)]
    arguments = {rest.partition("=")[0] for word, rest in instructions() if word == "ARG"}
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line)
        if words[1] == "run":
            command = words[words.index("nemo-elastic") :]
            assert command in (["nemo-elastic", "doctor"], ["nemo-elastic", "doctor", "--training"])
            assert "doctor" in COMMANDS
            continue
        assert words[-1] == "." and "-t" in words
        given = [words[i + 1] for i, w in enumerate(words) if w == "--build-arg"]
        assert {x.partition("=")[0] for x in given} <= arguments


def test_the_image_has_one_name_from_its_build_to_its_jobs() -> None:
    """NAME:TAG where docker names it, NAME-TAG.sqsh as a file, and its tag is its base's."""
    tag = instructions()[0][1].rpartition(":")[2]
    hosts = dict.fromkeys(["clusters.md", "recipes.md", "run.py"], tag)
    hosts["bridge.md"] = "26.08"
    pages = [ROOT / "Dockerfile", *PAGES, *sorted((ROOT / "recipes").glob("*.py"))]
    text = {p.name: p.read_text(encoding="utf-8") for p in pages}
    built = dict.fromkeys(re.findall(r"docker build .*-t (\S+)", "\n".join(text.values())))
    assert list(built) == [f"nemo-elastic:{tag}", "nemo-elastic:26.08", "nemo-elastic:25.09"], "two to train in"
    for line in re.findall(r"docker build .*", "\n".join(text.values())):
        base = re.search(r"BASE=\S+:(\S+)", line)
        assert f"-t nemo-elastic:{base[1] if base else tag} " in line
    files = {page: set(re.findall(r"[\w./-]*\.sqsh", page_text)) for page, page_text in text.items()}
    assert {page: files[page] for page in hosts} == {p: {f"/images/nemo-elastic-{t}.sqsh"} for p, t in hosts.items()}
    made = {f"nemo-elastic-{tag}.sqsh", f"/images/nemo-elastic-{tag}.sqsh", *files["bridge.md"]}
    assert set().union(*files.values()) == made
    used = {name: set(re.findall(r"(?:--image |container_image=\"|--gpus all |dockerd://)([^\s\"`]+)", page))
            for name, page in text.items()}  # fmt: skip
    assert hosts.keys() <= {name for name, actual in used.items() if actual}
    allowed = made | {f"nemo-elastic:{tag}", f"registry.example.com#me/nemo-elastic:{tag}"}
    assert set().union(*used.values()) <= allowed
    (brought,) = re.findall(r"enroot import --output (\S+) dockerd://(\S+)", text["containers.md"])
    assert brought == (f"nemo-elastic-{tag}.sqsh", f"nemo-elastic:{tag}")


def test_what_is_copied_is_there_and_the_rest_is_ignored() -> None:
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {".git", ".venv*", "runs"} <= set(ignored)
    assert ("COPY", ". .") in instructions()
    needed = ("pyproject.toml", "README.md", "LICENSE", "nemo_elastic", "conf", "docker/keep.py")
    assert all((ROOT / name).exists() and name not in ignored for name in needed)


INSTALLED = [
    ("torch", "2.9.0a0+145a3a7.nv25.10"), ("megatron_core", "0.15.0"), ("transformer_engine", "2.9.0+70f53666"),
    ("transformer-engine-torch", "2.9.0"), ("nemo_toolkit", "2.6.0"), ("causal-conv1d", "1.5.3"), ("rich", "14.0"),
    ("nemo-elastic", "0.1.0"),
]  # fmt: skip


def test_what_is_kept(keep: ModuleType) -> None:
    actual = keep.kept(INSTALLED)
    assert list(actual) == [
        "causal-conv1d", "megatron-core", "nemo-toolkit", "torch", "transformer-engine", "transformer-engine-torch",
    ]  # fmt: skip
    assert keep.read(keep.constraints(actual)) == actual
    assert "torch==2.9.0a0+145a3a7.nv25.10\n" in keep.constraints(actual)
    with pytest.raises(SystemExit, match="not a NeMo container: megatron-core not installed"):
        keep.kept([x for x in INSTALLED if x[0] != "megatron_core"])


def test_either_host_makes_a_container_of_nemo(keep: ModuleType) -> None:
    without = [x for x in INSTALLED if x[0] != "nemo_toolkit"]
    assert keep.kept([*without, ("megatron-bridge", "0.6.0")])["megatron-bridge"] == "0.6.0"
    with pytest.raises(SystemExit, match="not a NeMo container: nemo-toolkit or megatron-bridge not installed"):
        keep.kept(without)


def test_every_change_is_reported(keep: ModuleType) -> None:
    before = keep.kept(INSTALLED)
    assert keep.changes(before, dict(before)) == []
    after = keep.kept([("torch", "2.9.0"), *(x for x in INSTALLED[1:] if x[0] != "causal-conv1d"), ("numpy", "2.2")])
    assert keep.changes(before, after) == [
        "causal-conv1d: 1.5.3 -> absent", "numpy: absent -> 2.2", "torch: 2.9.0a0+145a3a7.nv25.10 -> 2.9.0",
    ]  # fmt: skip


def test_the_script_as_the_build_calls_it(
    keep: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(keep, "NEEDED", ("torch", "megatron-core", "nemo-toolkit"))  # a CPU has no TransformerEngine
    file = tmp_path / "kept.txt"
    assert keep.main(["write", str(file)]) == 0 and "\ntorch==" in file.read_text()
    assert keep.main(["check", str(file)]) == 0
    file.write_text(re.sub(r"(?m)^torch==.*", "torch==1.0", file.read_text()))
    assert keep.main(["check", str(file)]) == 1
    assert "error: the installation changed torch: 1.0 -> " in capsys.readouterr().err
    assert keep.main(["compare"]) == 2
