#!/usr/bin/env bash
# All that needs one GPU, in under 8 minutes; what it does and leaves is said in bench/on_gpu.py.
# Usage: bench/on_gpu.sh [PYTHON] [--compiled] [--dry-run]
set -euo pipefail
python=.venv/bin/python
case ${1:--} in -*) ;; *) python=$(command -v "$1") && shift ;; esac
here=$(cd "$(dirname "$0")/.." && pwd)
case $python in /*) ;; *) [ -x "$python" ] && python=$PWD/$python || python=$here/$python ;; esac
cd "$here"
PYTHONPATH=$PWD exec "$python" bench/on_gpu.py "$@"
