# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C stops a training as SIGTERM does: after the step under way, with a checkpoint.

Both hosts save on SIGTERM, by handlers that all ranks agree on; of Ctrl-C they make a traceback.
"""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any


class CtrlC:
    """From `start` to `stop` the first Ctrl-C sends SIGTERM to this process; pressed again, it ends at once.

    Attributes:
        pressed: whether it was pressed.
    """

    def __init__(self) -> None:
        self.pressed, self._tells = False, False
        self._before: Any = None

    def start(self, tells: bool) -> None:
        """Take SIGINT, unless this process ignores it, as a shell lets those that it starts with `&`.

        Args:
            tells: whether this rank prints that Ctrl-C was pressed.
        """
        self._tells = tells
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        if threading.current_thread() is threading.main_thread() and not ignored:  # only that one may take signals
            self._before = signal.signal(signal.SIGINT, self._take)

    def stop(self) -> None:
        """Give SIGINT back."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _take(self, *_: object) -> None:
        self.stop()
        self.pressed = True
        if self._tells:
            how = "the run saves a checkpoint after this step and stops; Ctrl-C again stops without one"
            print(f"\n  Ctrl-C: {how}", file=sys.stderr, flush=True)
        signal.raise_signal(signal.SIGTERM)
