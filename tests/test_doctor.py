# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""doctor: judgement of made-up machines, and a real look at this one."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nemo_elastic.cli import main
from nemo_elastic.doctor import ERROR, NOTE, PACKAGES, WARNING, Device, Facts, collect, diagnose, paths

ROOT = Path(__file__).parents[1]
H100 = Device("NVIDIA H100 80GB HBM3", 85_520_809_984, (9, 0))
CPU = Facts(
    python=(3, 11, 7),
    versions={
        "nemo-elastic": "0.1.0", "torch": "2.13.0+cpu", "nemo-toolkit": "2.7.3", "megatron-core": "0.15.3",
        "nemo-run": "0.11.1", "nvidia-modelopt": "0.37.0", "lightning": "2.4.0", "transformers": "4.57.6",
        "numpy": "1.26.4",
    },
    llm=True,
)  # fmt: skip
KERNELS = {"mamba-ssm": "2.2.5", "causal-conv1d": "1.5.2", "transformer-engine": "2.9.0", "triton": "3.5.0"}
CUDA = replace(CPU, versions={**CPU.versions, **KERNELS, "torch": "2.9.0"}, gpus=(H100,) * 8, driver=True, cuda="13.0")
BRIDGE = Facts(
    python=(3, 12, 1),
    versions={
        "nemo-elastic": "0.1.0", "torch": "2.13.0", "megatron-bridge": "0.6.2", "megatron-core": "0.19.2",
        "transformers": "5.12.1", "transformer-engine": "2.9.0", "triton": "3.7.1", "mamba-ssm": "2.3.2",
        "causal-conv1d": "1.6.2", "nemo-run": "0.11.1",
    },
    gpus=(H100,) * 8, driver=True, cuda="13.0",
)  # fmt: skip
DEPLOYER = Facts(python=(3, 12, 1), versions={"nemo-elastic": "0.1.0", "numpy": "2.1.0"})


def with_versions(facts: Facts, **changes: str | None) -> Facts:
    return replace(facts, versions={**facts.versions, **{k.replace("_", "-"): v for k, v in changes.items()}})


@pytest.mark.parametrize("facts", [CPU, CUDA, BRIDGE], ids=["cpu", "cuda", "bridge"])
def test_a_fit_machine_has_no_findings(facts: Facts) -> None:
    assert diagnose(facts) == []


#: what is wrong: facts -> (level, about, words of the fix)
SICK = {
    "python 3.13": (replace(CPU, python=(3, 13, 0)), ERROR, "python", "environment"),
    "nemo 3": (with_versions(CPU, nemo_toolkit="3.0.0"), ERROR, "nemo-toolkit", "~=2.7.3"),
    "nemo 2.5": (with_versions(CPU, nemo_toolkit="2.5.0"), ERROR, "nemo-toolkit", "nemo:25.11"),
    "core 0.14": (with_versions(CPU, megatron_core="0.14.0rc7"), ERROR, "megatron-core", "nemo:25.11"),
    "core 0.16": (with_versions(CPU, megatron_core="0.16.0"), ERROR, "megatron-core", "~=0.15.3"),
    "transformers 5": (with_versions(CPU, transformers="5.6.0"), ERROR, "transformers", "<5"),
    "no nemo-run": (with_versions(CPU, nemo_run=None), ERROR, "nemo-run", "[nemo]'"),
    "mamba-ssm on a CPU": (with_versions(CPU, mamba_ssm="2.2.5"), ERROR, "mamba-ssm", "pip uninstall mamba-ssm"),
    "triton on a CPU": (with_versions(CPU, triton="3.5.0"), WARNING, "triton", "CPU build"),
    "no kernels": (with_versions(CUDA, mamba_ssm=None), WARNING, "mamba-ssm", "[gpu]'"),
    "half the kernels": (with_versions(CUDA, causal_conv1d=None), ERROR, "causal-conv1d", "causal-conv1d~=1.5"),
    "both hosts": (with_versions(BRIDGE, nemo_toolkit="2.7.3"), ERROR, "nemo-toolkit", "pip uninstall"),
    "an old core of Bridge's": (with_versions(BRIDGE, megatron_core="0.16.1"), ERROR, "megatron-core", ">=0.19.2"),
    "Bridge without TE": (with_versions(BRIDGE, transformer_engine=None), ERROR, "transformer-engine", "test-bridge"),
    "Bridge on 3.11": (replace(BRIDGE, python=(3, 11, 7)), ERROR, "python", "3.12"),
    "Bridge without transformers": (with_versions(BRIDGE, transformers=None), ERROR, "transformers", "[bridge]"),
    "Bridge without nemo-run": (with_versions(BRIDGE, nemo_run=None), NOTE, "nemo-run", "[submit]"),
    "broken kernels": (
        replace(CUDA, broken={"causal_conv1d": "undefined symbol: _ZN3c10"}), ERROR, "causal-conv1d", "build it",
    ),
    "GPU not used": (replace(CPU, driver=True), WARNING, "torch", "CUDA build"),
    "nvcc without a GPU": (replace(CPU, cuda="13.0", unsure=True), ERROR, "torch", "TORCH_CUDA_ARCH_LIST=8.0"),
    "old GPU": (replace(CUDA, gpus=(Device("V100", 2**35, (7, 0)),)), WARNING, "V100", "A100"),
    "range": (replace(CPU, unmet=("numpy<2,>=1.26",)), WARNING, "numpy", "pip install 'numpy<2,>=1.26'"),
}  # fmt: skip


