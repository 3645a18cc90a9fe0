# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in an environment that has mlx-lm: logits of every folder below the one it is given, computed on the CPU.

Knows nothing of this package, so what it says is an independent opinion.
"""

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx_lm.utils import load_model


def main() -> None:
    mx.set_default_device(mx.cpu)
    for folder in sorted(p for p in Path(sys.argv[1]).iterdir() if p.is_dir()):
        model, _ = load_model(folder)
        logits = model(mx.array(np.load(folder / "tokens.npy"))).astype(mx.float32)
        np.save(folder / "mlx.npy", np.array(logits))


if __name__ == "__main__":
    main()
