# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The demo with almost no steps and little text: every part of it, and nothing learned.

Arguments: steps of the parent, its own.
"""

import sys
import sysconfig
from dataclasses import replace
from functools import partial
from pathlib import Path

from nemo_elastic.cli import main
from nemo_elastic.data import build
from nemo_elastic.demo import demo_settings as settings

if __name__ == "__main__":
    build.build_data = partial(build.build_data, sources=[Path(sysconfig.get_paths()["stdlib"], "email")])
    settings.SHORT = replace(
        settings.SHORT, parent_steps=int(sys.argv[1]), stage1_steps=4, stage2_steps=2, vocab=300, eval_every=0,
        eval_tokens=1024, problems=2,
    )  # fmt: skip
    main(sys.argv[2:])
