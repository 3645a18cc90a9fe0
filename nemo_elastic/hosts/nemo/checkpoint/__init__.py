# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""NeMo checkpoints of a training: written, listed, loaded, trusted, gone on from, and cut into families."""
