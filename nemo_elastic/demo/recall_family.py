# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What the second stage is for: a second, smaller family of texts that ask for what stands far back.

Its members are distilled in short pieces, then in whole texts, and beside that in short pieces alone, with as many
tokens: what members answer, by how far back the answer stands, shows what the longer context brings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from .demo_settings import SHORT_TEXT, WHOLE_TEXT, RecallSettings

#: largest distance of each group of questions, in tokens
LEVELS = (64, 128, 256, WHOLE_TEXT)
TOKENS = 2048
#: peak learning rates of the parent, and of what is distilled from it
PARENT_LR, LR = 4e-3, 2e-3


def run_context(out: Path, settings: RecallSettings, tell: Callable[[str], None]) -> dict[str, Any]:
    """Train both families, and ask them.

    Args:
        out: folder to fill.
        settings: sizes.
        tell: progress lines.

    Returns:
        {"short", "whole": tokens of a piece and of a text, "levels": largest distances, "rows": [{"member",
        "stages": "short" or "whole" for each, "answers": [[right, asked] of each level]}]}.
    """
    from nemo_elastic.demo.facts import build_recall

    short, long = settings.texts
    data = out / "data"
    build_recall(
        data,
        {"train": (short, SHORT_TEXT), "train_long": (long, WHOLE_TEXT), "val": (settings.held_out, WHOLE_TEXT)},
    )
    parent = _parent(data, out, settings)
    first = _stage(data, out / "stage1", settings, parent, SHORT_TEXT)
    runs = {
        ("short",): first,
        ("short", "short"): _stage(data, out / "stage2_short", settings, parent, SHORT_TEXT, first),
        ("short", "whole"): _stage(data, out / "stage2", settings, parent, WHOLE_TEXT, first),
    }
    rows = []
    for stages, checkpoint in runs.items():
        tell(f"questions to what was distilled in {', then in '.join(stages)} pieces")
        by_member = _answers(data, checkpoint, settings)
        rows += [{"member": name, "stages": list(stages), "answers": answers} for name, answers in by_member.items()]
    rows.sort(key=lambda row: list(by_member).index(row["member"]))
    return {"short": SHORT_TEXT, "whole": WHOLE_TEXT, "levels": list(LEVELS), "rows": rows}


def context_rows(context: Mapping[str, Any]) -> list[list[str]]:
    """A table of what `run_context` returns: its head, and a line per member and way of distilling it."""
    what = {"short": f"{context['short']} tokens", "whole": f"{context['whole']} tokens"}
    lines = [["member", "distilled in", *(f"up to {level}" for level in context["levels"])]]
    for row in context["rows"]:
        stages = ", then ".join(what[stage] for stage in row["stages"])
        lines.append([row["member"], stages, *(f"{right / max(asked, 1):.0%}" for right, asked in row["answers"])])
    return lines


def _recipe(data: Path, out: Path, steps: int, length: int, split: str, lr: float = LR, total: int = 0) -> Any:
    import nemo_run as run

    from nemo_elastic.hosts.nemo.tiny.recipe import RecallNemotronH, tiny_recipe

    return tiny_recipe(
        data, out, steps=steps, seq_length=length, micro_batch_size=TOKENS // length,
        global_batch_size=TOKENS // length, lr=lr, warmup_steps=max(1, (total or steps) // 20), split=split,
        label=f"context, {out.name}", eval_sequences=8, config=run.Config(RecallNemotronH),
    )  # fmt: skip


def _parent(data: Path, out: Path, settings: RecallSettings) -> Path:
    """It learns to look things up in short texts, and then to do so far back."""
    import nemo_run as run
    from nemo import lightning as nl

    from .demo_training import launch

    near, far = settings.parent_steps
    first = _recipe(data, out / "parent_short", near, SHORT_TEXT, "train", PARENT_LR)
    short = launch(first, out / "parent_short")
    recipe = _recipe(data, out / "parent", far, WHOLE_TEXT, "train_long", PARENT_LR)
    recipe.resume.restore_config = run.Config(nl.RestoreConfig, path=str(short))
    return launch(recipe, out / "parent")


def _stage(
    data: Path, out: Path, settings: RecallSettings, parent: Path, length: int, previous: Path | None = None
) -> Path:
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic

    from .demo_training import launch

    total = settings.stage1_steps + settings.stage2_steps
    steps = settings.stage2_steps if previous else settings.stage1_steps
    recipe = _recipe(data, out, steps, length, "train_long", total=total)
    apply_elastic(
        recipe,
        settings.block,
        teacher=str(parent),
        stage=2 if previous else 1,
        previous=str(previous) if previous else None,
        done_steps=settings.stage1_steps if previous else 0,
        total_steps=total,
        out=str(out / "elastic"),
        verbose=False,
    )
    return launch(recipe, out)


def _answers(data: Path, checkpoint: Path, settings: RecallSettings) -> dict[str, list[tuple[int, int]]]:
    """Of every member of a checkpoint, (right, asked) by distance."""
    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.data.folder import DataFolder
    from nemo_elastic.demo.facts import documents
    from nemo_elastic.evaluation.accuracy import right_by_distance
    from nemo_elastic.formats.megatron.shape import parent_of
    from nemo_elastic.formats.megatron.stored import checkpoint_members, read_checkpoint
    from nemo_elastic.hosts.nemo.tiny.recipe import RecallNemotronH
    from nemo_elastic.nn.nemotron_h import NemotronH

    config, sizes = ElasticConfig.from_dict(settings.block), RecallNemotronH()
    shape = config.parent_shape(parent_of(sizes, sizes.vocab_size))
    tensors, elastic = read_checkpoint(checkpoint, shape)
    model = NemotronH(shape, tensors, trainable=False)
    tokens = DataFolder.open(data).tokens("val").reshape(-1, WHOLE_TEXT)
    questions = [d.questions for d in islice(documents("val", WHOLE_TEXT), len(tokens))]
    members = checkpoint_members(shape, elastic, config, str(checkpoint))
    return {
        name: right_by_distance(lambda t, m=member: model(t, m), tokens, questions, LEVELS)
        for name, member in members.items()
    }
