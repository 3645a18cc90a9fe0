# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Models with random weights in an engine: our runtime in this process, transformers and vLLM in others."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.latency import Workload
from nemo_elastic.errors import ElasticError, bad
from nemo_elastic.formats.dtypes import DTYPES
from nemo_elastic.formats.hf.config import to_hf_config
from nemo_elastic.nn.nemotron_h import NemotronH
from nemo_elastic.runtime.family_runtime import FamilyRuntime

from . import engine_worker
from .measure import Model

__all__ = ["RUNTIME", "Engine", "alone"]

#: the engine in this process; the others are transformers and vllm
RUNTIME = "runtime"
_TORCH = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
#: tokens of a sequence that engines reserve, beyond the workload's
SPARE = 16
#: names or numbers of the GPUs that a process sees
SEEN = "CUDA_VISIBLE_DEVICES"


@dataclass
class Engine:
    """Where models are run.

    Attributes:
        name: runtime, transformers or vllm.
        work: batch and lengths.
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
            ElasticError: the engine does not run it, with the last line of its errors.
        """
        model = _InProcess(self, parent, member) if self.name == RUNTIME else _Subprocess(self, parent, member)
        self.facts |= model.facts
        self.facts["versions"] |= {"nemo-elastic": version("nemo-elastic")}
        return model


def alone(device: str, environment: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A device without its index, and environment variables that show a process only this GPU: vLLM takes the first.

    Raises:
        ElasticError: an index that is no number, or beyond the GPUs that this process's environment variables allow.
    """
    kind, colon, index = device.partition(":")
    if kind != "cuda" or not colon:
        return device, {}
    left, names = environment.get(SEEN), [""]
    if index.isdecimal():
        names = [index] if left is None else left.split(",")[int(index) :]
    if not names or not names[0]:
        raise bad("--device", device, f"cpu, cuda or cuda:1, of the GPUs that {SEEN} leaves ({left or 'all'})")
    return kind, {SEEN: names[0]}


class _InProcess:
    """A model in this process."""

    def __init__(self, engine: Engine, parent: Parent, member: Subnet) -> None:
        dtype, self._batch = getattr(torch, _TORCH[engine.work.dtype]), engine.work.batch
        weights = NemotronH.random(parent, member=member, dtype=dtype)
        self._model = FamilyRuntime(weights, device=engine.device).select()
        hardware = engine_worker.hardware(engine.device)
        self.facts = {"versions": {"torch": torch.__version__}, "hardware": hardware}

    def seconds(self, prompt: int, new: int) -> float:
        """See `measure.Model`."""
        ids = torch.ones(self._batch, prompt, dtype=torch.long)
        began = time.perf_counter()
        self._model.generate(ids, new, stop_ids=[])
        return time.perf_counter() - began

    def close(self) -> None:
        """Free its memory."""
        del self._model


class _Subprocess:
    """A model in a separate process: engines have global state, and may need another environment."""

    def __init__(self, engine: Engine, parent: Parent, member: Subnet) -> None:
        device, seen = alone(engine.device, os.environ)
        self._place = tempfile.TemporaryDirectory(prefix="nemo-elastic-profile-")
        place, work = Path(self._place.name), engine.work
        (place / "config.json").write_text(json.dumps(to_hf_config(parent, member, dtype=DTYPES[work.dtype])))
        job = {"folder": str(place), "dtype": _TORCH[work.dtype], "device": device, "batch": work.batch}
        job["length"] = work.prompt + work.answer + SPARE
        self._stderr = (place / "stderr").open("w+")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        self._process = subprocess.Popen(
            [engine.python, engine_worker.__file__, engine.name, json.dumps(job)], cwd=place, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr,
            env=clean | seen | {"HF_MODULES_CACHE": str(place / "modules")},
        )  # fmt: skip
        self._name = engine.name
        self.facts = json.loads(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._stderr.seek(0)
            last = [line.strip() for line in self._stderr if line.strip()]
            self.close()
            raise ElasticError(f"{self._name} does not run this model: {last[-1] if last else 'no output'}")
        return line

    def seconds(self, prompt: int, new: int) -> float:
        """See `measure.Model`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([prompt, new]) + "\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        """End the process."""
        with self._place, self._stderr, self._process:
            self._process.kill()
