#!/usr/bin/env bash
# All that needs a GPU, in under 8 minutes: the marked tests, the DP step and sampling at the paper's
# size, and the hours that the paper's settings would take.  Usage: bench/on_gpu.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
export PYTHONPATH=$PWD
"$python" -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "no CUDA device")'
"$python" -m pytest -q -m gpu tests
"$python" bench/dp_step.py --device cuda --images 64 --copies 16 --rounds 1 --calls 5 --compiled
"$python" bench/sampling.py --device cuda --batch 512 --rounds 1 --compiled
"$python" bench/hours.py
