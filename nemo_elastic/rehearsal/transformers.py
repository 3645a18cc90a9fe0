# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What members lose in stock transformers, in a process of its own: version 5 needs another environment than NeMo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

#: variable that names the python of an environment with transformers 5
PYTHON = "NEMO_ELASTIC_HF_PYTHON"
#: runs there, where this package is not installed: folders by name and tokens in, losses by name out
SCRIPT = """
import json, sys
import numpy as np, torch
import transformers
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
folders, tokens, labels = json.loads(sys.argv[1]), np.load(sys.argv[2]), np.load(sys.argv[3])
report = {"version": transformers.__version__, "losses": None}
if "nemotron_h" in CONFIG_MAPPING:
    report["losses"] = {}
    for name, folder in folders.items():
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            logits = model(torch.from_numpy(tokens)).logits.flatten(0, 1)
        report["losses"][name] = float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).flatten()))
print(json.dumps(report))
"""


def lose_in_transformers(
    folders: Mapping[str, Path], tokens_bl: torch.Tensor, labels_bl: torch.Tensor
) -> tuple[dict[str, float] | None, str]:
    """Cross-entropy of folders in nats per token, computed by transformers.

    Args:
        folders: members by name.
        tokens_bl, labels_bl: token ids and what follows each.

    Returns:
        Losses by name, and the release that computed them; None and why, where no environment has an architecture
        `nemotron_h`.
    """
    # it is called from another folder; a link into an environment must not be resolved
    python = os.path.abspath(os.environ.get(PYTHON) or sys.executable)
    with tempfile.TemporaryDirectory() as place:
        files = [str(Path(place, name)) for name in ("tokens.npy", "labels.npy")]
        for file, values in zip(files, (tokens_bl, labels_bl), strict=True):
            np.save(file, values.cpu().numpy())
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        clean |= {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(Path(place, "modules"))}
        named = json.dumps({name: str(folder) for name, folder in folders.items()})
        command = [python, "-c", SCRIPT, named, *files]
        done = subprocess.run(command, env=clean, cwd=place, capture_output=True, text=True)
    if done.returncode:
        return None, f"{python}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}"
    report = json.loads(done.stdout.splitlines()[-1])
    release = f"transformers {report['version']}"
    if report["losses"] is None:
        return None, f"{release} has no nemotron_h; {PYTHON} names the python of an environment with version 5"
    return report["losses"], release
