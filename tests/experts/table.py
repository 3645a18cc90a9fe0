# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Members with experts: logits of cut folders against masks, slices on megatron-core, transformers and mlx-lm; counts
against ModelOpt's.

Two tiny families are written, with experts that read the stream and with some in a latent width; their members are cut
out by `slice`. `make tables NAME=experts` sets up the environments and runs

    python -m tests.experts.table PLACE [--transformers PYTHON] [--mlx PYTHON] [--bridge PYTHON] [--markdown FILE]

The exit code is 1 where logits are further apart than `TOLERANCE`, or a count is another than ModelOpt's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemo_elastic.core.cost import active_parameters, parameters
from nemo_elastic.core.family import Parent, Subnet
from nemo_elastic.core.kinds.moe import EXPERTS, LATENT, MOE
from nemo_elastic.core.kinds.registry import HIDDEN
from nemo_elastic.core.manifest import Family
from nemo_elastic.formats.megatron.shape import FIELDS
from nemo_elastic.nn.gates import Gates
from nemo_elastic.plan import preset
from nemo_elastic.runtime import load_family
from nemo_elastic.slicing.card import needs_eager_experts
from nemo_elastic.slicing.family_folder import write_family
from nemo_elastic.slicing.slicer import slice_checkpoint
from tests.nn.test_transformers_parity import CASES, NEW_TOKENS, parent_model, tokens_of

ROOT = Path(__file__).parents[2]
WORKERS = ROOT / "tests" / "nn"
#: of the largest logit
TOLERANCE = 3e-5
NANO, TINY = preset("nemotron-3-nano-30b-a3b"), CASES["latent_experts"][0]
#: what is counted: name -> its parent, and the member
COUNTED: dict[str, tuple[Parent, Subnet]] = {
    "Nemotron-3 Nano 30B-A3B": (NANO, NANO.full),
    "half of its experts": (NANO, NANO.uniform(experts=64)),
    "hidden 2304, expert FFN 1536": (NANO, NANO.uniform(hidden=2304, expert_ffn=1536)),
    "a tiny parent with a latent width": (TINY, TINY.full),
    "a member of it": (TINY, CASES["all_of_experts"][1]),
}


def with_experts() -> dict[str, tuple[Parent, Subnet]]:
    """The cases of the tests of parity whose layers have experts."""
    cases = {name: case for name, case in CASES.items() if "E" in case[0].pattern}
    return dict(sorted(cases.items(), key=lambda item: item[1][0].has(LATENT)))


def title(parent: Parent, member: Subnet) -> str:
    """What of the parent a member keeps less of."""
    if member == parent.full:
        return "whole"
    words = ["hidden"] if member.hidden < parent.hidden else []
    words += ["depth"] if len(member.layers) < parent.num_layers else []
    words += [a for kind in parent.kinds for a in kind.widths if min(member.widths(a), default=0) < parent.size(a)]
    uneven = "" if member.is_uniform else ", by layer"
    axes = parent.kind(MOE).widths
    if len(axes) > 1 and set(axes) <= set(words):
        others = [axis for axis in words if axis not in axes]
        return f"{'every axis' if set(words) >= set(parent.axes) else ', '.join([*others, 'all of experts'])}{uneven}"
    return ", ".join(words) + uneven


def write_folders(place: Path) -> None:
    """Both families, and every member cut out of its own: PLACE/all/NAME; uniform ones in PLACE/uniform as well."""
    for part in ("all", "uniform"):
        (place / part).mkdir(parents=True)
    families: dict[Parent, Path] = {}
    for name, (parent, member) in with_experts().items():
        if parent not in families:
            families[parent] = place / f"family-{len(families)}"
            family = Family.of(parent, {"full": parent.full})
            write_family(families[parent], parent, parent_model(parent).state_dict(), family)
        folder = place / "all" / name
        slice_checkpoint(families[parent], folder, subnet=member)
        np.save(folder / "tokens.npy", tokens_of(parent))
        if needs_eager_experts(member, 4):
            (folder / "eager").touch()
        if member.is_uniform:
            (place / "uniform" / name).symlink_to(folder, target_is_directory=True)


def ask(python: Path, script: Path, *arguments: Path, text: str | None = None) -> str:
    """What a script says in another environment, which has nothing of this one."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"HF_HUB_OFFLINE": "1"}
    command = [str(python.absolute()), "-W", "ignore", str(script), *map(str, arguments)]
    return subprocess.run(command, env=env, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout


def release(python: Path, package: str) -> str:
    """The release of a package in another environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python.absolute(), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def compare(name: str, folder: Path) -> dict[str, Any]:
    """Largest differences of a cut folder's logits, and tokens that are the same."""
    parent, member = with_experts()[name]
    tokens = torch.from_numpy(tokens_of(parent))
    other = np.load(folder / "transformers.npz")
    with torch.no_grad():
        cut = load_family(folder).select()(tokens).numpy()
        masked = parent_model(parent)(tokens, Gates.of(parent, member)).numpy()
    new = load_family(folder).select().generate(tokens[:, :4], NEW_TOKENS, ())
    pairs = zip(other["new"].flatten().tolist(), np.array(new).flatten().tolist(), strict=True)
    apart = {"masked": masked, "megatron": np.load(folder / "megatron.npy"), "transformers": other["logits"]}
    if (folder / "mlx.npy").exists():
        apart["mlx"] = np.load(folder / "mlx.npy")
    return {
        "largest": float(np.abs(cut).max()),
        "apart": {key: float(np.abs(cut - logits).max()) for key, logits in apart.items()},
        "same": sum(a == b for a, b in pairs),
        "tokens": other["new"].size,
    }