@pytest.mark.parametrize(("facts", "level", "about", "fix"), SICK.values(), ids=SICK.keys())
def test_one_thing_is_wrong(facts: Facts, level: str, about: str, fix: str) -> None:
    (actual,) = diagnose(facts)
    assert (actual.level, actual.about) == (level, about) and fix in actual.fix
    assert ("will not work: see " + about in paths(facts)["training"]) is (level == ERROR)


def test_a_deployer_needs_neither_torch_nor_nemo() -> None:
    (actual,) = diagnose(DEPLOYER)
    assert actual.level == NOTE and "slice, init, inspect, verify" in actual.problem
    report = paths(DEPLOYER)
    assert report["slice, init, inspect, verify, plan"] == "ready"
    assert "[runtime]'" in report["eval, rank"] and "[nemo]'" in report["training"]


def test_what_will_be_used_and_the_worst_first() -> None:
    assert "8 x NVIDIA H100" in paths(CUDA)["training"] and "fused" in paths(CUDA)["Mamba scan in training"]
    for facts in (CPU, replace(CUDA, broken={"causal_conv1d": "no"})):
        assert paths(facts)["Mamba scan in training"] == "torch (nn.ssd)"
    facts = replace(with_versions(CPU, triton="3.5.0", transformers="5.0.0"), driver=True)
    assert [f.level for f in diagnose(facts)] == [ERROR, WARNING, WARNING]


def test_a_real_look_at_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    facts = collect()
    assert facts.python == sys.version_info[:3]
    assert facts.versions["torch"] == importlib.metadata.version("torch")
    assert set(facts.versions) == set(PACKAGES)
    with pytest.raises(SystemExit) as done:
        main(["doctor", "--json"])
    printed = json.loads(capsys.readouterr().out)
    wrong = [f for f in printed["findings"] if f["level"] == ERROR]
    assert printed["ok"] is not bool(wrong) and done.value.code == (1 if wrong else 0)
    with pytest.raises(SystemExit):
        main(["doctor"])
    text = capsys.readouterr().out
    assert all(name in text for name in (*PACKAGES, "used here:", "GPUs"))


def test_megatron_is_found_whoever_brings_it(tmp_path: Path) -> None:
    """Megatron-LM will have both packages in one folder, under no name of a distribution that we know."""
    for package, release in (("bridge", "0.7.0"), ("core", "0.20.1")):
        (tmp_path / "megatron" / package).mkdir(parents=True)
        (tmp_path / "megatron" / package / "__init__.py").write_text("raise SystemExit('imported')\n")
        (tmp_path / "megatron" / package / "package_info.py").write_text(f"__shortversion__ = {release!r}\n")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "from nemo_elastic.doctor import collect\n"
        "facts = collect()\n"
        "print(facts.host, *(facts.versions[name] for name in ('megatron-bridge', 'megatron-core')))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=1800)
    assert done.stdout.split() == ["bridge", "0.7.0", "0.20.1"], done.stderr


def test_it_looks_without_any_package_installed() -> None:
    """-S hides site-packages: neither torch nor NeMo nor packaging is there."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from nemo_elastic.doctor import collect, diagnose\n"
        "facts = collect()\n"
        "print(facts.has('torch'), facts.trains, [f.level for f in diagnose(facts)])"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=1800)
    assert done.stdout.strip() == "False False ['note']", done.stderr
