# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What Megatron-Bridge's jobs call what they leave in a rehearsal's folder."""

from __future__ import annotations

from pathlib import Path

from nemo_elastic.hosts.bridge.curriculum import checkpoints
from nemo_elastic.rehearsal.checks import Place


class BridgePlace(Place):
    """Where a rehearsal on Megatron-Bridge ran."""

    def ranked(self) -> Path:
        return Path(checkpoints(str(self.dir), "rank"))

    def end(self, stage: int) -> Path:
        return Path(checkpoints(str(self.dir), f"stage{stage}"))

    def run(self, stage: int) -> Path:
        return self.end(stage)
