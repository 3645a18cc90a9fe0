# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
#
# NeMo's container with this package in it, and nothing of the container's own stack changed:
#   docker build -t nemo-elastic:25.11 .
#   docker build --build-arg BASE=nvcr.io/nvidia/nemo:26.08 -t nemo-elastic:26.08 .   (trains on Megatron-Bridge)
#   docker build --build-arg BASE=nvcr.io/nvidia/nemo:25.09 -t nemo-elastic:25.09 .   (cuts and inspects, cannot train)
ARG BASE=nvcr.io/nvidia/nemo:25.11
FROM ${BASE}

WORKDIR /opt/nemo-elastic
COPY . .

# The container's torch, megatron-core, TransformerEngine and kernels are built for one another. No extra is installed:
# [nemo] and [bridge] ask for their hosts from PyPI, and what they need is here already. The first line writes the
# releases that must stay as constraints, the second installs under them, the third fails the build if one of them is
# another now.
RUN python docker/keep.py write /opt/nemo-elastic/kept.txt
RUN if python -m pip --version; then python -m pip install --no-cache-dir -c /opt/nemo-elastic/kept.txt .; \
    else uv pip install --no-cache --python "$(command -v python)" -c /opt/nemo-elastic/kept.txt .; fi
RUN python docker/keep.py check /opt/nemo-elastic/kept.txt && nemo-elastic --version

# Not run here, since a build sees no GPU: nemo-elastic doctor
WORKDIR /workspace
