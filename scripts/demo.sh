#!/usr/bin/env bash
# The main job, end to end, on generated logs or on yours; makes or updates .venv first.
#
#   bash scripts/demo.sh
#   bash scripts/demo.sh --logs PATH --profile NAME --out DIR --quick
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
bash "$root/scripts/setup.sh"
# The caller's folder stays the current one, so that relative paths in the arguments mean what they say.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$root/.venv/bin/python" -P -m scripts.demo "$@"
