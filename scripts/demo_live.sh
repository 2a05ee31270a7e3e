#!/usr/bin/env bash
# The live web app on a model trained in two minutes, with a log that is played; makes or updates .venv first.
#
#   bash scripts/demo_live.sh
#   bash scripts/demo_live.sh --log LOG --speed 10 --triton
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
bash "$root/scripts/setup.sh" serve
# The caller's folder stays the current one, so that relative paths in the arguments mean what they say.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$root/.venv/bin/python" -P -m scripts.demo_live "$@"
