# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
"""What all hosts share around a training: a run's options and files, what must agree in it, its jobs by NeMo-Run."""
