# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What is installed, what will be used, and what is wrong: facts, and pure functions on them.

`collect` looks at this machine; `diagnose` and `paths` only judge that. NeMo is never imported: that takes
ten seconds, and the release numbers say enough.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import runpy
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nemo_elastic.extras import has, installing

__all__ = ["ERROR", "NOTE", "WARNING", "Device", "Facts", "Finding", "collect", "diagnose", "paths"]

ERROR, WARNING, NOTE = "error", "warning", "note"

#: what training needs, beside torch: distributions
TRAINING = ("nemo-toolkit", "megatron-core", "nemo-run", "nvidia-modelopt", "lightning", "transformers")
#: the same on Megatron-Bridge, the other host, which has an environment of its own
BRIDGE = ("megatron-bridge", "megatron-core", "transformers")
#: CUDA kernels that break a CPU environment: distribution -> module that holds them
KERNELS = {
    "mamba-ssm": "mamba_ssm.ops.triton.ssd_combined",
    "causal-conv1d": "causal_conv1d",
    "transformer-engine": "transformer_engine",
}
#: distributions whose package others may bring, too, and that says its release itself
PACKAGED = {"megatron-bridge": "megatron.bridge", "megatron-core": "megatron.core"}
PACKAGES = ("nemo-elastic", "torch", *TRAINING, "megatron-bridge", *KERNELS, "triton", "numpy")


@dataclass(frozen=True)
class Device:
    """One GPU: its name, bytes, and compute capability."""

    name: str
    memory: int
    capability: tuple[int, int]


@dataclass(frozen=True)
class Facts:
    """What is here.

    Attributes:
        python: release of the interpreter; system: operating system and machine.
        versions: distribution -> release, None where it is not installed.
        gpus: what torch can use; driver: the machine has NVIDIA's driver.
        cuda: CUDA release that torch was built for; None for a CPU build, or without torch.
        unsure: torch finds CUDA's compiler and not for which GPU it should compile.
        llm: NeMo's collection of language models is there.
        broken: module -> what importing it said.
        unmet: requirements of the host's extra, nemo or bridge, that installed releases do not meet.
    """

    python: tuple[int, int, int]
    system: str = "Linux x86_64"
    versions: Mapping[str, str | None] = field(default_factory=dict)
    gpus: tuple[Device, ...] = ()
    driver: bool = False
    cuda: str | None = None
    unsure: bool = False
    llm: bool = False
    broken: Mapping[str, str] = field(default_factory=dict)
    unmet: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        return self.versions.get(name) is not None

    def release(self, name: str) -> tuple[int, ...]:
        """Numbers of a release: 2.7.3rc1 is (2, 7, 3)."""
        return tuple(int(n) for n in re.findall(r"\d+", re.split(r"[a-z+]", self.versions.get(name) or "")[0]))

    @property
    def trains(self) -> bool:
        """Something of the training stack is installed, so it is meant to work."""
        return self.has("nemo-toolkit") or self.has("megatron-core") or self.has("megatron-bridge")

    @property
    def host(self) -> str:
        """Who trains here, as `nemo-elastic train --host` says it."""
        return "bridge" if self.has("megatron-bridge") else "nemo"


@dataclass(frozen=True)
class Finding:
    """One thing to know: how bad it is, what it is about, what is wrong, and what fixes it."""

    level: str
    about: str
    problem: str
    fix: str


def diagnose(facts: Facts) -> list[Finding]:
    """Everything that is wrong or worth knowing, the worst first. Only errors keep training from working."""
    host = _bridge(facts) if facts.host == "bridge" else _training(facts)
    sections = (_python(facts), host, _kernels(facts), _torch(facts))
    findings = [Finding(*each) for section in sections for each in section]
    return sorted(findings, key=lambda f: (ERROR, WARNING, NOTE).index(f.level))


_Findings = Iterator[tuple[str, str, str, str]]


def _python(facts: Facts) -> _Findings:
    if not (3, 10) <= facts.python[:2] < (3, 13):
        yield ERROR, "python", "NeMo 2.7 and ModelOpt take 3.10 to 3.12", "make an environment with one of those"


