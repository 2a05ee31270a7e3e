#!/usr/bin/env bash
# Runs every test, fast and slow; makes or updates .venv first. Arguments go on to pytest:
#
#   bash scripts/test.sh
#   bash scripts/test.sh -m 'not slow' tests/nn
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
bash scripts/setup.sh dev llm nvtabular rag ray serve track
# The Triton server, into the user's cache: after this the tests use loopback only.
.venv/bin/python -c 'from deployment.triton_environment import prepare; print("[setup] Triton:", prepare().folder)'
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
