# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A parent that answers questions in chat form, and the members distilled from it on packed conversations.

    python recipes/demo_chat.py --out runs/demo-chat

The questions are worked problems: some numbers are to be sorted. What the model thinks, which number to take next and
what is left, stands in `<think>…</think>`; the answer stands behind it. The parent learns them as text, by a stock
recipe. Its members are found and distilled on packed conversations, of which the answers count, as by the recipes
…_sft. Questions that nobody trained on are asked before the distillation and after it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

BLOCK: dict[str, Any] = {
    "budgets": [{"name": "whole"}, {"name": "large", "ratio": 0.75}, {"name": "half", "ratio": 0.5}],
    "axes": {
        "hidden": [64, 56, 48, 40],
        "ffn": [128, 96, 64],
        "mamba_heads": [8, 4],
        "mamba_head_dim": [16, 12, 8],
        "depth": [5],
    },
    "importance": {"samples": 32, "depth_samples": 8},
    "search": {"candidates": 32, "tokens": 4096},
    "shapes": "search",
}
NUMBERS = [str(number) for number in range(100)]
WORDS = ["<user>", "<assistant>", "<think>", "</think>", "sort", "up", "down", "take", "left", *NUMBERS]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<assistant> {% generation %}{{ m['content'] }} <eos>"
    "{% endgeneration %}{% else %}<user> {{ m['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
#: tokens of a step; those of a sequence of the parent's, of stage 1 and of stage 2
TOKENS, PARENT, STAGES = 2048, 128, (512, 1024)
#: questions that are asked at once, and tokens of an answer
BATCH, ANSWER = 50, 48
PARENT_LR, LR = 4e-3, 2e-3


@dataclass(frozen=True)
class Sizes:
    """How much is trained and asked: steps of the parent and of both stages, conversations, and questions."""

    parent_steps: int = 500
    stage_steps: tuple[int, int] = (60, 30)
    conversations: int = 12_000
    questions: int = 100
    block: dict[str, Any] = field(default_factory=lambda: BLOCK)


SHORT = Sizes(12, (4, 3), 600, 8, BLOCK | {"importance": {"samples": 8}, "search": {"candidates": 6, "tokens": 1024}})


def problems() -> Iterator[Any]:
    """Endless problems: three numbers below a hundred, up or down."""
    from nemo_elastic.data.reasoning import generate

    return generate("number_sorting", 2, seed=0)


def make_data(out: Path, sizes: Sizes) -> None:
    """Conversations as text for the parent, packed at the lengths of both stages, and the questions that are asked."""
    from nemo_elastic.data.prepare import prepare
    from nemo_elastic.demo.words import build_words

    lines = [p.chat_line for p in islice((p for p in problems() if not p.held_out), sizes.conversations)]
    asked = [p.chat_line for p in islice((p for p in problems() if p.held_out), sizes.questions)]
    (out / "chats.jsonl").write_text("".join(lines))
    (out / "questions.jsonl").write_text("".join(asked))
    rows = [json.loads(line) for line in lines]
    texts = [f"<user> {row['input']} <assistant> {row['output']}" for row in rows]
    build_words(out / "data", WORDS, {"train": texts, "train_long": texts[:1000], "val": texts[-1000:]})
    (out / "data" / "tokenizer" / "chat_template.jinja").write_text(TEMPLATE)
    for length in STAGES:
        prepare(out / f"chats-{length}", [out / "chats.jsonl"], out / "data", length=length)


def recipe_of(out: Path, data: Path, job: str, steps: int, length: int, lr: float) -> Any:
    """A stock recipe of a tiny model, on the conversations as text or packed."""
    import nemo_run as run

    from nemo_elastic.hosts.nemo.tiny.recipe import RecallNemotronH, tiny_recipe

    return tiny_recipe(
        data, out / job, steps=steps, seq_length=length, micro_batch_size=TOKENS // length,
        global_batch_size=TOKENS // length, lr=lr, warmup_steps=max(1, steps // 20), label=job,
        config=run.Config(RecallNemotronH),
    )  # fmt: skip


