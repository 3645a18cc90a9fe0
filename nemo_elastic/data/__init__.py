# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""Text and conversations to tokens: `prepare` by a tokenizer that is there, `build` for the demo, `folder` to read."""
