# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Numerics of a Nemotron-H that know widths: torch only, any device.

The functions here are what every runtime of this package is made of. They take plain tensors, they compute in float32
(or float64 if that is what they are given) wherever the numbers need it, and they return the dtype of their input.

Shape suffixes: b batch, l sequence position, d hidden channel, c convolution channel, k kernel tap, h head, p head
channel, g group (Mamba's or the key/value heads'), n state channel, t token, v vocabulary entry.
"""
