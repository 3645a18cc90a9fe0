# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What a ranking needs of a model, and streaming importance statistics of its activations (method §3).

`Statistics` is a probe (see `nn.gates.Probe`): a model calls it at its sites, and it keeps one sum per channel,
however many samples pass. The sums are plain: those of two runs, or of two data-parallel ranks, add up. Roots are
taken last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from nemo_elastic.core.family import Parent
from nemo_elastic.core.kinds.mamba import MAMBA_HEAD_DIM
from nemo_elastic.core.kinds.record import Kind
from nemo_elastic.errors import ElasticError
from nemo_elastic.nn.documents import Documents
from nemo_elastic.nn.gates import Probe
from nemo_elastic.nn.rows import Rows
from nemo_elastic.ranking.ranking import RankOptions

#: Sums a tensor over the ranks that saw different samples; returns the sum (in place or not).
Reduce = Callable[[torch.Tensor], torch.Tensor]


class Layered(Protocol):
    """A model layer by layer; `nn.forward.Layers` and `megatron.layers.MegatronLayers` are two.

    Only the model reads streams. No method may change a stream in place, because
    several runs start from the same stream. Activations handed to a probe are (batch, length, ...), and whole unless
    ranks hold the model together: then `Shards` makes one of what each has seen.
    """

    def with_documents(self, documents: Documents, /) -> Layered:
        """The same model with layers that do not read across document boundaries of the rows."""
        ...

    def embed(self, tokens: torch.Tensor, /) -> Any:
        """Token ids [b, l] to the stream that enters the first layer."""
        ...

    def layer(self, index: int, stream: Any, probe: Probe | None = None, /) -> Any:
        """The stream after a layer, from the stream before it."""
        ...

    def norm(self, stream: Any, probe: Probe | None = None, /) -> torch.Tensor:
        """The final norm of the last layer's stream: what the head reads."""
        ...

    def head(self, normed: torch.Tensor, /) -> torch.Tensor:
        """Logits [b, l, v] (of this rank's part of the vocabulary) of what `norm` gave."""
        ...


class Shards(Protocol):
    """Ranks that hold one model together: what each has seen of it makes what one rank would have seen.

    All of them call the same methods in the same order.
    """

    def mean(self, site: str, mean: torch.Tensor, /) -> torch.Tensor:
        """A mean [b, ...] over the tokens and of the channels that this rank sees at a probe's site, made whole."""
        ...

    def tokens(self, each_bl: torch.Tensor, /) -> tuple[torch.Tensor, torch.Tensor]:
        """Select from values of all tokens [b, l] those of this rank inside layers, and between layers.

        Of the former it has logits.
        """
        ...

    def logits(self, sums: torch.Tensor, /) -> torch.Tensor:
        """Sums over this rank's part of vocabulary and tokens, made those over all of both."""
        ...


def entered(model: Layered, rows: Rows) -> tuple[Layered, Any]:
    """A model as it reads rows, and the stream that enters its first layer."""
    model = model if rows.documents is None else model.with_documents(rows.documents)
    return model, model.embed(rows.ids_bl)


def through(model: Layered, layers: Iterable[int], stream: Any, probe: Probe | None = None) -> torch.Tensor:
    """A stream through some layers and the final norm."""
    for index in layers:
        stream = model.layer(index, stream, probe)
    return model.norm(stream, probe)


def through_together(
    model: Layered,
    layers: Sequence[int],
    rows: Sequence[Rows],
    probe: Statistics | None = None,
    done: Callable[[int], None] | None = None,
) -> list[torch.Tensor]:
    """What `through` gives of each of several rows, which all go through a layer before any enters the next.

    `done` is called after every layer with how many are done.
    """
    models, streams = [], []
    for each in rows:
        as_read, stream = entered(model, each)
        models.append(as_read)
        streams.append(stream)

    def weighed(each: Rows) -> Statistics | None:
        if probe is not None:
            probe.weigh(each.counts_bl)
        return probe

    for number, index in enumerate(layers, 1):
        for at, each in enumerate(rows):
            streams[at] = models[at].layer(index, streams[at], weighed(each))
        if done is not None:
            done(number)
    return [models[at].norm(streams[at], weighed(each)) for at, each in enumerate(rows)]


