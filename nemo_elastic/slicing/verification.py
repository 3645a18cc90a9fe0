# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Verification of a folder against its metadata. Every check gives a figure; checks that run the model need torch."""

from __future__ import annotations

import importlib.util
import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_elastic.core import layout
from nemo_elastic.core.cost import parameters
from nemo_elastic.core.family import Subnet, regroups
from nemo_elastic.core.prediction import is_mtp
from nemo_elastic.errors import ElasticError
from nemo_elastic.extras import installing
from nemo_elastic.formats.checkpoint import Checkpoint, Origin
from nemo_elastic.formats.checksums import CHECKSUMS_FILE, crc32, hexadecimal, read_checksums
from nemo_elastic.formats.folders import open_source
from nemo_elastic.formats.low_precision import bad_scales
from nemo_elastic.formats.tensor import Tensor
from nemo_elastic.io.values import integer

from .beside import Check, beside_checks
from .cutting import cut, is_torn, kept_parts, norm_factors, without_mtp
from .lineage import MTP_TRAINED
from .published import converts, member_of, same_cut

if TYPE_CHECKING:
    import torch

__all__ = ["FORWARD_LIMIT", "Check", "Report", "cut_check", "verify"]

#: Above this many parameters the model is run only on request: it is in memory twice, in float32.
FORWARD_LIMIT = 300_000_000
#: Largest difference of logits, as a share of the largest logit, between two ways of computing the same in float32.
TOLERANCE = 1e-4
#: dtype -> bits that are all set in infinities and not-a-numbers, and in nothing else (float8 E4M3 has no infinity)
_NOT_FINITE = {
    "F64": 0x7FF0000000000000, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80, "F8_E5M2": 0x7C, "F8_E4M3": 0x7F,
}  # fmt: skip
#: of members whose Mamba heads are cut in parts that are no groups
_REGROUPED = "skipped: Mamba heads of the member share B and C with other heads than in the parent"


@dataclass(frozen=True)
class Report:
    """All checks of one folder."""

    source: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """No check failed."""
        return all(check.ok is not False for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "ok": self.ok, "checks": [asdict(check) for check in self.checks]}


def verify(
    source: str | Path,
    *,
    parent: str | Path | None = None,
    forward: bool | None = None,
    tokens: int = 64,
    seed: int = 0,
) -> Report:
    """Check a family, a member or any plain Nemotron-H folder.

    Args:
        source: The folder.
        parent: For a family the model that it was made from: the full member must compute the same. For a member, or
            a plain folder of one that others cut, the family: it must be its cut, byte for byte (in the dtype that it
            was stored in), and compute what the family computes with masks.
        forward: Run the model: every member cut out must compute what the whole computes with masks. None runs it
            where torch is installed and the model is small enough (`FORWARD_LIMIT`).
        tokens: Length of the random text that it is run on.
        seed: Of that text.

    Returns:
        The checks, in the order in which they ran.
    """
    tokens = integer("tokens", tokens, 1, "a number of tokens above 0")
    opened, other = open_source(source), None
    if parent is not None:
        other = open_source(parent)
        opened = _as_member(opened, other)
    values = list(_value_checks(opened))
    checks = [*_shape_checks(opened), *beside_checks(opened, other), *values]
    if other is not None and opened.subnet != opened.parent.full:
        checks.append(cut_check(opened, other))
    why = _why_no_forward(opened, forward) or (None if values[0].ok else "values are not finite")
    if why is not None:
        checks.append(Check("logits", None, f"skipped: {why}"))
    else:
        checks.extend(_forward_checks(opened, other, tokens, seed))
    return Report(str(source), tuple(checks))


def _shape_checks(source: Checkpoint) -> Iterator[Check]:
    # Opening the folder compared every name and shape; the members' contents remain to be checked.
    mtp = [name for name in source.names if is_mtp(name)]
    figure = f"{len(source.names) - len(mtp)}, all known, none missing, all shapes right"
    if mtp:
        known = "in the model's widths" if source.prediction is not None else "kept only by the full model"
        figure += f"; {len(mtp)} that predict more than one token, {known}"
    yield Check("tensors", True, figure)
    members = source.members
    for name, subnet in (members | source.extras).items():
        # Two ways to the same number: what the cut keeps of every dimension, and the formula of the cost.
        kept = [math.prod(s.kept_size for s in part) for _, part in kept_parts(without_mtp(source), subnet).values()]
        size, count = sum(kept), parameters(source.parent, subnet)
        yield Check(f"{name}: counts", size == count, f"{size:,} in {len(kept)} tensors, {count:,} by the shape")
    chain = list(members.items())
    for (larger, a), (smaller, b) in itertools.pairwise(chain):
        wrong = _differing_cut(source, a, b)
        figure = f"{wrong} differs" if wrong else f"the cut from {larger} is the cut from the whole"
        yield Check(f"{smaller}: nested", wrong is None, figure)


