# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Software that loads a member in low precision on a CPU, of each precision and layout.

The table is part of docs/low_precision.md:

    python -m tests.vllm.low_precision --markdown docs/tables/low_precision_loads.md

Each folder is loaded by transformers and by vLLM, and held against our runtime on the same weights. The exit code is 1
unless every cell is as expected: what is refused as well, and what loads and computes something else.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nemo_elastic.formats.schemes import COMPRESSED, MODELOPT, scheme_of
from nemo_elastic.io.write import atomic_write
from nemo_elastic.quantize.activations import largest_inputs
from nemo_elastic.quantize.writing import quantize_folder
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.formats.hf.hf_client import worker
from tests.quantize.conftest import EXPERTS, FEW, PARENT, SMALL, family_of

from .cases import ROOT
from .parity import run

TOKENS = np.arange(24)[None] * 5 % 96
DENSE, SPARSE = "dense", "experts"
MEMBERS = {DENSE: (PARENT, SMALL), SPARSE: (EXPERTS, FEW)}
#: bfloat16 alone makes a hundredth; inputs that are rounded some more, by bits
NOISE = {"w4a16": 0.03, "fp8": 0.2, "nvfp4": 0.6}
#: what both say where all is well
RUNS = "runs"
#: of a folder that they load and get wrong: they say nothing of it
WRONG = "wrong"
_LAYOUT, _MARLIN = "ignore_mismatched_sizes", "Marlin FP4 not available"
_FP8 = "static_scaled_fp8_quant() expected at most 0 argument(s)"
_GATE = "is_act_and_mul=False is supported only for CUDA"


@dataclass(frozen=True)
class Case:
    """A member in low precision.

    Attributes:
        to: what `quantize --to` was asked for.
        layout: whose.
        model: dense, or with experts.
        transformers, vllm: RUNS, WRONG, or a part of what they say.
        data: whether inputs have scales from data.
    """

    to: str
    layout: str
    model: str
    transformers: str
    vllm: str
    data: bool = True

    @property
    def name(self) -> str:
        return "-".join((self.model, self.to, self.layout, "data" if self.data else "none"))


CASES = [
    Case("nvfp4", MODELOPT, DENSE, _LAYOUT, RUNS),
    Case("nvfp4", COMPRESSED, DENSE, RUNS, RUNS),
    Case("w4a16", MODELOPT, DENSE, _LAYOUT, _MARLIN, False),
    Case("w4a16", COMPRESSED, DENSE, RUNS, _MARLIN, False),
    Case("fp8", MODELOPT, DENSE, WRONG, RUNS),
    Case("fp8", COMPRESSED, DENSE, RUNS, _FP8),
    Case("fp8", COMPRESSED, DENSE, RUNS, _FP8, False),
    Case("nvfp4", COMPRESSED, SPARSE, WRONG, _GATE),
    Case("w4a16", COMPRESSED, SPARSE, WRONG, _MARLIN, False),
    Case("fp8", MODELOPT, SPARSE, WRONG, _GATE),
    Case("fp8", COMPRESSED, SPARSE, RUNS, _GATE),
    Case("fp8", COMPRESSED, SPARSE, RUNS, _GATE, False),
]


def write_folders(place: Path, cases: list[Case]) -> dict[Case, Path]:
    """The cut member of each case."""
    out = {}
    families: dict[str, tuple[Path, dict]] = {}
    for case in cases:
        if case.model not in families:
            parent, small = MEMBERS[case.model]
            family = family_of(place / case.model, parent, {"small": small})
            loaded = load_family(family, dtype=torch.float32)
            families[case.model] = family, largest_inputs(loaded, [torch.from_numpy(TOKENS)])
        family, ranges = families[case.model]
        low = place / f"{case.name}-family"
        scheme = scheme_of("nvfp4" if case.to == "w4a16" else case.to, case.layout)
        quantize_folder(family, low, scheme, ranges=ranges if case.data else None)
        slice_checkpoint(low, place / case.name, member="small")
        out[case] = place / case.name
    return out


def logits_of(folder: Path) -> torch.Tensor:
    """Our runtime's, of the weights as they are stored and inputs as they are: fp32 [l, v]."""
    return load_family(folder, dtype=torch.bfloat16).select()(torch.from_numpy(TOKENS))[0].float()