def logits_table(place: Path) -> tuple[list[str], list[str]]:
    """Lines of the table, and what is not as it should be."""
    head = ("family", "smaller in", "parameters", "active", "largest logit")
    heads = (*head, "masked", "Megatron slice", "transformers", "mlx-lm")
    lines = [f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * 7]
    faults = []
    for name, (parent, member) in with_experts().items():
        actual = compare(name, place / "all" / name)
        apart = actual["apart"]
        faults += [f"{name}: {key} {d:.1e}" for key, d in apart.items() if not d <= TOLERANCE * actual["largest"]]
        faults += [f"{name}: other tokens"] if actual["same"] < actual["tokens"] else []
        lines.append(
            f"| {'latent' if parent.has(LATENT) else 'plain'} | {title(parent, member)} "
            f"| {parameters(parent, member):,} | {active_parameters(parent, member):,} | {actual['largest']:.2f} "
            f"| {apart['masked']:.1e} | {apart['megatron']:.1e} | {apart['transformers']:.1e} "
            f"| {format(apart['mlx'], '.1e') if 'mlx' in apart else '-'} |"
        )
    return lines, faults


def megatron_shape(parent: Parent, member: Subnet) -> dict[str, Any]:
    """A member with one width per kind as megatron-core's config has it."""
    fields = FIELDS | {size: name for kind in parent.kinds for size, name in kind.megatron.items()}
    kept = {axis: widths[0] for kind in parent.kinds for axis in kind.widths if (widths := member.widths(axis))}
    kept |= {HIDDEN: member.hidden}
    counted = [size for size in fields if size not in ("pattern", "tied", "norm_eps")]
    config = {fields[size]: kept.get(size, parent.size(size)) for size in counted} | {"num_layers": len(member.layers)}
    return {"config": config, "vocab_size": parent.vocab, "hybrid_layer_pattern": member.pattern}


def counts_table(python: Path) -> tuple[list[str], list[str], str]:
    """Lines of the table, what is not as it should be, and ModelOpt's release."""
    asked = json.dumps([megatron_shape(parent, member) for parent, member in COUNTED.values()])
    released, theirs = json.loads(ask(python, Path(__file__).with_name("modelopt_counts.py"), text=asked))
    lines = [
        "| | parameters | ModelOpt's, and gates' biases | active | ModelOpt's, and gates' biases |",
        "|---|---:|---:|---:|---:|",
    ]
    faults = []
    for (name, (parent, member)), counted in zip(COUNTED.items(), theirs, strict=True):
        ours = parameters(parent, member), active_parameters(parent, member)
        biases = sum(member.widths(EXPERTS))  # one for each expert; a buffer to ModelOpt
        faults += [f"{name}: {a:,} and {b:,}" for a, b in zip(ours, counted, strict=True) if a != b + biases]
        cells = [f"{a:,} | {b:,} + {biases:,}" for a, b in zip(ours, counted, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines, faults, released


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path, help="an empty folder")
    for name, what in (("transformers", ".venv-hf"), ("mlx", ".venv-mlx"), ("bridge", ".venv-bridge")):
        parser.add_argument(f"--{name}", type=Path, default=ROOT / what / "bin/python", help="python that has it")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    place: Path = args.place.resolve()
    write_folders(place)
    ask(args.transformers, WORKERS / "transformers_worker.py", place / "all")
    ask(args.mlx, WORKERS / "mlx_worker.py", place / "uniform")
    ask(args.bridge, Path(__file__).with_name("megatron_slices.py"), place)
    logits, faults = logits_table(place)
    counts, wrong, modelopt = counts_table(args.bridge)
    packages = {"transformers": args.transformers, "mlx-lm": args.mlx}
    transformers, mlx = (release(python, package) for package, python in packages.items())
    ours = torch.__version__.partition("+")[0]
    lines = [
        "Largest difference between the logits of the folder that was cut, as our runtime reads it, and those of the",
        f"masked parent, of the parent's slices on megatron-core {release(args.bridge, 'megatron-core')},",
        f"of transformers {transformers} and of mlx-lm {mlx} (torch {ours}, float32, CPU).",
        "All greedy tokens are those of transformers. mlx-lm has no layers that differ in width.",
    ]
    counted = [
        f"ModelOpt {modelopt} counts from megatron-core's config. The biases by which a gate balances its experts are",
        "no parameters to it, but a buffer.",
    ]
    text = "\n".join([*logits, "", *lines, "", *counts, "", *counted, ""])
    print(text)
    if args.markdown and not faults + wrong:
        args.markdown.write_text(text)
    print(*faults, *wrong, sep="\n", file=sys.stderr)
    return int(bool(faults + wrong))


if __name__ == "__main__":
    sys.exit(main())