def _training(facts: Facts) -> _Findings:
    if not facts.trains:
        problem = "not installed; slice, init, inspect, verify and plan need nothing more"
        yield NOTE, "training", problem, installing("nemo")
        return
    for name in ("torch", *TRAINING):
        if not facts.has(name):
            yield ERROR, name, "missing, and training needs it", installing("nemo")
    nemo, core = facts.release("nemo-toolkit"), facts.release("megatron-core")
    if facts.has("nemo-toolkit"):
        if nemo >= (3,) or not facts.llm:
            problem = "has no nemo.collections.llm, which 3.0 dropped; nothing can be trained"
            yield ERROR, "nemo-toolkit", problem, "pip install 'nemo-toolkit[lightning]~=2.7.3'"
        elif nemo < (2, 6):
            problem = "comes with a megatron-core that this package cannot train on"
            yield ERROR, "nemo-toolkit", problem, "use NeMo 2.7, or the container nemo:25.11"
    if facts.has("megatron-core") and core < (0, 15):
        fix = "pip install 'megatron-core~=0.15.3', or the container nemo:25.11"
        yield ERROR, "megatron-core", "0.14 and older have no ProcessGroupCollection", fix
    if core >= (0, 16):
        problem = "0.16 imports triton whatever the machine, and dropped arguments that NeMo 2.7 passes"
        yield ERROR, "megatron-core", problem, "pip install 'megatron-core~=0.15.3'"
    if facts.release("transformers") >= (5,):
        yield ERROR, "transformers", "NeMo 2.7 does not work with 5", "pip install 'transformers>=4.57,<5'"
    yield from _untested(facts)


def _bridge(facts: Facts) -> _Findings:
    if facts.python < (3, 12):
        yield ERROR, "python", "Megatron-Bridge takes 3.12 and newer", "make an environment with 3.12"
    for name in ("torch", *BRIDGE):
        if not facts.has(name):
            yield ERROR, name, "missing, and Megatron-Bridge needs it", installing("bridge")
    if facts.has("nemo-toolkit"):
        problem = "NeMo 2.7 needs transformers 4, Megatron-Bridge 5.8 and newer; one environment cannot hold both"
        yield ERROR, "nemo-toolkit", problem, "pip uninstall nemo-toolkit, or megatron-bridge"
    if facts.has("megatron-core") and not (0, 19) <= facts.release("megatron-core") < (0, 20):
        problem = "this package is tested on 0.19 with Megatron-Bridge"
        yield ERROR, "megatron-core", problem, "pip install 'megatron-core>=0.19.2,<0.20'"
    if not facts.has("transformer-engine"):
        problem = "missing, and Megatron-Bridge imports it whatever the machine: train on a GPU"
        fix = "on a CPU, where it cannot run, `make test-bridge` runs this host at small scale"
        yield ERROR if facts.gpus else WARNING, "transformer-engine", problem, fix
    if not facts.has("nemo-run"):
        problem = "missing: jobs are started one by one with torchrun; rehearse and recipes/run.py need it"
        yield NOTE, "nemo-run", problem, installing("submit")
    yield from _untested(facts)


def _untested(facts: Facts) -> _Findings:
    for line in facts.unmet:
        problem = f"this package is tested with {line}"
        yield WARNING, re.split(r"[^\w.-]", line)[0], problem, f"pip install '{line}' if something fails"


def _kernels(facts: Facts) -> _Findings:
    if not facts.gpus:
        for name in KERNELS:
            if facts.has(name) and facts.trains:
                problem = "megatron-core takes it for a sign of kernels, which need a GPU; training fails"
                yield ERROR, name, problem, f"pip uninstall {name}"
        if facts.unsure and facts.trains:
            problem = (
                "is built for CUDA and finds CUDA's compiler but no GPU: importing megatron-core ends in an IndexError"
            )
            yield ERROR, "torch", problem, "export TORCH_CUDA_ARCH_LIST=8.0, or install torch's CPU build"
        if facts.has("triton") and facts.trains and facts.host == "nemo":  # today's megatron-core imports it
            problem = "megatron-core takes it for a sign of kernels, which need a GPU"
            yield WARNING, "triton", problem, "pip uninstall triton, or install torch's CPU build"
        return
    for name, module in KERNELS.items():
        if module in facts.broken:
            fix = f"build it for this torch: pip install --no-build-isolation --force-reinstall --no-deps {name}"
            yield ERROR, name, f"cannot be imported ({facts.broken[module]})", fix
    if not facts.trains:
        return
    if not facts.has("mamba-ssm"):
        problem = "missing: the scan runs in torch, slower and with several times the activations"
        yield WARNING, "mamba-ssm", problem, installing("gpu", "--no-build-isolation ")
    elif not facts.has("causal-conv1d"):
        problem = "missing: mamba-ssm's fused scan calls it and fails in the first forward"
        yield ERROR, "causal-conv1d", problem, "pip install --no-build-isolation 'causal-conv1d~=1.5'"


