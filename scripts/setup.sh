#!/usr/bin/env bash
# Makes the environment .venv, or brings it up to date. Called by demo.sh, test.sh and .ci/run.
#
#   bash scripts/setup.sh [EXTRA...]     EXTRA: a lock requirements-EXTRA.lock to install as well (dev, rag, ...)
#
# .venv is made anew when it is missing, when its set-up was interrupted, when the checkout has moved or when an
# installed lock has changed. pip's own settings hold (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, pip.conf): on a machine
# without a GPU, PyTorch's CPU index as an extra index spares gigabytes of CUDA libraries.
# RECSYS_PYTHON names the Python 3.11 to use where it is not on the PATH.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
venv=.venv
stamp=$venv/setup-stamp
log=$venv/setup.log
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
unset PYTHONPATH PYTHONHOME # another environment's packages must not pass for installed ones

say() { printf '[setup] %s\n' "$*"; }
fail() {
    printf '[setup] %s\n' "$*" >&2
    exit 1
}

hash_of() { cat "$@" | sha256sum | cut -d' ' -f1; }

find_python() {
    local candidate
    for candidate in ${RECSYS_PYTHON:+"$RECSYS_PYTHON"} python3.11 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
            printf '%s' "$candidate"
            return
        fi
    done
    fail "Python 3.11 is missing; on Debian 12 or Ubuntu: apt-get install python3.11 python3.11-venv" \
        "(or set RECSYS_PYTHON to one)"
}

# One line a package while pip works, since a silent minute looks like a hang; pip's own words go to the log.
pip_install() {
    local title=$1 total=$2 count=0 line
    shift 2
    say "$title"
    if ! "$venv/bin/python" -m pip install --progress-bar off "$@" 2>&1 | tee -a "$log" |
        while IFS= read -r line; do
            case $line in
            Collecting* | Processing*)
                count=$((count + 1))
                if [ -t 1 ]; then
                    printf '\r[setup]   %3d of %d  %-50.50s' "$count" "$total" "${line#* }"
                elif [ $((count % 20)) = 0 ]; then
                    say "  $count of $total found"
                fi
                ;;
            Installing\ collected*)
                [ ! -t 1 ] || printf '\n'
                say "  writing them to $venv"
                ;;
            esac
        done; then
        tail -n 15 "$log" >&2
        fail "pip could not install this (above: the end of $log); the next call starts again"
    fi
}

make_venv() {
    local python
    python=$(find_python)
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python has no venv module; on Debian 12 or Ubuntu: apt-get install python3.11-venv"
    say "Making $venv with $("$python" --version 2>&1): $1"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    : >"$log"
}

# The lists of source archives, and of wheels without what they declare, that go with a lock; few locks have one.
archives_of() { printf 'archives-%s' "${1#requirements-}"; }
bare_of() { printf 'bare-%s' "${1#requirements-}"; }

# What the stamp says of a lock: the same line means that exactly this lock is installed.
lock_line() {
    local files=("$1") list
    for list in "$(archives_of "$1")" "$(bare_of "$1")"; do
        [ ! -f "$list" ] || files+=("$list")
    done
    printf '%s %s\n' "$1" "$(hash_of "${files[@]}")"
}

project_line() { printf 'project %s\n' "$(hash_of pyproject.toml setup.py)"; }

stamped() { grep -qxF -- "$1" <<<"$have"; }

# Prints why .venv has to be made anew, or nothing where it can stay.
why_make() {
    local name
    if [ ! -d "$venv" ]; then
        echo "it is missing"
    elif [ -z "$have" ]; then
        echo "its set-up was not finished, or something else made it"
    elif ! stamped "root $root" || ! "$venv/bin/python" -c '' 2>/dev/null; then
        echo "the checkout or its Python has moved"
    else
        for name in requirements*.lock; do
            if grep -q "^$name " <<<"$have" && ! stamped "$(lock_line "$name")"; then
                echo "$name has changed"
                return
            fi
        done
    fi
}

