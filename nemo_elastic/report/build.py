# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures and page of a run, in one folder that appears when it is whole."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from nemo_elastic.io.atomic import atomic_dir
from nemo_elastic.io.outputs import Output, check_apart, holds_text, why_kept

from . import fig_family, fig_importance, fig_loss, fig_router, fig_shapes
from .load import RunRecord, load_run
from .page import Picture, render
from .style import HEADROOM, NARROW, WIDE, Drawing, Sheet, headline, house, raise_edge, save, settle
from .svg import inline

PAGE = "report.html"
#: in a run's folder, where nothing else of a run is
DEFAULT = "report"
#: file -> what draws it, in the order of the page; None means that the run has nothing for it
FIGURES: dict[str, Callable[[RunRecord, Sheet], Drawing | None]] = {
    "family.png": fig_family.draw,
    "loss.png": fig_loss.draw,
    "shapes.png": fig_shapes.draw,
    "importance.png": fig_importance.draw,
    "router.png": fig_router.draw,
}

__all__ = ["FIGURES", "PAGE", "build_report"]


def _is_page(path: Path) -> bool:
    """Whether a file is the page of a report of ours, by what stands near its end."""
    return holds_text(path, b"<footer>Made by nemo-elastic ")


REPORT = Output("a report", "|".join(map(re.escape, FIGURES)), PAGE, _is_page)


def build_report(run: Path | str, out: Path | str | None = None, force: bool = False) -> Path:
    """Turn a run's folder into one HTML page with its pictures inside, and the same pictures as PNG files beside it.

    On the page they follow the reader's light or dark scheme and the width of the window.

    Parts that the run has not make the report shorter; damaged ones are left out and named on the page.

    Args:
        run: The folder that a run wrote, e.g. what `nemo-elastic demo --out` named.
        out: The folder to write, `report` in the run's when None. An earlier report there is replaced.
        force: Replace a link to an earlier report, too.

    Returns:
        The page.

    Raises:
        ElasticError: The run's folder holds nothing of a run, `out` exists and is no earlier report, or it is the run
            itself or a part of it.
    """
    run = Path(run)
    target = Path(out) if out is not None else run / DEFAULT
    read = _read_for(run)
    check_apart(target, *read)  # first: what is read may be what would be replaced
    loaded = load_run(run)
    earlier = target.is_dir() and not target.is_symlink() and why_kept(target, REPORT) is None
    with atomic_dir(target, force or earlier, read, REPORT) as folder:
        with house():
            drawn = {name: _picture(loaded, draw, folder / name) for name, draw in FIGURES.items()}
        pictures = {name: picture for name, picture in drawn.items() if picture is not None}
        (folder / PAGE).write_text(render(loaded, pictures), encoding="utf-8")
    return target / PAGE


def _picture(run: RunRecord, draw: Callable[[RunRecord, Sheet], Drawing | None], path: Path) -> Picture | None:
    """One picture in every form; None where the run has nothing for it."""
    wide, narrow = draw(run, WIDE), draw(run, NARROW)
    if wide is None or narrow is None:
        return None
    settle(wide.figure)
    settle(narrow.figure)
    words = f"{wide.words} {wide.more}".strip()
    told = f"{wide.title}: {words}"
    picture = Picture(
        wide.title, words, inline(wide.figure, f"{path.stem}-wide", told),
        inline(narrow.figure, f"{path.stem}-narrow", told),
    )  # fmt: skip
    raise_edge(wide.figure, HEADROOM)
    headline(wide.figure, wide.title, wide.words)  # the page has it as text
    save(wide.figure, path)
    return picture


def _read_for(run: Path) -> list[Path]:
    """What a report reads: everything in a run but earlier reports, which may be replaced."""
    try:
        inside = [Path(run, name) for name in os.listdir(run)]
    except OSError:
        return []  # `load_run` says what it is
    return [path for path in inside if path.name != DEFAULT and not _is_page(path / PAGE)]