def _torch(facts: Facts) -> _Findings:
    if facts.driver and facts.has("torch") and not facts.gpus:
        problem = "is a CPU build" if facts.cuda is None else f"is built for CUDA {facts.cuda} and sees no GPU"
        fix = "install the CUDA build" if facts.cuda is None else "check nvidia-smi, CUDA_VISIBLE_DEVICES, the driver"
        yield WARNING, "torch", f"{problem}, on a machine with NVIDIA's driver: the GPU is not used", fix
    for name, gpu in {g.name: g for g in facts.gpus}.items():
        if gpu.capability < (8, 0):
            problem = f"compute capability {gpu.capability[0]}.{gpu.capability[1]} has no bf16"
            yield WARNING, name, problem, "train on an A100 or newer"


def paths(facts: Facts) -> dict[str, str]:
    """What each part will use here, in words."""
    device = f"{len(facts.gpus)} x {facts.gpus[0].name}" if facts.gpus else "this CPU"
    errors = [f for f in diagnose(facts) if f.level == ERROR]
    if not facts.trains:
        training = f"not installed: {installing('nemo')}"
    elif errors:
        training = f"will not work: see {', '.join(dict.fromkeys(f.about for f in errors))}"
    else:
        by = "Megatron-Bridge" if facts.host == "bridge" else "MegatronStrategy"
        training = f"on {device}, " + (by if facts.gpus else "gloo, with CUDA's names redirected")
    fused = facts.gpus and facts.has("mamba-ssm") and facts.has("causal-conv1d")
    fused = fused and not {KERNELS["mamba-ssm"], KERNELS["causal-conv1d"]} & set(facts.broken)
    return {
        "slice, init, inspect, verify, plan": "ready",
        "eval, rank": f"on {device}" if facts.has("torch") else f"not installed: {installing('runtime')}",
        "training": training,
        "Mamba scan in training": "mamba_ssm's fused kernel on sliced tensors" if fused else "torch (nn.ssd)",
        "attention": "torch's scaled_dot_product_attention",
        "linears and norms": "this package's sliced ones; TransformerEngine is not used",
    }


def collect() -> Facts:
    """Look at this machine. Imports torch where it is installed, and kernels where there is a GPU to run them."""
    versions = {name: _version(name) for name in PACKAGES}
    gpus: tuple[Device, ...] = ()
    cuda, broken = None, {}
    if importlib.util.find_spec("torch") is not None:
        import torch

        cuda = torch.version.cuda
        if torch.cuda.is_available():
            every = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
            gpus = tuple(Device(p.name, p.total_memory, (p.major, p.minor)) for p in every)
    if gpus:
        for name, module in KERNELS.items():
            if versions[name] is not None and (said := _import_error(module)) is not None:
                broken[module] = said
    return Facts(
        python=(sys.version_info.major, sys.version_info.minor, sys.version_info.micro),
        system=f"{platform.system()} {platform.machine()}",
        versions=versions,
        gpus=gpus,
        driver=Path("/proc/driver/nvidia/version").exists(),
        cuda=cuda,
        unsure=bool(cuda) and not gpus and _compiler() and not os.environ.get("TORCH_CUDA_ARCH_LIST"),
        llm=_has_llm(),
        broken=broken,
        unmet=_unmet("bridge" if versions["megatron-bridge"] is not None else "nemo"),
    )


def _compiler() -> bool:
    """Whether torch finds CUDA's compiler, where it looks for it."""
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return bool(named or shutil.which("nvcc") or Path("/usr/local/cuda").exists())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        spec = importlib.util.find_spec(PACKAGED[name]) if name in PACKAGED and has(PACKAGED[name]) else None
        if spec is None or spec.origin is None:
            return None
        return runpy.run_path(str(Path(spec.origin).with_name("package_info.py")))["__shortversion__"]


def _import_error(module: str) -> str | None:
    try:
        importlib.import_module(module)
    except Exception as exc:  # a kernel built for another torch fails in any way it likes
        return (str(exc).strip() or type(exc).__name__).splitlines()[0]
    return None


def _has_llm() -> bool:
    spec = importlib.util.find_spec("nemo")
    folders = (spec.submodule_search_locations or []) if spec is not None else []
    return any(Path(folder, "collections", "llm").is_dir() for folder in folders)


def _unmet(extra: str) -> tuple[str, ...]:
    """Requirements of an extra that an installed release does not meet; missing ones are problem elsewhere."""
    try:
        from packaging.requirements import Requirement

        lines = importlib.metadata.requires("nemo-elastic") or []
    except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError):
        return ()
    out = []
    for line in lines:
        needed: Any = Requirement(line)
        if needed.marker is None or not needed.marker.evaluate({"extra": extra}):
            continue
        held = _version(needed.name)
        if held is not None and not needed.specifier.contains(held, prereleases=True):
            out.append(f"{needed.name}{needed.specifier}")
    return tuple(out)
