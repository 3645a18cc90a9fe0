# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Draw the pictures of docs/method.md.

`.venv/bin/python tools/pictures.py` writes them to docs/images; a test compares.

Each is one SVG for light and dark pages: it follows the reader's `prefers-color-scheme`, as the site does. Shapes,
counts and schedules come from the package; nothing is drawn by hand that can be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape
from math import exp
from pathlib import Path

from nemo_elastic.config.sections import RouterConfig
from nemo_elastic.core.cost import parameters
from nemo_elastic.plan import preset

IMAGES = Path(__file__).parents[1] / "docs" / "images"
WIDTH = 760
STYLE = """
text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif; fill: #1b2430; }
.title { font-weight: 600; font-size: 16px; } .small { font-size: 12.5px; } .bold { font-weight: 600; }
.muted { fill: #5f6b7a; }
.on { fill: #fff; font-weight: 600; } .line { stroke: #8b97a5; fill: none; } .thick { stroke-width: 2.5; fill: none; }
.dash { stroke-dasharray: 5 4; } .box { fill: #eef1f5; } .frame { fill: none; stroke: #8b97a5; }
.a { fill: #0067a0; } .b { fill: #c25400; } .c { fill: #007f5c; }
.sa { stroke: #0067a0; } .sb { stroke: #c25400; } .sc { stroke: #007f5c; }
@media (prefers-color-scheme: dark) {
text { fill: #e6e9ee; } .muted { fill: #a9b4c2; } .on { fill: #10151c; } .line, .frame { stroke: #7d8896; }
.box { fill: #2a303b; }
.a { fill: #5bb3ea; } .b { fill: #f39a4d; } .c { fill: #3cc79d; }
.sa { stroke: #5bb3ea; } .sb { stroke: #f39a4d; } .sc { stroke: #3cc79d; }
}
"""
#: the members of every picture, largest first: cuts of the 12B to choices of its block, and their classes
PARENT = replace(preset("nemotron-nano-12b-v2"), ffn_stripes=8)
MEMBERS = {
    "12b": PARENT.full,
    "9b": PARENT.uniform(hidden=4480, ffn=15360, mamba_heads=96),
    "6b": PARENT.uniform(hidden=3840, ffn=10240, mamba_heads=80),
}
CLASSES = dict(zip(MEMBERS, "abc", strict=True))
#: the paper's two stages: sequence length, sequences per step, steps, weights of 12b, 9b and 6b
STAGES = ((8192, 1536, 5170, (1 / 3, 1 / 3, 1 / 3)), (49152, 512, 1790, (0.5, 0.3, 0.2)))


class Picture:
    """An SVG in the making. Lengths are pixels at full width."""

    def __init__(self, height: int, title: str) -> None:
        self.height, self.title, self.parts = height, title, list[str]()

    def rect(self, x: float, y: float, width: float, height: float, kind: str, radius: float = 0) -> None:
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}" class="{kind}"/>'
        )

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'
        )

    def paragraph(self, x: float, y: float, step: float, *lines: str) -> None:
        """Small text, a line every `step`."""
        for i, words in enumerate(lines):
            self.text(x, y + step * i, words, "small")

    def line(self, points: Sequence[tuple[float, float]], kind: str = "line") -> None:
        corners = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{corners}" class="{kind}"/>')

    def svg(self) -> str:
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" role="img">'
        return "\n".join(
            [head, f"<title>{escape(self.title)}</title>", f"<style>{STYLE}</style>", *self.parts, "</svg>", ""]
        )


def legend(p: Picture, y: float, words: Callable[[str], str]) -> None:
    """The members' colours, in one row, the smallest first."""
    for i, (name, kind) in enumerate(reversed(CLASSES.items())):
        p.rect(16 + 235 * i, y - 12, 14, 14, kind, 3)
        p.text(38 + 235 * i, y, words(name), "small")


def nested_bar(
    p: Picture, x: float, y: float, width: float, height: float, kept: Sequence[int], blocks: int = 1, gap: float = 3
) -> None:
    """A dimension in equal blocks; of each, members keep the first part. `kept`: largest first, of the whole."""
    each = width / blocks
    for block in range(blocks):
        left, room = x + block * each, each - (gap if blocks > 1 else 0)
        for kind, count in zip(CLASSES.values(), kept, strict=True):
            p.rect(left, y, room * count / kept[0], height, kind)


