# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a rehearsal has shown, from what its jobs left; each check gives figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from nemo_elastic.config.block import ElasticConfig
from nemo_elastic.errors import ElasticError
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.megatron.metadata import of_optimizer
from nemo_elastic.formats.megatron.stored import ELASTIC, Stored, differing
from nemo_elastic.formats.schemes import COMPRESSED, scheme_of
from nemo_elastic.history import METRICS, read_history
from nemo_elastic.hosts.common.watch import FROM, START
from nemo_elastic.plan.stages import Curriculum

from .report import Finding
from .short import watch_dir
from .transformers import lose_in_transformers

#: of tensors of a model
ROUTER = f"{ELASTIC}router."
#: half of a router's weights that moved at all moved at least this share of what Adam could have moved them. Seen:
#: 0.01 to 0.09 in the three recipes, and 0.0005 with an epsilon of Adam's above the gradients (1e-2)
MOVED = 0.003
#: nats per token by which the loss of a cut in float32 may differ from that of its member in the training's bf16
SAME = 0.02
#: nats per token from the teacher: members of a rotated parent start nearer, and the few steps of a rehearsal,
#: on a parent that has learned little, move them by up to 0.008
NEAR = 0.01


@dataclass(frozen=True)
class Place:
    """Where a rehearsal ran.

    Attributes:
        dir: its folder.
        config: the small block; curriculum: the short one.
        left: job -> the checkpoint that it leaves, as its host calls it.
    """

    dir: Path
    config: ElasticConfig
    curriculum: Curriculum
    left: Mapping[str, str]

    def start(self, stage: int, number: int) -> Path:
        """What start `number` of a stage left."""
        return Path(watch_dir(str(self.dir), f"stage{stage}"), str(number))

    def facts(self, stage: int, number: int) -> dict[str, Any]:
        return json.loads((self.start(stage, number) / "facts.json").read_text())

    @property
    def last(self) -> int:
        """The last stage."""
        return len(self.curriculum.stages)

    def text(self) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """Tokens and labels [b, l] that members read at the end of the last stage, and what they lost there."""
        facts = self.facts(self.last, 0)
        return torch.tensor(facts["tokens"]), torch.tensor(facts["labels"]), facts["losses"]

    def ranked(self) -> Path:
        """The checkpoint that the ranking left."""
        return Path(self.left["rank"])

    def end(self, stage: int) -> Path:
        """The checkpoint that a stage left at its end."""
        return Path(self.left[f"stage{stage}"])

    def run(self, stage: int) -> Path:
        """The folder in which a stage wrote its metrics: its own, or on Megatron-Bridge that of its checkpoints."""
        folder = self.dir / f"stage{stage}"
        return folder if (folder / METRICS).is_file() else self.end(stage)


def checks(place: Place) -> dict[str, Finding]:
    """All checks by name. One that finds nothing to look at, because a job has failed, says so."""
    return {name: _made(check, place) for name, check in CHECKS.items()}


