# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What NeMo's jobs call what they leave in a rehearsal's folder."""

from __future__ import annotations

from pathlib import Path

from nemo_elastic.hosts.nemo.curriculum.jobs import ranked_checkpoint, stage_checkpoint
from nemo_elastic.rehearsal.checks import Place


class NemoPlace(Place):
    """Where a rehearsal on NeMo ran."""

    def ranked(self) -> Path:
        return Path(ranked_checkpoint(str(self.dir)))

    def end(self, stage: int) -> Path:
        return Path(stage_checkpoint(str(self.dir), self.curriculum, stage))

    def run(self, stage: int) -> Path:
        return self.dir / f"stage{stage}"
