# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The `nemo-elastic` command line. Nothing here imports torch or NeMo before a command runs, nor anything at first."""

from __future__ import annotations

TYPE_CHECKING = False  # see `nemo_elastic`
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit; see `app.main`.

    Ctrl-C may come before anything is imported that knows how to tell it.
    """
    try:
        from .app import main as run

        run(argv)
    except KeyboardInterrupt:
        import sys

        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None
