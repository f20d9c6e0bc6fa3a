#!/usr/bin/env bash
# Tests and measures ichx on a GPU, in under 8 minutes. Results are written after each part: nothing is lost when it is killed.
#
#   benchmarks/gpu.sh [--wheels FOLDER] [options of benchmarks/gpu.py]
#
# --wheels FOLDER installs the wheels in FOLDER into a temporary folder first, for machines without network that have torch
# and timm. `gpu.sh --device cpu --quick` does the same on a CPU with tiny networks, in a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" NO_ALBUMENTATIONS_UPDATE=1
if [ "${1:-}" = --wheels ]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$2"/*.whl
  export PYTHONPATH="$PYTHONPATH:$site"
  shift 2
fi
"$python" benchmarks/gpu.py "$@"
