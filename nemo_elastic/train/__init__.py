# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""How a family is trained, in torch alone: samples, shapes, losses, validation, a guard. Whoever trains is a `Host`.

Nothing here knows a format of checkpoints, a host or a recipe.
"""
