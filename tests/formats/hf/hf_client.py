# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The other end of `hf_worker.py`: stock transformers as an object.

transformers 5 lives in an environment of its own; the variable NEMO_ELASTIC_HF_PYTHON names its python. All folders of
a test file go through one process, because importing transformers takes longer than running them.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[3]


class Worker:
    """A running worker.

    Args:
        place: Folder for what travels.
        process: The process.
    """

    def __init__(self, place: Path, process: subprocess.Popen[str]) -> None:
        self.place, self.process, self.count = place, process, 0

    def ask(self, do: str, **arguments: Any) -> Any:
        """Call a function of the worker."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        assert line, f"{do} {arguments}: the worker stopped:\n{(self.place / 'stderr').read_text()[-3000:]}"
        return json.loads(line)

    def arrays(self, do: str, tokens: np.ndarray, **arguments: Any) -> tuple[dict[str, np.ndarray], dict]:
        """Call one that takes tokens: the arrays that it wrote and its answer."""
        self.count += 1
        files = self.place / f"{self.count}.npy", self.place / f"{self.count}.npz"
        np.save(files[0], tokens)
        report = self.ask(do, tokens=str(files[0]), out=str(files[1]), **arguments)
        with np.load(files[1]) as read:
            return dict(read), report


def hf_python() -> Path:
    """The interpreter that has transformers 5."""
    python = ROOT / os.environ.get("NEMO_ELASTIC_HF_PYTHON", ".venv-hf/bin/python")
    assert python.exists(), f"{python} is missing: `make venv` makes it, or set NEMO_ELASTIC_HF_PYTHON"
    return python


def clean() -> dict[str, str]:
    """An environment in which it does not find this project."""
    return {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}


def run_code(code: str, *arguments: str, place: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code where transformers is."""
    command = [str(hf_python()), "-c", code, *arguments]
    return subprocess.run(command, cwd=place, env=clean(), capture_output=True, text=True, timeout=1800)


@contextmanager
def worker(place: Path) -> Iterator[Worker]:
    """Start a worker, and stop it when the block ends."""
    extra = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(place / "modules"), "OMP_NUM_THREADS": "1"}
    with open(place / "stderr", "w") as errors:
        process = subprocess.Popen(
            [str(hf_python()), str(Path(__file__).with_name("hf_worker.py"))],
            env=clean() | extra,
            cwd=place,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        yield Worker(place, process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