class Statistics:
    """Sums over samples at every site of a parent; hand the object itself to a model as its probe.

    Memory does not depend on the number of samples: one float64 per channel and layer, and for a basis one matrix
    [hidden, hidden]. Every rank of a
    pipeline-parallel model has every key, so `reduce` may run over data and pipeline ranks alike. Ranks that hold the
    model together, its `shards`, have the same sums, for they put together what they see before anything is squared.
    """

    def __init__(self, parent: Parent, options: RankOptions | None = None, shards: Shards | None = None) -> None:
        self.parent, self.shards = parent, shards
        self.options = options or RankOptions()
        self.sums: dict[str, torch.Tensor] = {}
        self.moments: torch.Tensor | None = None
        if self.options.hidden == "basis":
            self.moments = torch.zeros(parent.hidden, parent.hidden, dtype=torch.float64)
        else:
            for i in (*range(parent.num_layers), -1):
                self.sums[f"hidden.{i}"] = torch.zeros(parent.hidden, dtype=torch.float64)
        for i, kind in enumerate(map(parent.kind, parent.types)):
            for site, terms in {self._site(kind): kind.shape, **kind.more_sites}.items():
                shape = tuple(parent.size(term) for term in terms)
                self.sums[f"{site}.{i}"] = torch.zeros(shape, dtype=torch.float64)
            if self.options.depth == "cosine":
                self.sums[f"cosine.{i}"] = torch.zeros(1, dtype=torch.float64)
        self.samples = dict.fromkeys(self.sums, 0)
        self._layer_in: dict[int, torch.Tensor] = {}
        self.weights_bl: torch.Tensor | None = None
        self._all_bl: torch.Tensor | None = None
        self._counted = 0  # rows with a token that counts

    def weigh(self, weights_bl: torch.Tensor | None) -> None:
        """How much each token counts of the rows that come next; None for all alike. Each row counts for as much."""
        self._all_bl = self.weights_bl = None
        if weights_bl is not None:
            mean_b1 = weights_bl.mean(dim=1, keepdim=True)
            self._all_bl = torch.where(mean_b1 > 0, weights_bl / mean_b1, 0.0)
            self._counted = int((mean_b1 > 0).sum())
            self.weights_bl = self._all_bl
            if self.shards is not None:
                self._all_bl, self.weights_bl = self.shards.tokens(self._all_bl)

    def __call__(self, site: str, layer: int, activation: torch.Tensor) -> None:
        """The probe: `activation` is (batch, length, ...), with whole channel dimensions where there are no shards."""
        if site in ("layer_in", "layer_out"):
            self._residual(site, layer, activation)
            return
        name = f"{site}.{layer}"
        if name not in self.sums:
            return
        # |a| in fp32: a bf16 mean over thousands of tokens would lose the small channels.
        magnitudes = activation.detach().float().abs()
        counts = self._counts(site, layer)
        if counts == site or counts is None:
            power = 2 if self.options.aggregation == "l2_mean" and counts is None else 1
        else:
            magnitudes, power = magnitudes.pow(2 if self.options.experts == "l2" else 1), 1
        mean_over_tokens = self._mean(site, magnitudes)
        self._add(name, mean_over_tokens.double().pow(power).sum(dim=0), len(activation))

    def _site(self, kind: Kind) -> str:
        return kind.sites.get(self.options.ffn, kind.site)

    def _counts(self, site: str, layer: int) -> str | None:
        """The site that counts uses of this site's channels (itself if it is one), or None."""
        use_counts = self.parent.kind(self.parent.types[layer]).use_counts if layer >= 0 else {}
        return site if site in use_counts.values() else use_counts.get(site)

    def _residual(self, site: str, layer: int, activation: torch.Tensor) -> None:
        if self.moments is not None and (site == "layer_in" or layer == self.parent.num_layers - 1):
            self._moment(activation)
        name = f"cosine.{layer}"
        if name not in self.sums:
            return
        if site == "layer_in":
            self._layer_in[layer] = activation.detach()
            return
        before = self._layer_in.pop(layer).float()
        cosine = torch.nn.functional.cosine_similarity(before, activation.detach().float(), dim=-1)
        self._add(name, self._mean(site, 1 - cosine.double()).sum().reshape(1), len(activation))

    def _moment(self, stream_bld: torch.Tensor) -> None:
        """Add the mean of n nᵀ over the tokens of each row, n = x / rms(x), x the input of a norm.

        Without the division the few tokens with massive activations would determine the first directions.
        """
        x_bld = stream_bld.detach().float()
        n_bld = x_bld * (x_bld.square().mean(-1, keepdim=True) + self.parent.norm_eps).rsqrt()
        weighted_bld = n_bld if self.weights_bl is None else n_bld * self.weights_bl[..., None].to(n_bld.dtype)
        sum_dd = weighted_bld.flatten(0, 1).T @ n_bld.flatten(0, 1)
        assert self.moments is not None
        self.moments = self.moments.to(sum_dd.device) + sum_dd.double() / stream_bld.shape[1]

    def _mean(self, site: str, values: torch.Tensor) -> torch.Tensor:
        """Over the tokens of each row [b, length, ...], which are a rank's part of them or one mean already."""
        length = values.shape[1]
        weights_bl = next((w for w in (self._all_bl, self.weights_bl) if w is not None and w.shape[1] == length), None)
        if weights_bl is None:
            mean = values.mean(dim=1)
        else:
            mean = torch.einsum("bl...,bl->b...", values, weights_bl.to(values.dtype)) / length
        return mean if self.shards is None else self.shards.mean(site, mean)

    def _add(self, name: str, value: torch.Tensor, samples: int) -> None:
        if self._all_bl is not None:
            samples = self._counted
        total = self.sums[name].to(value.device)  # moves to the accelerator once, with the first sample
        if total.shape != value.shape:
            raise ValueError(f"probe {name}: {tuple(value.shape)} channels, the parent has {tuple(total.shape)}")
        self.sums[name] = total + value
        self.samples[name] += samples

    def reduce(self, reduce: Reduce | None, device: torch.device | str | None = None) -> Statistics:
        """Sum over ranks, which all call it once, with the same keys in the same order.

        Without `reduce` nothing happens. `device` is where tensors must lie for the sum: a rank without a layer has
        its zeros on the CPU.
        """
        if reduce is not None:
            for name in self.sums:
                self.sums[name] = reduce(self.sums[name].to(device or self.sums[name].device))
            counts = torch.tensor(list(self.samples.values()), dtype=torch.float64, device=device)
            self.samples = dict(zip(self.samples, (int(n) for n in reduce(counts).tolist()), strict=True))
        if self.moments is not None:
            if self.shards is not None:
                self.moments = self.shards.mean("layer_in", self.moments)
            if reduce is not None:
                self.moments = reduce(self.moments.to(device or self.moments.device))
        return self

    def basis(self) -> tuple[np.ndarray, np.ndarray]:
        """Principal directions of what enters the norms, of the largest mean square first.

        Returns:
            Mean squares [hidden], mean over norms and tokens, with the sum `hidden`; orthogonal [hidden,
            hidden], a direction a column.

        Raises:
            ElasticError: a stream that is not finite.
        """
        assert self.moments is not None
        moments = self.moments.cpu().numpy()
        trace = np.trace(moments)
        if not 0 < trace < np.inf:
            raise ElasticError("ranking: the residual stream is not finite; the parent or its precision is broken")
        values, columns = np.linalg.eigh(moments * (len(moments) / trace))
        values, columns = values[::-1], columns[:, ::-1]
        largest = np.take_along_axis(columns, np.abs(columns).argmax(0)[None], 0)
        return values.clip(0), columns * np.sign(largest)

    def scores(self) -> dict[str, np.ndarray]:
        """Importance per channel or head, float64.

        "hidden" [hidden], but for a basis; per layer i "ffn.i" [ffn], "mamba_heads.i" [heads],
        "mamba_head_dim.i" [head_dim], "attention_heads.i" [heads], "experts.i" [experts],
        "expert_ffn.i" [experts, ffn], "shared_ffn.i" [ffn], "latent.i" [latent]; with depth "cosine" also "depth"
        [layers]. `ElasticError` without samples, or where an
        activation was not finite.
        """
        done = {name: self._aggregate(name) for name in self.sums}
        out: dict[str, np.ndarray] = {}
        if self.moments is None:
            # Added over norms after the root, as each norm measures the same channels separately.
            out["hidden"] = np.sum([done[f"hidden.{i}"] for i in (*range(self.parent.num_layers), -1)], axis=0)
        for i, kind in enumerate(map(self.parent.kind, self.parent.types)):
            scored = axis_scores(kind, done[f"{self._site(kind)}.{i}"], self.options.head_channels)
            scored |= {
                t[-1]: done[f"{s}.{i}"] for s, t in kind.more_sites.items() if s not in kind.use_counts.values()
            }
            out |= {f"{axis}.{i}": scores for axis, scores in scored.items()}
        if self.options.depth == "cosine":
            out["depth"] = np.concatenate([done[f"cosine.{i}"] for i in range(self.parent.num_layers)])
        return out

    def _aggregate(self, name: str) -> np.ndarray:
        """Scores of one probe site, `site.layer`, in float64 and in the shape of its sums.

        With a count of uses (experts): the mean, or root mean square, over the tokens routed to each. Else for l2_mean
        sqrt(sum over samples of the squared mean over tokens), and the mean over samples for the others.
        """
        total, samples = self.sums[name].cpu().numpy(), self.samples[name]
        if not samples:
            raise ElasticError(
                f"ranking: no activation was seen at {name}; give at least one batch with tokens that count"
            )
        if not np.isfinite(total).all():
            raise ElasticError(f"ranking: activations at {name} are not finite; the parent or its precision is broken")
        site, _, layer = name.rpartition(".")
        counts = self._counts(site, int(layer))
        if counts is not None:
            used = self.sums[f"{counts}.{layer}"].cpu().numpy()
            mean = np.divide(total, used, out=np.zeros_like(total), where=used > 0)
            return np.sqrt(mean) if self.options.experts == "l2" else mean
        if self.options.aggregation == "l2_mean" and site != "cosine":
            return np.sqrt(total)
        return total / samples


def axis_scores(kind: Kind, activation: np.ndarray, head_channels: int | None = None) -> dict[str, np.ndarray]:
    """Importance on every axis of a layer from its aggregated magnitudes [size of each term of `kind.shape`].

    It is the norm over all else; of Mamba heads over their `head_channels` best channels (Minitron-SSM), None for all.
    """
    out: dict[str, np.ndarray] = {}
    for dim in reversed(range(activation.ndim)):
        axis = kind.shape[dim]
        if axis not in kind.widths:
            continue
        others = tuple(d for d in range(activation.ndim) if d != dim)
        if len(others) == 1:
            out[axis] = np.linalg.norm(activation, axis=others[0])
        else:
            out[axis] = np.sqrt(np.square(activation).sum(axis=others)) if others else activation
        if axis == MAMBA_HEAD_DIM:
            best = np.argsort(-out[axis], kind="stable")[:head_channels]
            activation = np.take(activation, best, axis=dim)
    return out
