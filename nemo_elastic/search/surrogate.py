# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A guess at the loss of codes that were not tried: Bayesian linear regression of its logarithm, for `finder`.

With a hundred measurements and tens of slots a model has to be small. Damage adds up over slots in the logarithm
nearly enough to tell promising candidates from poor ones, and a sample from the posterior (Thompson sampling) explores
by itself.

Tried against a random choice from the same pool, on the demo's parent with widths of their own for all layers, two
budgets and five seeds: the product of the members' losses was 21 to 35 % lower in each seed with 128 candidates, 18 %
lower in the mean with 64, and neither way was better with 32, or with one width for all layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nemo_elastic.search.space import Space

#: Prior standard deviations: of an axis' steps, of a group of layers, of one layer; and the noise, all in units of the
#: spread of the logarithm of the losses seen.
AXIS, GROUP, LAYER, NOISE = 1.0, 0.7, 0.4, 0.15


def layer_groups(space: Space, most: int = 4) -> list[tuple[int, ...]]:
    """Slots that move together: every whole-model slot, and the layers of a per-layer axis in up to `most` groups.

    Groups are quantiles of the drop order: layers whose absence hurts least are also the ones to thin first.
    """
    place = {layer: i for i, layer in enumerate(space.drop_order)}
    groups: list[tuple[int, ...]] = []
    for axis in dict.fromkeys(s.axis for s in space.slots):
        slots = space.positions(axis)
        if not space.per_layer[axis]:
            groups.append(slots)
            continue
        ranked = sorted(slots, key=lambda s: (place.get(space.slots[s].layer or 0, len(place)), s))
        for part in np.array_split(ranked, min(most, len(ranked))):
            groups.append(tuple(int(s) for s in part))
    return groups


class Surrogate:
    """Posterior over the losses of codes, from the codes measured so far."""

    def __init__(self, space: Space, groups: Sequence[tuple[int, ...]]) -> None:
        self.space, self.groups = space, groups
        self.cut = [1 - np.array(s.choices) / s.choices[0] for s in space.slots]
        self.whole = [s for s in range(len(space.slots)) if space.slots[s].layer is None]
        self.own = [a for a in space.axes if space.per_layer[a] and space.positions(a)]
        self.parts = [g for g in groups if len(g) and space.slots[g[0]].layer is not None]
        self.prior = self._prior()

    def _prior(self) -> np.ndarray:
        steps = sum(len(self.cut[s]) - 1 for s in self.whole) + sum(len(self.space.choices[a]) - 1 for a in self.own)
        layers = sum(len(g) for g in self.parts)
        return np.array([AXIS] * steps + [GROUP] * len(self.parts) + [LAYER] * layers)

    def features(self, codes: np.ndarray) -> np.ndarray:
        """Cumulative steps per axis, mean cut per group, cut per layer: [n, slots] -> [n, features].

        Layers that a code drops count as uncut: what their absence costs is the depth's.
        """
        codes = np.atleast_2d(codes)
        active = np.stack([self.space.active(c) for c in codes])
        columns = [codes[:, s] >= j for s in self.whole for j in range(1, len(self.cut[s]))]
        for axis in self.own:
            slots = list(self.space.positions(axis))
            number = np.maximum(active[:, slots].sum(axis=1), 1)
            for j in range(1, len(self.space.choices[axis])):
                columns.append(((codes[:, slots] >= j) & active[:, slots]).sum(axis=1) / number)
        cuts = {s: self.cut[s][codes[:, s]] * active[:, s] for g in self.parts for s in g}
        columns += [np.mean([cuts[s] for s in g], axis=0) for g in self.parts]
        columns += [cuts[s] for g in self.parts for s in g]
        return np.stack(columns, axis=1).astype(np.float64)

    def sample(self, codes: np.ndarray, losses: np.ndarray, pool: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Losses of `pool` under a sample from the posterior given (codes, losses); only their order means something.

        Args:
            codes: measured codes [n, slots].
            losses: their losses [n]; not finite ones count as the worst.
            pool: codes to judge [m, slots].
            rng: source of the sample.

        Returns:
            float64 [m], lower is better.
        """
        finite = losses[np.isfinite(losses)]
        worst = finite.max() if len(finite) else 1.0
        y = np.log(np.maximum(np.where(np.isfinite(losses), losses, worst), 1e-12))
        y = (y - y.mean()) / (y.std() or 1.0)
        x, middle = self.features(codes), self.features(codes).mean(axis=0)
        x = (x - middle) * self.prior
        precision = np.eye(len(self.prior)) + x.T @ x / NOISE**2
        factor = np.linalg.cholesky(precision)
        mean = np.linalg.solve(precision, x.T @ y / NOISE**2)
        weights = mean + np.linalg.solve(factor.T, rng.standard_normal(len(mean)))
        return ((self.features(pool) - middle) * self.prior) @ weights
