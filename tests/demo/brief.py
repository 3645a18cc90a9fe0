# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The demo with almost no steps: every part of it, and nothing learned. Arguments: steps of the parent, its own."""

import sys
from dataclasses import replace

from nemo_elastic.cli import main
from nemo_elastic.demo import settings

if __name__ == "__main__":
    settings.SHORT = replace(
        settings.SHORT, parent_steps=int(sys.argv[1]), stage1_steps=4, stage2_steps=2, vocab=300, eval_every=0,
        eval_tokens=1024, problems=2,
    )  # fmt: skip
    main(sys.argv[2:])
