# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A hybrid with experts, 1.8M parameters of which a token meets 1.2M → 1.2M and 0.8M, on Megatron-Bridge.

    python recipes/bridge/nemotron_elastic_tiny_experts.py --dir runs/experts

On a CPU: parent, rank, both stages, slice, as nemotron_elastic_tiny.py does it. Experts, their widths, the shared
expert's and all widths around them are cut.
"""

from __future__ import annotations

from pathlib import Path

BLOCK = Path(__file__).resolve().parents[2] / "conf" / "elastic_tiny_experts.yaml"

if __name__ == "__main__":
    from nemo_elastic.hosts.bridge.tiny import TINY_EXPERTS, main

    main(BLOCK, "runs/experts", __doc__, sizes=TINY_EXPERTS)
