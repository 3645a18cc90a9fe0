# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A member that vLLM would load and get wrong is refused: what of that can be seen without vLLM.

vLLM builds every Mamba layer by the config's own widths and reads as much of a tensor as it has room for.
"""

from __future__ import annotations

import json

import pytest

from nemo_elastic.formats.hf.config import to_hf_config
from tests.formats.hf.hf_client import run_code
from tests.workers import ROOT

from .families import CASES, PARENT, with_widths

TEMPLATE = ROOT / "nemo_elastic" / "formats" / "hf" / "puzzle" / "configuration_nemotron_h_puzzle.py.txt"
ASK = """
import json, sys
config = NemotronHPuzzleConfig(**json.loads(sys.argv[1]))
assert config.layer_config(0).mamba_num_heads == 6
config.get_nemotron_h_config_for_layer(1)
"""


def test_widths_of_the_config_are_the_largest():
    uneven = with_widths(PARENT.full, "mamba_heads", {0: 6})
    uneven = with_widths(with_widths(uneven, "attention_heads", {3: 4}), "ffn", {1: 64})
    config = to_hf_config(PARENT, uneven)
    assert (config["mamba_num_heads"], config["num_attention_heads"], config["intermediate_size"]) == (8, 8, 256)


@pytest.mark.hf
def test_mamba_layers_that_differ():
    config = json.dumps(to_hf_config(PARENT, CASES["Mamba heads per layer"].member))
    done = run_code(TEMPLATE.read_text(encoding="utf-8") + ASK, config)
    assert done.returncode == 1
    assert "ValueError: vLLM needs one mamba_num_heads in all layers, this model has [6, 8]" in done.stderr