def distill(out: Path, sizes: Sizes, parent: Path) -> Path:
    """Both stages on packed conversations; gives the last checkpoint."""
    from nemo_elastic.config.block import ElasticConfig
    from nemo_elastic.demo.demo_training import launch
    from nemo_elastic.hosts.common.curriculum_run import CurriculumRun
    from nemo_elastic.hosts.nemo.recipe.apply import apply_elastic
    from nemo_elastic.hosts.nemo.tiny.recipe import held_out
    from nemo_elastic.plan.stages import Curriculum, Stage

    first, second = (Stage(length, TOKENS // length, n) for length, n in zip(STAGES, sizes.stage_steps, strict=True))
    data = [[str(out / f"chats-{length}")] for length in STAGES]
    block, plan = ElasticConfig.of(sizes.block), Curriculum(first, second)
    curriculum_run = CurriculumRun(str(parent), data[0], str(out), block, data[1], plan, workers=0, chat=True)
    previous = None
    for number, stage in enumerate((first, second), 1):
        job = f"stage{number}"
        recipe = recipe_of(out, Path(data[number - 1][0]), job, stage.max_steps, stage.seq_length, LR)
        held_out(recipe, 0, 8)
        options = vars(curriculum_run.options(job, str(previous)))
        apply_elastic(recipe, curriculum_run.block, **options, verbose=False)
        previous = launch(recipe, out / job)
    assert previous is not None
    return previous


def write_families(out: Path, sizes: Sizes, parent: Path, trained: Path) -> None:
    """The family as it was trained, and of the same members as they were before."""
    from nemo_elastic.data.build import EOS_ID, PAD_ID
    from nemo_elastic.formats.folders import open_source
    from nemo_elastic.ranking import Ranking, sort
    from nemo_elastic.slicing.family_folder import write_family

    source, tokenizer = open_source(trained), out / "data" / "tokenizer"
    assert source.family is not None
    shape = source.parent
    ranking = Ranking.load(out / "stage1" / "elastic" / "ranking", shape)
    ids = {"bos_token_id": EOS_ID, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
    base = ids | {"max_position_embeddings": STAGES[-1]}
    family = replace(source.family, ranking_digest=ranking.digest, provenance={})
    write_family(out / "family", shape, source.tensors, family, tokenizer, base=base)
    before = sort(dict(open_source(parent).as_torch()), ranking, shape)
    write_family(out / "before", shape, before, family, tokenizer, base=base)


def ask(out: Path) -> list[dict[str, Any]]:
    """Of every member: its parameters, and how many right answers it gives before the distillation and after it."""
    from nemo_elastic.runtime import load_family

    rows = [json.loads(line) for line in (out / "questions.jsonl").read_text().splitlines()]
    asked = [[{"role": "user", "content": row["input"]}] for row in rows]
    right = [answer_of(row["output"]) for row in rows]
    families = {name: load_family(out / folder) for name, folder in (("before", "before"), ("after", "family"))}
    out_of = []
    for member in families["after"].names:
        entry: dict[str, Any] = {"member": member, "questions": len(rows)}
        for when, family in families.items():
            model = family.select(member)
            said = [
                text for at in range(0, len(asked), BATCH) for text in model.generate(asked[at : at + BATCH], ANSWER)
            ]
            counted = sum(answer_of(text) == answer for text, answer in zip(said, right, strict=True))
            entry |= {"parameters": model.parameters, when: counted}
        out_of.append(entry)
        print(f"{member}: {entry['before']} right, then {entry['after']}", flush=True)
    return out_of


def answer_of(said: str) -> str:
    """What stands behind the thinking."""
    return " ".join(said.rpartition("</think>")[2].split())


def table(rows: list[dict[str, Any]], seconds: float, sizes: Sizes) -> str:
    """The table of the documentation."""
    from nemo_elastic.verdicts import wilson

    def cell(right: int) -> str:
        low, high = wilson(right, sizes.questions)
        return f"{right / sizes.questions:.0%} ({low:.0%} to {high:.0%})"

    lines = ["| member | parameters | right before | right after |", "|---|---:|---:|---:|"]
    lines += [f"| {r['member']} | {r['parameters']:,} | {cell(r['before'])} | {cell(r['after'])} |" for r in rows]
    first, second = sizes.stage_steps
    return "\n".join(lines) + (
        f"\n\n{sizes.questions} questions that nobody was trained on, with an interval of 95 %. Steps of {TOKENS} "
        f"tokens: {sizes.parent_steps} of the parent, {first} at {STAGES[0]} and {second} at {STAGES[1]} tokens a "
        f"sequence. The whole run took {seconds:.0f} s of one processor.\n"
    )


def run(out: Path, sizes: Sizes) -> str:
    """Everything, in order; gives the table, and leaves it in the folder."""
    from nemo_elastic.demo.quiet import quiet

    make_data(out, sizes)
    quiet()
    from nemo_elastic.demo.demo_training import launch

    parent = launch(recipe_of(out, out / "data", "parent", sizes.parent_steps, PARENT, PARENT_LR), out / "parent")
    trained = distill(out, sizes, parent)
    write_families(out, sizes, parent, trained)
    rows = ask(out)
    (out / "answers.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "table.md").write_text(table(rows, time.process_time(), sizes))
    return (out / "table.md").read_text()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/demo-chat", help="folder to fill")
    parser.add_argument("--markdown", help="a file for the table, too")
    parser.add_argument("--short", action="store_true", help="every part, too briefly to learn")
    parser.add_argument("--force", action="store_true", help="replace the folder of an earlier run")
    args = parser.parse_args()
    from nemo_elastic.errors import exit_in_one_line
    from nemo_elastic.io.outputs import Output, filled_dir

    out = Path(args.out).resolve()
    with exit_in_one_line(), filled_dir(out, Output("a chat demo", ".*"), args.force):
        text = run(out, SHORT if args.short else Sizes())
    if args.markdown:
        Path(args.markdown).write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