def nested() -> Picture:
    """Blocked prefixes on three axes, and what they are of a weight."""
    p = Picture(486, "Nested widths: the first part of each of several equal blocks")
    p.text(16, 26, "Every nested width: the first part of each of several equal blocks", "title")
    legend(p, 54, lambda n: f"the {n} keeps it" if n == "6b" else f"the {n} adds it")
    widths = {
        "hidden": ([m.hidden for m in MEMBERS.values()], 1, "1 block"),
        "ffn": ([m.layers[1].widths["ffn"] for m in MEMBERS.values()], PARENT.ffn_stripes, "stripes"),
        "mamba_heads": (
            [m.layers[0].widths["mamba_heads"] for m in MEMBERS.values()],
            PARENT.mamba_groups,
            "SSM groups",
        ),
    }
    for row, (axis, (kept, blocks, word)) in enumerate(widths.items()):
        y = 74 + 68 * row
        p.text(16, y + 19, axis, "bold small")
        p.text(16, y + 36, word if blocks == 1 else f"{blocks} {word}", "small muted")
        nested_bar(p, 130, y + 4, 614, 26, kept, blocks)
        p.text(744, y + 54, " ⊂ ".join(f"{n:,}" for n in reversed(kept)), "small muted", "end")
        if axis == "ffn":
            for rank in range(4):
                left, right = 130 + rank * 153.5, 130 + (rank + 1) * 153.5 - 5
                p.line([(left, y + 34), (left, y + 38), (right, y + 38), (right, y + 34)])
            p.text(130, y + 54, "four tensor-parallel ranks, equal shares of each member", "small muted")
    top, left, side = 312, 130, 160
    p.text(16, top + 16, "a weight", "bold small")
    p.text(16, top + 33, "FFN, second", "small muted")
    p.text(16, top + 49, "linear", "small muted")
    hidden, ffn = widths["hidden"][0], widths["ffn"][0]
    for kind, rows, columns in zip(CLASSES.values(), hidden, ffn, strict=True):
        each = 300 / PARENT.ffn_stripes
        for block in range(PARENT.ffn_stripes):
            p.rect(left + block * each, top, (each - 3) * columns / ffn[0], side * rows / hidden[0], kind)
    p.text(left, top - 6, "ffn", "small muted")
    p.text(left - 8, top + side - 4, "hidden", "small muted", "end")
    p.paragraph(456, top + 22, 24,
        "Rows: the hidden width, one block.",
        "Columns: FFN neurons, eight stripes.",
        "Sorting by importance has put the best",
        "channels of each block first.",
        "One class computes these indices: for",
        "masks, slices, exports and shards.",
    )  # fmt: skip
    return p


def router() -> Picture:
    """Temperature and scale over stage 1, and the gates that come of them."""
    r = RouterConfig()
    p = Picture(436, "The router over stage 1: schedules, and the gates of one axis at three moments")
    p.text(16, 26, "The router over stage 1: from soft masks to a shape", "title")
    left, width, top, high = 60, 684, 62, 116
    freeze = left + width * r.freeze_at
    p.rect(left, top, freeze - left, high, "box")
    p.line([(left, top + high), (left + width, top + high)])
    p.line([(freeze, top - 8), (freeze, top + high)], "line dash")
    at = lambda x, share: (x, top + high - (high - 12) * share)  # noqa: E731
    p.line([at(left, 1), at(freeze, r.tau[1] / r.tau[0])], "thick sa")
    p.line([at(left, r.scale[0] / r.scale[1]), at(freeze, 1)], "thick sb")
    p.text(left + 180, top + 24, f"τ, from {r.tau[0]:g} to {r.tau[1]:g}", "small")
    p.text(left + 130, top + 100, f"scale, from {r.scale[0]:g} to {r.scale[1]:g}", "small")
    p.text(left, top + high + 18, "even cuts are", "small muted")
    p.text(left, top + high + 34, "its first shapes", "small muted")
    p.text(freeze, top + high + 18, f"freeze_at = {r.freeze_at:g}", "small bold", "end")
    p.text(freeze, top + high + 34, "frozen, projected onto budgets", "small muted", "end")
    p.text((left + freeze) / 2, top - 10, "soft masks: every choice takes part, and learns", "small muted", "middle")

    choices, logits = (5120, 4480, 3840, 3584), (0.0, 0.25, 0.1, -0.2)
    shown = ((0.0, "at the start"), (0.5, "half way"), (1.0, "at freeze_at"))
    for i, (share, word) in enumerate(shown):
        x, y, w, h = 60 + 236 * i, 284, 204, 96
        tau = r.tau[0] + share * (r.tau[1] - r.tau[0])
        scale = r.scale[0] + share * (r.scale[1] - r.scale[0])
        weights = [exp(z * scale / tau) for z in logits]
        chosen = [v / sum(weights) for v in weights]
        gates = [sum(chosen[: j + 1]) for j in range(len(choices))]  # of the channels up to choice j
        points, edges = [(x, y + h)], (*reversed(choices),)
        points.append((x, y))
        for j, edge in enumerate(edges):
            gate, after = gates[len(choices) - 1 - j], gates[len(choices) - 2 - j] if j + 1 < len(choices) else 0.0
            right = x + w * edge / choices[0]
            points += [(right, y + h - h * gate), (right, y + h - h * after)]
        corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        p.parts.append(f'<polygon points="{corners}" class="c"/>')
        p.rect(x, y, w, h, "frame")
        p.text(x, y - 10, f"{word}: τ {tau:.2g}, scale {scale:.2g}", "small bold")
    p.text(12, 334, "gate", "small muted")
    p.text(60, 402, "channels of the hidden axis", "small muted")
    p.text(60, 422, "An example with choices 5120, 4480, 3840 and 3584: gate of a channel = Σ π of the choices "
           "that keep it.", "small muted")  # fmt: skip
    return p


