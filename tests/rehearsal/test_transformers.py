# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Losses from another environment: a python is started there, and what it says is believed or reported."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from nemo_elastic.rehearsal.transformers import PYTHON, lose_in_transformers

TOKENS, LABELS = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])
#: stands for the python of another environment: it reads what it is given and writes it down beside itself
OTHER = """#!{python}
import json, os, sys
import numpy as np
_, _, script, folders, tokens, labels = sys.argv
place = os.path.dirname(os.path.abspath(__file__))
seen = {{"folders": json.loads(folders), "tokens": np.load(tokens).tolist(), "labels": np.load(labels).tolist(),
        "environment": dict(os.environ), "here": os.getcwd()}}
json.dump(seen, open(os.path.join(place, "seen.json"), "w"))
compile(script, "script", "exec")
{end}
"""


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(end: str) -> Path:
        python = tmp_path / "python"
        python.write_text(OTHER.format(python=sys.executable, end=end))
        python.chmod(0o755)
        monkeypatch.setenv(PYTHON, str(python))
        return tmp_path / "seen.json"

    return write


def lose() -> tuple[dict[str, float] | None, str]:
    return lose_in_transformers({"half": Path("/cuts/half")}, TOKENS, LABELS)


def test_losses_come_from_an_environment_without_packages_of_this_one_and_without_network(other, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    seen = other("""print("a word before"); print('{"version": "5.1", "losses": {"half": 2.5}}')""")
    assert lose() == ({"half": 2.5}, "transformers 5.1")
    data = json.loads(seen.read_text())
    assert data["folders"] == {"half": "/cuts/half"}
    assert (data["tokens"], data["labels"]) == (TOKENS.tolist(), LABELS.tolist())
    assert not any(name.startswith("PYTHON") for name in data["environment"])
    assert data["environment"]["HF_HUB_OFFLINE"] == "1" and data["here"] != os.getcwd()


def test_a_release_without_the_architecture_gives_none(other) -> None:
    other("""print('{"version": "4.57", "losses": null}')""")
    losses, why = lose()
    assert losses is None and why.startswith("transformers 4.57 ")


@pytest.mark.parametrize(
    ("end", "message"), [("raise OSError('no room')", "OSError: no room"), ("sys.exit(3)", "no word")]
)
def test_one_that_fails_is_reported_by_its_last_line(other, tmp_path: Path, end: str, message: str) -> None:
    other(end)
    assert lose() == (None, f"{tmp_path / 'python'}: {message}")
