# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""The demo from end to end: data → parent → stages → family → members → evaluation → report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nemo_elastic.io.outputs import Output, check_output, filled_dir, is_empty
from nemo_elastic.io.write import absolute, atomic_write
from nemo_elastic.verdicts import TIE

from .demo_settings import Settings

if TYPE_CHECKING:
    from nemo_elastic.cli.log_capture import LogCapture

VERSION = 1
PHASES = ("data", "start", "parent", "stage 1", "stage 2", "cut", "evaluation", "report")
DEMO = Output("a demo")
#: the file of all that is printed on the way
LOG = "demo.log"
#: loss above the parent's that each member may have, that the smaller ones may have untrained, and how far the parent
#: must be below a bigram model
LIMITS = (0.03, 0.04, 0.08)
UNTRAINED = (0.04, 0.15)
BIGRAM_MARGIN = 0.5


class Demo:
    """One run in one folder.

    Args:
        out: folder to fill; one that is not empty is refused unless `force`, which replaces it.
        settings: sizes.
        capture: redirects what libraries print, and has the screen.
        force: replace `out`, if it is a demo.
        err: print on stderr.
    """

    def __init__(
        self, out: Path, settings: Settings, capture: LogCapture, force: bool = False, err: bool = False
    ) -> None:
        self.out, self.settings, self.force = absolute(out).resolve(), settings, force
        if not is_empty(self.out):
            check_output(self.out, force, kind=DEMO)
        self.capture, self.console = capture, capture.err if err else capture.out
        self._drawn = False

    @contextmanager
    def phase(self, name: str, what: str) -> Iterator[None]:
        """Say what a phase does, and how long it took."""
        self.console.print(f"{name} ({PHASES.index(name) + 1} of {len(PHASES)}): {what}", soft_wrap=True)
        began = time.monotonic()
        with self.capture.live(self.console, lambda: f"  {name}  {time.monotonic() - began:.0f} s"):
            yield
        self.console.print(f"  {time.monotonic() - began:.0f} s")

    def draw(self, what: str) -> Path:
        """Draw what there is, in the place of what was drawn before."""
        from nemo_elastic.report import build_report

        page = build_report(self.out)
        self.tell(f"{what}: {page}")
        return page

    def _first_picture(self, step: int) -> None:
        """How the parent learns, as soon as there is a line to draw."""
        if step and not self._drawn:
            self._drawn = True
            self.draw("first picture")

    def tell(self, line: str) -> None:
        self.console.print(f"  {line}", soft_wrap=True)

    def count(self, line: str) -> None:
        """One of many lines: a terminal shows the newest, the file has all."""
        print(f"  {line}", flush=True)

    def run(self) -> dict[str, Any]:
        """Everything, in order; returns what metrics.json holds. An older demo goes when this one is whole."""
        with filled_dir(self.out, DEMO, self.force):
            self.capture.keep(self.out / LOG)
            return self._run()

    def _run(self) -> dict[str, Any]:
        from nemo_elastic.data.build import build_data

        s, out = self.settings, self.out
        began = time.monotonic()
        with self.phase("data", "text of the Python standard library and worked reasoning problems"):
            folder = build_data(out / "data", vocab=s.vocab, progress=self._data_progress())
        with self.phase("start", "import NeMo and Megatron"):
            from .quiet import quiet

            quiet()
            from .demo_training import train_parent, train_stage
        with self.phase("parent", f"{s.parent_steps} steps of a stock NeMo recipe"):
            parent = train_parent(out / "data", out / "parent", s, self._first_picture)
        with self.phase("stage 1", "rank, sort, search shapes; then train at 128 tokens"):
            first = train_stage(1, out / "data", out / "stage1", s, parent)
            self.draw("importance")
        with self.phase("stage 2", "the same members at 512 tokens"):
            second = train_stage(2, out / "data", out / "stage2", s, parent, first)
        with self.phase("cut", "every member as a Hugging Face folder and as a NeMo checkpoint"):
            self._export(parent, second, folder)
        with self.phase("evaluation", "held-out loss of members and controls, answers to held-out problems"):
            from .evaluate import evaluate

            rows = evaluate(out / "data", out / "family", out / "sorted", out / "parent_hf", s, self.count)
        with self.phase("report", "plots and one HTML page"):
            metrics = self._metrics(folder, rows, time.monotonic() - began)
            atomic_write(out / "metrics.json", json.dumps(metrics, indent=1) + "\n")
            page = self.draw("the whole report")
        self._table(metrics)
        self.console.print(f"report: {page}", soft_wrap=True)
        return metrics

    def _data_progress(self) -> Any:
        seen: set[str] = set()

        def show(what: str, share: float) -> None:
            if what not in seen:
                seen.add(what)
                self.count(f"{what} …")

        return show

    def _export(self, parent: Path, trained: Path, data: Any) -> None:
        from nemo_elastic.core.manifest import Family
        from nemo_elastic.data.build import EOS_ID, PAD_ID
        from nemo_elastic.formats.folders import open_source
        from nemo_elastic.ranking import Ranking, sort
        from nemo_elastic.slicing.family_folder import write_family
        from nemo_elastic.slicing.slicer import slice_checkpoint

        from .evaluate import LENGTH

        out = self.out
        source = open_source(trained)
        assert source.family is not None
        shape = source.parent
        ranking = Ranking.load(out / "stage1" / "elastic" / "ranking", shape)
        base = {
            "bos_token_id": EOS_ID,
            "eos_token_id": EOS_ID,
            "pad_token_id": PAD_ID,
            "max_position_embeddings": LENGTH,
        }
        provenance = {"made_by": "nemo-elastic demo", "data": data.digest, "tokens": self.settings.elastic_tokens}
        family = replace(source.family, provenance=provenance)
        write_family(out / "family", shape, source.tensors, family, data.tokenizer_dir, base=base)
        before = dict(open_source(parent).as_torch())
        write_family(out / "sorted", shape, sort(before, ranking, shape), family, data.tokenizer_dir, base=base)
        whole = Family.of(shape, {"full": shape.full})
        write_family(out / "parent_hf", shape, before, whole, data.tokenizer_dir, base=base)
        for member in family:
            for form in ("hf", "nemo"):
                cut = slice_checkpoint(out / "family", out / "members" / member.name / form, member=member.name,
                                       format=form)  # fmt: skip
            self.tell(f"{member.name}: {cut.parameters:,} parameters, {member.subnet.pattern}")

    def _metrics(self, data: Any, rows: list[dict[str, Any]], seconds: float) -> dict[str, Any]:
        from nemo_elastic.demo.bigram import bigram_loss

        heldout = [json.loads(x) for x in (self.out / "parent" / "metrics.jsonl").read_text().splitlines()]
        curve = [x["losses"]["parent"] for x in heldout if x["kind"] == "heldout"]
        bigram = bigram_loss(data, limit=self.settings.eval_tokens)
        parent, members = rows[0], rows[1:]
        return {
            "version": VERSION,
            "seconds": {"total": seconds},
            "bigram_loss": bigram,
            "parent_loss": {"start": curve[0], "end": curve[-1], "evaluation": parent["loss"]},
            "members": rows,
            "targets": targets(parent, members, bigram),
        }

    def _table(self, metrics: dict[str, Any]) -> None:
        table = Table(title="members: held-out loss in nats per token", box=SIMPLE_HEAD, padding=(0, 1))
        for column in ("member", "parameters", "share", "MiB", "loss", "untrained", "unsorted", "closed", "answers"):
            table.add_column(column, justify="left" if column == "member" else "right", no_wrap=True)
        for m in metrics["members"]:
            cells = _cells(m)
            table.add_row(*cells[:3], f"{m['memory_bytes'] / 2**20:.1f}", *cells[3:])
        for name, t in metrics["targets"].items():
            asked = f"at least {t['at_least']:g}" if "at_least" in t else f"at most {t['at_most']:g}"
            verdict = "met   " if t["met"] else "missed"
            self.console.print(f"  {verdict}  {name}: {t['found']:+.3f} {t['unit']}, {asked} is asked")
        total = metrics["seconds"]["total"]
        self.console.print(f"bigram model {metrics['bigram_loss']:.3f}; everything took {total:.0f} s")
        self.console.print("untrained, unsorted: the same shape cut before training, with and without sorting;")
        self.console.print("closed: share of the gap from untrained to parent that training closed")
        self.console.print(table)