def _differing_cut(source: Checkpoint, larger: Subnet, smaller: Subnet) -> str | None:
    """First tensor where cutting `smaller` from `larger` keeps other positions than cutting it from the parent, or
    None.
    """
    parent, subnet = source.parent, source.subnet
    for t in layout.tensors(parent, smaller):
        index = t.index
        via = layout.original(parent, t.row, t.number, larger, smaller, index)
        by_way = layout.original(parent, t.row, via, subnet, larger, index)
        if by_way != layout.original(parent, t.row, t.number, subnet, smaller, index):
            return t.hf
        for dim in range(len(t.shape)):
            first = layout.selection(parent, t.row, dim, subnet, larger, index).indices
            second = layout.selection(parent, t.row, dim, larger, smaller, index).indices
            direct = layout.selection(parent, t.row, dim, subnet, smaller, index).indices
            if not np.array_equal(first[second], direct):
                return t.hf
    return None


def cut_check(source: Checkpoint, family: Checkpoint) -> Check:
    """Compare a member with the family that it should be cut from, word for word.

    Weights of norms that cuts multiply are equal to rounding: a cut of a cut rounds twice. MTP layers are compared
    unless the member lacks them, or they were trained behind it.
    """
    right, trained = cut(family, source.subnet, requantize=True), MTP_TRAINED in source.origin.provenance
    present = (without_mtp(source) if trained else source).tensors
    wanted = (right if source.mtp and not trained else without_mtp(right)).tensors
    head = {"lm_head.weight"} if source.parent.tied else set()
    factors = norm_factors(family, source.subnet)

    def same(name: str) -> bool:
        if name not in present:
            return False
        if factors.get(name, 1) == 1:
            return same_cut(name, present[name], wanted[name])
        return np.allclose(
            present[name].numpy(), wanted[name].numpy(), rtol=1e-6 if present[name].dtype == "F32" else 1e-2
        )

    wrong = [name for name in wanted if not same(name)]
    wrong += sorted(present.keys() - wanted.keys() - head)
    figure = "every tensor is equal, byte for byte"
    if wrong:
        figure = f"{len(wrong)} tensors differ, the first is {wrong[0]}"
    elif source.dtype != family.dtype:
        figure = f"every tensor, converted from {family.dtype} to {source.dtype}, byte for byte"
    if trained:
        figure += "; MTP layers were trained and are not compared"
    return Check("cut of the parent", not wrong, figure)


def _stored_like(weights: Checkpoint, name: str, dtype: str | None) -> torch.Tensor:
    """A weight of a parent in float32, as a member has it that was stored in another dtype."""
    import torch

    if dtype is not None and name not in weights.storage and converts(weights.tensors[name], dtype):
        try:
            words = weights.tensors[name].cast(dtype, name).words
            return Tensor.of_words(dtype, words).torch().float()
        except ElasticError:  # then it is not its cut, and the logits say so, too
            pass
    return weights.torch(name, torch.float32).float()


def _value_checks(source: Checkpoint) -> Iterator[Check]:
    """Read every tensor once, for its checksum and for values that are no numbers."""
    written = read_checksums(source.folder)
    strange: dict[str, int] = {}
    changed = []
    blocks, stored = _block_scales(source), source.tensors
    for name, tensor in stored.items():
        checksum = count = 0
        for piece in tensor.pieces():
            checksum = crc32(piece.reshape(-1).view(np.uint8).data, checksum)
            count += bad_scales(piece) if name in blocks else not_finite(tensor.dtype, piece)
        if count:
            strange[name] = count
        if written is not None and written.tensors.get(name) != hexadecimal(checksum):
            changed.append(name)
        if tensor.extent is not None:
            tensor.extent.forget()
    figure = "every value is finite"
    if strange:
        figure = f"{sum(strange.values()):,} values are not finite, the first in {next(iter(strange))}"
    yield Check("finite", not strange, figure)
    figure = f"{len(stored)} tensors as they were written"
    if changed:
        figure = f"{len(changed)} tensors differ from the written ones, the first is {changed[0]}"
    elif written is None:
        figure = f"skipped: the folder has no {CHECKSUMS_FILE}"
    yield Check("checksums", None if written is None else not changed, figure)


