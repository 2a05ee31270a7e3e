#!/usr/bin/env bash
# Runs every test, fast and slow; makes or updates .venv first. Arguments go on to pytest:
#
#   bash scripts/test.sh
#   bash scripts/test.sh -m 'not slow' tests/nn
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"

# The browser and the proxy that some tests use come from the distribution: installed where that is allowed. Elsewhere
# their tests are skipped (and .ci/run fails).
from_distribution() {
    local program=$1 package=$2
    if command -v "$program" >/dev/null || [ -x "/usr/sbin/$program" ]; then
        return
    fi
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        printf '[setup] Installing %s\n' "$package"
        local log
        log=$(mktemp)
        if { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends "$package"; } \
            >"$log" 2>&1 </dev/null; then
            rm -f "$log"
            return
        fi
        tail -n 5 "$log" >&2
        rm -f "$log"
    fi
    printf '[setup] %s is missing, and its tests are skipped; on Debian or Ubuntu: apt-get install %s\n' "$program" "$package"
}

bash scripts/setup.sh dev llm nvtabular rag ray serve track
from_distribution chromium chromium
from_distribution nginx nginx
from_distribution openssl openssl
# The Triton server, into the user's cache: after this the tests use loopback only.
.venv/bin/python -c 'from deployment.triton_environment import prepare; print("[setup] Triton:", prepare().folder)'
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