install_locks() {
    local name files=() total
    for name in "$@"; do
        files+=(-r "$name")
    done
    total=$(cat "$@" | grep -c '==')
    pip_install "Installing $total packages ($*); the first time takes minutes" "$total" "${files[@]}"
}

# Archives whose declared requirements are out of date: the lock beside them holds what they really need. pip refuses
# them straight from the index, so they are downloaded first; their C++ part, which we do not use, would need a
# compiler, so it is left out.
install_archives() {
    local list=$1 folder archive
    folder=$(mktemp -d)
    if ! "$venv/bin/python" -m pip download --progress-bar off --no-deps --no-build-isolation --no-binary :all: \
        -d "$folder" -r "$list" >>"$log" 2>&1; then
        tail -n 15 "$log" >&2
        fail "pip could not download $list (above: the end of $log); the next call starts again"
    fi
    for archive in "$folder"/*.tar.gz; do
        tar -xzf "$archive" -C "$folder"
    done
    sed -i '/^    ext_modules=ext_modules,$/d' "$folder"/nvtabular-*/setup.py
    pip_install "Installing the source archives of $list" "$(grep -c '==' "$list")" \
        --no-deps --no-build-isolation --no-index "$folder"/*/
    rm -rf "$folder"
}

# Two set-ups at once (a demo beside the tests) would break each other: the second waits.
lock_out_others() {
    command -v flock >/dev/null || return 0
    exec 9<requirements.lock
    flock -n 9 || {
        say "Waiting for another set-up of this checkout"
        flock 9
    }
}

main() {
    local extra name reason have="" locks=(requirements.lock) missing=()
    for extra in "$@"; do
        [ -f "requirements-$extra.lock" ] || fail "the extra '$extra' has no requirements-$extra.lock"
        locks+=("requirements-$extra.lock")
    done
    lock_out_others
    [ ! -f "$stamp" ] || have=$(<"$stamp")
    reason=$(why_make)
    if [ -n "$reason" ]; then
        # What was there is made again: a demo must not take away what the tests need.
        for name in requirements-*.lock; do
            if grep -q "^$name " <<<"$have" && [[ " ${locks[*]} " != *" $name "* ]]; then
                locks+=("$name")
            fi
        done
        have="root $root"
    fi
    for name in "${locks[@]}"; do
        stamped "$(lock_line "$name")" || missing+=("$name")
    done
    if [ -z "$reason" ] && [ ${#missing[@]} -eq 0 ] && stamped "$(project_line)"; then
        say "$venv is up to date"
        return
    fi

    # An interrupted set-up leaves no stamp, so the next one starts again.
    rm -f "$stamp"
    [ -z "$reason" ] || make_venv "$reason"
    if [ ${#missing[@]} -gt 0 ]; then
        # The base goes along with a later extra, so that no extra can move a version that the base pins.
        [ "${missing[0]}" = requirements.lock ] || missing=(requirements.lock "${missing[@]}")
        install_locks "${missing[@]}"
        for name in "${missing[@]}"; do
            [ ! -f "$(archives_of "$name")" ] || install_archives "$(archives_of "$name")"
            [ ! -f "$(bare_of "$name")" ] || pip_install "Installing the wheels of $(bare_of "$name")" \
                "$(grep -c '==' "$(bare_of "$name")")" --no-deps -r "$(bare_of "$name")"
        done
    fi
    stamped "$(project_line)" ||
        pip_install "Installing the project itself (editable)" 1 --no-deps --no-build-isolation -e .
    for name in "${missing[@]}"; do
        have+=$'\n'$(lock_line "$name")
    done
    { grep -v '^project ' <<<"$have" && project_line; } | sort -u >"$stamp.new"
    mv "$stamp.new" "$stamp"
    say "$venv is ready after $SECONDS s"
}
main "$@"