def targets(parent: dict[str, Any], members: list[dict[str, Any]], bigram: float) -> dict[str, dict[str, Any]]:
    """What a run is held against: what was measured, what is asked, in what unit, and whether it is met.

    Differences of losses within `TIE` are none: nothing counts as better by less.

    Args:
        parent: row of the parent before elastic training; members: of the members, the parent's own size first.
        bigram: loss of a bigram model.
    """

    def one(measured: float, unit: str = "nats", **asked: float) -> dict[str, Any]:
        met = measured >= asked["at_least"] if "at_least" in asked else measured <= asked["at_most"]
        return {"found": measured, "unit": unit, **asked, "met": met}

    out = {"parent below a bigram model": one(bigram - parent["loss"], at_least=BIGRAM_MARGIN)}
    for m, limit in zip(members, LIMITS, strict=False):
        out[f"{m['name']} above the parent"] = one(m["loss"] - parent["loss"], at_most=limit)
    for m, limit in zip(members[1:], UNTRAINED, strict=False):
        out[f"{m['name']} untrained above the parent"] = one(m["untrained_loss"] - parent["loss"], at_most=limit)
        out[f"{m['name']} gains by sorting"] = one(m["unsorted_loss"] - m["untrained_loss"], at_least=TIE)
    return out


def markdown(metrics: dict[str, Any]) -> str:
    """The final table for the documentation: `python -m nemo_elastic.demo.walk runs/demo/metrics.json`."""
    head = ["member", "parameters", "share", "loss", "untrained", "unsorted", "closed", "answers"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_cells(m))} |" for m in metrics["members"]]
    total = metrics["members"][0]["answers"]["total"]
    lines.append("")
    lines.append(f"Answers: share of {total} held-out problems that are solved, with Wilson's interval of 95%.")
    lines.append(f"Bigram model of the same tokens: {metrics['bigram_loss']:.3f}. The whole run took "
                 f"{metrics['seconds']['total']:.0f} s.")  # fmt: skip
    return "\n".join(lines) + "\n"


def _cells(m: dict[str, Any]) -> list[str]:
    """A member's row: name, parameters, share, losses, closed gap, answers."""
    losses = ["" if m[k] is None else f"{m[k]:.3f}" for k in ("loss", "untrained_loss", "unsorted_loss")]
    closed = "" if m["recovered"] is None else f"{m['recovered']:.0%}"
    low, high = m["answers"]["interval"]
    answers = f"{m['answers']['accuracy']:.0%} ({low:.0%} to {high:.0%})"
    return [m["name"], f"{m['parameters']:,}", f"{m['ratio']:.0%}", *losses, closed, answers]


if __name__ == "__main__":
    import sys

    print(markdown(json.loads(Path(sys.argv[1]).read_text())), end="")
