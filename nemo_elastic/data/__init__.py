# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Text to tokens: a corpus that is on every machine, worked problems, a tokenizer, Megatron token files.

`build.build_data` makes a folder, `folder.DataFolder` reads one. Who trains on it stands in `hosts`.
"""