def curriculum() -> Picture:
    """The two stages, to scale in tokens."""
    p = Picture(300, "Two stages: tokens, sequence length, and which member is trained")
    p.text(16, 26, "Two stages of one run, to scale in tokens", "title")
    left, width = 130, 614
    tokens = [length * batch * steps for length, batch, steps, _ in STAGES]
    gap, x = 6.0, float(left)
    for row, words in ((76, "sequence"), (170, "who is trained")):
        p.text(16, row, words, "bold small")
    for i, ((length, batch, steps, weights), count) in enumerate(zip(STAGES, tokens, strict=True)):
        w = (width - gap) * count / sum(tokens)
        p.text(x, 58, f"stage {i + 1}: {count / 1e9:.0f}B tokens, {steps:,} steps", "small bold")
        tall = 62 * length / STAGES[1][0]
        p.rect(x, 128 - tall, w, tall, "box")
        p.text(x + 8, 128 - tall - 6 if i == 0 else 92, f"{length:,} tokens × {batch:,} sequences", "small")
        y = 146.0
        for (name, kind), weight in zip(CLASSES.items(), weights, strict=True):
            p.rect(x, y, w, 88 * weight - 2, kind)
            p.text(x + w / 2, y + 44 * weight + 4, f"{name}: {weight:.2g}" if i else f"{name}: 1/3",
                   "small on", "middle")  # fmt: skip
            y += 88 * weight
        p.text(x, 252, "the same shapes" if i else "one shape for each size", "small muted")
        x += w + gap
    p.text(
        16,
        292,
        "Lengths, batches and sampling of the paper's 12B family. Height of the grey bars: sequence length",
        "small muted",
    )
    return p


def runtime() -> Picture:
    """Folders apart, against one set of weights that all members look into."""
    p = Picture(372, "What members share in memory: one set of weights, of which each is a corner")
    p.text(16, 26, "In memory: one set of weights, every member a corner of it", "title")
    counts = {name: parameters(PARENT, member) for name, member in MEMBERS.items()}
    legend(p, 54, lambda n: f"{n}: {counts[n] / 1e9:.2f}B parameters")
    unit = 404 / sum(counts.values())
    p.text(16, 96, "three folders", "bold small")
    p.text(16, 112, "loaded apart", "small muted")
    x = 130.0
    for name, kind in CLASSES.items():
        p.rect(x, 82, counts[name] * unit - 3, 34, kind)
        p.text(x + counts[name] * unit / 2, 104, name, "small on", "middle")
        x += counts[name] * unit
    p.text(x + 10, 104, f"{2 * sum(counts.values()) / 1e9:.1f} GB in bf16", "small")
    p.text(16, 150, "one family", "bold small")
    x = 130.0
    last = 0
    for name, kind in reversed(CLASSES.items()):
        p.rect(x, 136, (counts[name] - last) * unit - (3 if name == "12b" else 0), 34, kind)
        x, last = x + (counts[name] - last) * unit, counts[name]
    p.text(x + 10, 158, f"{2 * counts['12b'] / 1e9:.1f} GB", "small")
    top = 214
    hidden, ffn = [m.hidden for m in MEMBERS.values()], [m.layers[1].widths["ffn"] for m in MEMBERS.values()]
    for place, (x, words) in enumerate(((130, "as a folder has it"), (330, "as the runtime stores it"))):
        p.text(x, top - 8, words, "small muted")
        for kind, rows, columns in zip(CLASSES.values(), hidden, ffn, strict=True):
            blocks = PARENT.ffn_stripes if place == 0 else 1
            each = 160 / blocks
            for block in range(blocks):
                p.rect(x + block * each, top, (each - (2 if blocks > 1 else 0)) * columns / ffn[0],
                       130 * rows / hidden[0], kind)  # fmt: skip
    p.text(310, top + 70, "→", "title", "middle")
    p.text(16, top + 16, "one weight", "bold small")
    p.paragraph(510, top + 14, 22,
        "Channels are stored in the order in",
        "which members give them up: each",
        "member is the top left corner, a view",
        "that one product reads as it lies.",
        "A selected member keeps only small",
        "vectors of its own beside it.",
    )  # fmt: skip
    return p


PICTURES = {"nested": nested, "router": router, "curriculum": curriculum, "runtime": runtime}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (IMAGES / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")
