# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""`nemo-elastic`, killed by SIGKILL in the middle of a save: written, but not yet in its place.

python -m tests.ranking.killed_worker SAVE ARGUMENTS…
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from nemo_elastic.cli.app import main

replace, left = os.replace, int(sys.argv[1])


def killed(*given: Any) -> None:
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*given)


os.replace = killed
main(sys.argv[2:])
