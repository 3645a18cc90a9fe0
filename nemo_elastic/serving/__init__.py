# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""A family in vLLM's server: one engine, one copy of the weights, every member a model name.

`command` starts the server, vLLM loads `plugin`. The other modules do not import vLLM; code that runs inside
vLLM is in `engine/`, and only vLLM imports it.
"""