def by_transformers(place: Path, folders: dict[Case, Path]) -> Iterator[tuple[Case, str, float | None]]:
    """Version or error of each, and by how much its logits differ from ours, as a share of them."""
    place.mkdir()
    with ExitStack() as stack:
        talk = None
        for number, (case, folder) in enumerate(folders.items()):
            if talk is None:
                (place / str(number)).mkdir()
                talk = stack.enter_context(worker(place / str(number)))
                version = talk.ask("version")
            try:
                arrays, _ = talk.arrays("run", TOKENS, folder=str(folder), dtype="bfloat16")
            except AssertionError as error:  # its process is gone
                talk = None
                yield case, str(error), None
                continue
            ours = logits_of(folder)
            yield case, version, float((torch.from_numpy(arrays["logits"][0]) - ours).norm() / ours.norm())


def by_vllm(place: Path, python: Path, folder: Path) -> tuple[str, float | None]:
    """Version or error, and by how much log-probabilities of a text's tokens differ from ours, at most."""
    place.mkdir(parents=True)
    (place / "ids.json").write_text(json.dumps(TOKENS[0].tolist()), encoding="utf-8")
    done = run(python, "score_vllm.py", folder, str(place / "ids.json"), str(place / "out.json"))
    if done.returncode:
        return done.stderr, None
    said = json.loads((place / "out.json").read_text(encoding="utf-8"))
    own = logits_of(folder).log_softmax(-1)[:-1].gather(-1, torch.from_numpy(TOKENS[0, 1:, None])).squeeze(-1)
    return said["version"], float((torch.tensor(said["logprobs"]) - own).abs().max())


def judge(case: Case, expected: str, said: str, differ: float | None) -> tuple[str, str | None]:
    """A cell of the table, and what is wrong with it."""
    if differ is None:
        line = next((x.strip() for x in reversed(said.splitlines()) if expected in x), None)
        return f"refuses: `…{expected}…`", None if line else f"says {said[-1500:]}, not {expected!r}"
    most = NOISE[case.to]
    if expected == RUNS:
        return f"{differ:.3f}", None if differ < most else f"differs by {differ}"
    return f"**loads, and computes something else** ({differ:.2f})", (
        None if expected == WRONG and differ > most else f"differs by {differ}, expected was {expected}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, default=ROOT / ".venv-vllm/bin/python", help="python that has it")
    parser.add_argument("--markdown", type=Path, help="write the table to this file if all is well")
    args = parser.parse_args()
    cells: dict[Case, list[str]] = {case: [] for case in CASES}
    faults, versions = [], ["", ""]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        folders = write_folders(place, CASES)
        for case, said, differ in by_transformers(place / "transformers", folders):
            versions[0] = said if differ is not None else versions[0]
            cell, fault = judge(case, case.transformers, said, differ)
            cells[case].append(cell)
            faults += [f"{case.name}: transformers {fault}"] if fault else []
        for case, folder in folders.items():
            print(f"== {case.name}", flush=True)
            said, differ = by_vllm(place / "vllm" / case.name, args.vllm, folder)
            versions[1] = said if differ is not None else versions[1]
            cell, fault = judge(case, case.vllm, said, differ)
            cells[case].append(cell)
            faults += [f"{case.name}: vLLM {fault}"] if fault else []
    text = table(cells, versions)
    print(text)
    if faults:
        print("\n".join(faults), file=sys.stderr)
    elif args.markdown:
        atomic_write(args.markdown, text)
    return 1 if faults else 0


def table(cells: dict[Case, list[str]], versions: list[str]) -> str:
    """The result in Markdown."""
    lines = [
        f"| `quantize --to` | `--layout` | model | transformers {versions[0]} | vLLM {versions[1]} |",
        "|---|---|---|---|---|",
    ]
    for case, row in cells.items():
        to = case.to if case.data or case.to == "w4a16" else f"{case.to}, without `--data`"
        lines.append(f"| {to} | {case.layout} | {case.model} | {' | '.join(row)} |")
    lines += [
        "",
        "A member on a CPU, in bfloat16, against our runtime on the same weights. transformers: relative difference",
        "of the logits; vLLM: largest difference of a token's log-probability. Both quantize activations except with",
        "w4a16; our runtime does not. vLLM emulates NVFP4 there, as our plugin lets it.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
