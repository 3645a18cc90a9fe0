# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Reading, cutting and writing checkpoints as bytes: numpy and JSON, no torch, no NeMo.

`hf` opens a folder, `slicer` cuts a member out of it, `write` writes a folder, `family_folder` makes a family,
`verify` checks one.
"""