def _made(check: Callable[[Place], Finding], place: Place) -> Finding:
    try:
        return check(place)
    except (ElasticError, OSError, KeyError, IndexError, ValueError) as error:
        return Finding(
            False, f"nothing to check: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        )


def ranked_loaded(place: Place) -> Finding:
    """Check that stage 1 starts from the ranking's sorted weights and members."""
    start = model_of(place.start(1, 0) / START)
    other = differing(start, model_of(place.ranked()))
    return Finding(
        not other, f"{len(start)} tensors" if not other else f"{other[0]} is another", {"tensors": len(start)}
    )


def model_of(checkpoint: Path, prefix: str = "") -> dict[str, torch.Tensor]:
    """A checkpoint's tensors of the model whose names start so."""
    stored = Stored(checkpoint)
    return {name: stored.read(name) for name in stored.sizes if name.startswith(prefix)}


def shapes_found(place: Place) -> Finding:
    """Stage 1 ends with members of the ranking, or of its router, with which stage 2 starts."""
    if place.config.router is not None:
        return router_moved(place)
    kept = not differing(model_of(place.end(1), ELASTIC), model_of(place.start(2, 0) / START, ELASTIC))
    return Finding(kept, "of the ranking" if kept else "stage 2 has others", {})


def router_moved(place: Place) -> Finding:
    """The router learned under the recipe's own optimizer, and stayed as it was after the freeze."""
    assert place.config.router is not None
    begun, ended, later = (
        model_of(folder, ROUTER) for folder in (place.start(1, 0) / START, place.end(1), place.start(2, 0) / START)
    )
    steps = place.config.router.freeze_step(place.curriculum.stage1.max_steps)
    share = movement(begun, ended) / (place.config.router.lr * steps)
    frozen = not differing(ended, later)
    message = f"by {share:.3f} of what Adam can move a weight in {steps} steps" + (
        "" if frozen else "; and after the freeze"
    )
    return Finding(share >= MOVED and frozen, message, {"share": share, "steps": steps, "least": MOVED})


def movement(begun: Mapping[str, torch.Tensor], ended: Mapping[str, torch.Tensor]) -> float:
    """Median of how far weights moved, of those that did; a few of a router's have large gradients in any case."""
    moved = torch.cat([(ended[n] - begun[n]).abs().flatten() for n in begun if begun[n].is_floating_point()])
    return float(moved[moved > 0].median()) if bool(moved.any()) else 0.0


def members_validated(place: Place) -> Finding:
    """Every member was validated in all stages, and the family came closer to its teacher in stage 1."""
    stages = [heldout(place.run(number)) for number in range(1, place.last + 1)]
    names = [budget.name for budget in place.config.budgets]
    missing = sorted({n for lines in stages for line in lines for n in names if n not in line["losses"]})
    if missing:
        return Finding(False, f"no held-out loss of {', '.join(missing)}")
    figures = {name: [line["kl"][name] for line in (stages[0][0], stages[0][-1])] for name in names}
    message = ", ".join(f"{name} {before:.4f} → {after:.4f}" for name, (before, after) in figures.items())
    fell = came_closer(*(tuple(figures[name]) for name in names))
    counts = [len(lines) for lines in stages]
    return Finding(
        fell and min(counts) > 1, f"{message} nats from the teacher", {"kl": figures, "validations": counts}
    )


def came_closer(*members: tuple[float, float]) -> bool:
    """Whether training brought a family closer to its teacher, by every member's divergence at the start and the end.

    A member that starts next to its teacher, as the whole model does, can but go away from it in a few steps, with all
    that share its weights: all have to end nearer than the farthest started, or within `NEAR`.
    """
    farthest = max(NEAR, *(before for before, _ in members))
    return all(after < farthest for _, after in members)


def heldout(run: Path) -> list[dict[str, Any]]:
    """A run's validations, in order."""
    return [line for line in read_history(run / METRICS).lines if line.get("kind") == "heldout"]


def resumed(place: Place) -> Finding:
    """Stage 1 was killed and went on from its newest whole checkpoint, with all that was in it, to its end."""
    killed, again = place.facts(1, 0), place.facts(1, 1)
    there = place.start(1, 1)
    other = differing(Stored(there / START).read_all(), Stored(there / FROM).read_all())
    figures = {"killed_after": killed["reached"], "went_on_from": again["step"], "reached": again["reached"]}
    whole = killed["killed"] and 0 < again["step"] < killed["reached"] + 1
    ended = again["reached"] == place.curriculum.stage1.max_steps
    message = "killed after step {killed_after}, went on from {went_on_from}, reached {reached}".format(**figures)
    return Finding(whole and ended and not other, message + (f"; {other[0]} is another" if other else ""), figures)


def optimizer_loaded(place: Place) -> Finding:
    """A stage starts with the weights, members and moments that the one before ended with, in any layout."""
    begun, other, left = {}, [], 0
    for number in range(place.last, 1, -1):
        if not other:
            begun, left = Stored(place.start(number, 0) / START).read_all(), number - 1
            other = differing(begun, Stored(place.end(left)).read_all())
    moments = {name: value for name, value in begun.items() if of_optimizer(name)}
    empty = sorted(name for name, value in moments.items() if "exp_avg" in name and not value.any())
    figures = {"tensors": len(begun), "of_the_optimizer": len(moments), "all_zero": len(empty)}
    message = f"{len(begun)} tensors, {len(moments)} of them the optimizer's"
    if other:
        message = f"{len(other)} tensors differ from those that stage {left} left, the first is {other[0]}"
    return Finding(bool(moments) and not other, message, figures)


def members_cut(place: Place) -> Finding:
    """Every member was cut into a folder and has the loss that it had in the family at the end of training."""
    from nemo_elastic.quantize.writing import quantize_folder
    from nemo_elastic.slicing.slicer import slice_members

    trained, scheme = place.text()[2], place.config.distill.quantize
    with ExitStack() as stack:
        folder, how = place.dir, ""
        if scheme is not None:  # what is trained in low precision is deployed in it: a family, and cuts of that
            folder, how = Path(stack.enter_context(TemporaryDirectory())), f", in {scheme}"
            quantize_folder(place.dir / "family", folder / "family", scheme_of(scheme, COMPRESSED))
            family = open_source(folder / "family")
            slice_members(family, folder / "members", {name: family.members[name] for name in trained})
        alone = cut_losses(place, folder / "members")
    figures = {name: [inside, alone[name]] for name, inside in trained.items()}
    same = all(abs(inside - alone) <= SAME for inside, alone in figures.values())
    message = ", ".join(f"{name} {inside:.4f} and {alone:.4f}" for name, (inside, alone) in figures.items())
    return Finding(same, message + how, {"losses": figures, "most": SAME})


def cut_losses(place: Place, members: Path) -> dict[str, float]:
    """What members lose in our runtime on the text of the end, each as a folder of its own."""
    from nemo_elastic.runtime import load_family, members_of

    (tokens_bl, labels_bl, trained), out = place.text(), {}
    for name in trained:
        source = open_source(members / name)
        model = load_family(source).select(next(iter(members_of(source))))
        with torch.no_grad():
            logits = model(tokens_bl).float().flatten(0, 1)
        out[name] = float(torch.nn.functional.cross_entropy(logits, labels_bl.flatten()))
    return out


def in_transformers(place: Place) -> Finding:
    """Every member's folder loads in stock transformers, and loses the same there."""
    tokens_bl, labels_bl, trained = place.text()
    folders = {name: place.dir / "members" / name for name in trained}
    losses, why = lose_in_transformers(folders, tokens_bl, labels_bl)
    if losses is None:
        return Finding(None, f"not tried: {why}")
    # in training they were rounded, where the last stage is in low precision; their folders here are not
    wanted = trained if place.config.distill.quantize is None else cut_losses(place, place.dir / "members")
    same = all(abs(losses[name] - wanted[name]) <= SAME for name in wanted)
    message = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    return Finding(same, f"{message} ({why})", {"losses": losses})


#: in the order of the report
CHECKS: Mapping[str, Callable[[Place], Finding]] = {
    "ranked_loaded": ranked_loaded,
    "shapes_found": shapes_found,
    "members_validated": members_validated,
    "resumed": resumed,
    "optimizer_loaded": optimizer_loaded,
    "members_cut": members_cut,
    "in_transformers": in_transformers,
}
