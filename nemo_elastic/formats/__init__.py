# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What checkpoints look like, and how they are read and written: numpy and JSON; torch for Megatron's; never NeMo.

`folders` opens a folder of any format as a `Checkpoint`; `hf` and `megatron` are the formats, `adapter` leads from the
one's tensors to the other's.
"""
