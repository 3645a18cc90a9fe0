# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A Nemotron-H of 1.6M parameters → 1.1M and 0.8M on Megatron-Bridge, on a CPU: parent, rank, both stages, slice.

    python recipes/bridge/nemotron_elastic_tiny.py --dir runs/bridge

One process, some minutes. Without TransformerEngine, which a CPU cannot have, Bridge cannot be imported; `make
demo-bridge` puts something in its place.
"""

from __future__ import annotations

from pathlib import Path

BLOCK = Path(__file__).resolve().parents[2] / "conf" / "elastic_tiny.yaml"

if __name__ == "__main__":
    from nemo_elastic.hosts.bridge.tiny import main

    main(BLOCK, "runs/bridge", __doc__)