def _block_scales(source: Checkpoint) -> set[str]:
    """Names of scales of blocks, which may not be negative either."""
    scales = {name: low.scheme.scale[0] for name, low in source.storage.items() if low.scheme.block}
    return {source.storage[name].parts(name)[scale] for name, scale in scales.items()}


def not_finite(dtype: str, words: np.ndarray) -> int:
    """Number of values that are infinite or not a number, read off the words."""
    bits = _NOT_FINITE.get(dtype)
    if bits is None:
        return 0
    mask = np.array(bits, words.dtype)
    return int(np.count_nonzero((words & mask) == mask))


def _why_no_forward(source: Checkpoint, wanted: bool | None) -> str | None:
    if wanted is False:
        return "not asked for"
    if importlib.util.find_spec("torch") is None:
        if wanted:
            raise ElasticError(f"verify: running the model needs torch; {installing('runtime')} brings it")
        return "torch is not installed"
    count = parameters(source.parent, source.subnet)
    if wanted is None and count > FORWARD_LIMIT:
        return f"{count:,} parameters would be in memory twice in float32; --forward runs them"
    return None


def _forward_checks(source: Checkpoint, other: Checkpoint | None, tokens: int, seed: int) -> Iterator[Check]:
    import torch

    from nemo_elastic.nn.gates import Gates
    from nemo_elastic.nn.nemotron_h import NemotronH

    rows: dict[str, set[str]] = {}  # `slice --dtype` gives all tensors of a row the same
    for t in layout.tensors(source.parent, source.subnet):
        rows.setdefault(t.row.name, set()).add(source.dtype_of(t.hf))

    def model(opened: Checkpoint, member: Subnet) -> NemotronH:
        kept, state = cut(opened, member, requantize=True), {}
        for t in layout.tensors(opened.parent, member):
            dtypes = rows.get(t.row.name, set())
            stored = min(dtypes) if len(dtypes) == 1 else None
            state[t.hf] = _stored_like(kept, t.hf, stored)
        return NemotronH(opened.parent, state, member, trainable=False)

    random = torch.Generator().manual_seed(seed)
    text_bl = torch.randint(source.parent.vocab, (1, tokens), generator=random)
    with torch.no_grad():
        whole = model(source, source.subnet)
        logits_blv = whole(text_bl)
        finite = bool(torch.isfinite(logits_blv).all())
        yield Check("logits", finite, f"largest {float(logits_blv.abs().max()):.3g} on {tokens} random tokens")
        if source.subnet != source.parent.full:
            if other is None or regroups(source.parent, source.subnet):
                lacks = _REGROUPED if other else "skipped: masks need the whole parent, which is not in this folder"
                yield Check("cut = masked", None, lacks)
            else:
                masked_blv = model(other, other.subnet)(text_bl, Gates.of(source.parent, source.subnet))
                yield _unless_torn(_compare("cut = masked", logits_blv, masked_blv), other, source.subnet)
            return
        if other is not None:
            yield _compare("full = parent", logits_blv, model(other, other.subnet)(text_bl))
        for name, subnet in (source.members | source.extras).items():
            if regroups(source.parent, subnet):
                yield Check(f"{name}: cut = masked", None, _REGROUPED)
                continue
            masked_blv = whole(text_bl, Gates.of(source.parent, subnet))
            check = _compare(f"{name}: cut = masked", model(source, subnet)(text_bl), masked_blv)
            yield _unless_torn(check, source, subnet)


def _unless_torn(check: Check, source: Checkpoint, subnet: Subnet) -> Check:
    """The same, and no verdict where a cut computes codes anew."""
    if source.storage and is_torn(source, subnet):
        return replace(
            check, ok=None, figure=f"{check.figure}: the cut goes through blocks, whose codes were rounded again"
        )
    return check


def _as_member(source: Checkpoint, other: Checkpoint) -> Checkpoint:
    """The source as a member of its parent; a folder that knows of no family as what its config describes."""
    parent = other.parent
    plain = source.family is None and source.origin == Origin() and other.subnet == parent.full
    if plain and source.parent.laid_out_as(parent) != parent:
        return replace(source, parent=parent, subnet=member_of(other, source))
    if parent.laid_out_as(source.parent) != source.parent or other.subnet != parent.full:
        raise ElasticError(f"{other.folder}: has another shape than the parent of {source.folder}")
    return source


def _compare(name: str, a_blv: torch.Tensor, b_blv: torch.Tensor) -> Check:
    gap, scale = float((a_blv - b_blv).abs().max()), float(b_blv.abs().max())
    return Check(name, gap <= TOLERANCE * scale, f"logits differ by at most {gap:.1e} (largest logit {scale:.3g})")
