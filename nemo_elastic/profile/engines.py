# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Models with random weights in an engine: our runtime in this process, transformers and vLLM each in its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.latency import Workload
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.hf.config import to_hf_config
from nemo_elastic.formats.kept import DTYPES
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime.family_runtime import FamilyRuntime

from . import engine_worker
from .timing import Model

__all__ = ["ENGINES", "RUNTIME", "Engine"]

RUNTIME, TRANSFORMERS, VLLM = ENGINES = ("runtime", "transformers", "vllm")
_TORCH = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
#: tokens of a sequence beyond the workload's: what engines keep for themselves
ROOM = 16


@dataclass
class Engine:
    """Where models are run.

    Attributes:
        name: one of `ENGINES`.
        work: what they are given.
        device: where they run: cpu, cuda, cuda:1.
        python: interpreter of an environment with the engine; for the runtime this one.
        facts: {"versions", "hardware"} of what ran, once a model was loaded.
    """

    name: str
    work: Workload
    device: str
    python: str
    facts: dict[str, Any] = field(default_factory=dict)

    def load(self, parent: Parent, member: Subnet) -> Model:
        """Load a model.

        Raises:
            ElasticError: the engine does not run it, with the last line of what it said.
        """
        model = _Own(self, parent, member) if self.name == RUNTIME else _Apart(self, parent, member)
        self.facts |= model.facts
        return model


class _Own:
    """A model in this process."""

    def __init__(self, engine: Engine, parent: Parent, member: Subnet) -> None:
        dtype = getattr(torch, _TORCH[engine.work.dtype])
        weights = NemotronH.random(parent, member=member, dtype=dtype)
        self._model = FamilyRuntime(weights, device=engine.device).select()
        self._batch, self._device = engine.work.batch, engine.device
        cuda = engine.device.startswith("cuda")
        hardware = torch.cuda.get_device_name(engine.device) if cuda else processor()
        versions = {"nemo-elastic": version("nemo-elastic"), "torch": torch.__version__}
        self.facts = {"versions": versions, "hardware": hardware}

    def seconds(self, prompt: int, new: int) -> float:
        """See `timing.Model`."""
        ids = torch.ones(self._batch, prompt, dtype=torch.long)
        began = time.perf_counter()
        self._model.generate(ids, new, stop_ids=[])
        return time.perf_counter() - began

    def close(self) -> None:
        """Give its memory back."""
        del self._model


class _Apart:
    """A model in a process of its own: engines keep what is global, and may need another environment."""

    def __init__(self, engine: Engine, parent: Parent, member: Subnet) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="nemo-elastic-profile-")
        config = to_hf_config(parent, member, dtype=DTYPES[engine.work.dtype])
        folder = Path(self._place.name, "model")
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        work = engine.work
        job = {"folder": str(folder), "dtype": _TORCH[work.dtype], "device": engine.device, "batch": work.batch}
        job["length"] = work.prompt + work.answer + ROOM
        self._said = Path(self._place.name, "stderr").open("w+")  # noqa: SIM115 - until `close`
        command = [engine.python, engine_worker.__file__, engine.name, json.dumps(job)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
            env=clean | {"HF_MODULES_CACHE": str(Path(self._place.name, "modules"))}, cwd=self._place.name,
        )  # fmt: skip
        self._name = engine.name
        self.facts = json.loads(self._line())
        self.facts["versions"] |= {"nemo-elastic": version("nemo-elastic")}
        self.facts["hardware"] = self.facts["hardware"] or processor()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._said.seek(0)
            last = [line.strip() for line in self._said if line.strip()]
            self.close()
            raise ElasticError(f"{self._name} does not run this model: {last[-1] if last else 'it said nothing'}")
        return line

    def seconds(self, prompt: int, new: int) -> float:
        """See `timing.Model`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([prompt, new]) + "\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                stream.close()
        self._place.cleanup()


def processor() -> str:
    """Name of this machine's processor and how many threads torch uses."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(named, platform.processor() or platform.machine())}, {torch.get_num_threads()} threads"
