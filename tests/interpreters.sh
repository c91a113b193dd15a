#!/usr/bin/env bash
# Print every Python from 3.11 on that works here, one for each minor version: "3.12 /path/to/python".
# Looks on PATH and where pyenv keeps its versions.
set -u
declare -A found=()
candidates=(python3 python3.11 python3.12 python3.13 python3.14 python3.15 python)
for folder in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[1-9]*/bin/python; do
    [ -x "$folder" ] && candidates+=("$folder")
done
for candidate in "${candidates[@]}"; do
    # A Python without venv or ensurepip, or one that only pretends to be there, is none for us.
    line=$("$candidate" -c '
import ensurepip, sys, venv
if sys.version_info >= (3, 11): print("%d.%d" % sys.version_info[:2], sys.executable)' 2>/dev/null) || continue
    [ -n "$line" ] || continue
    version=${line%% *}
    [ -n "${found[$version]:-}" ] || { found[$version]=1; echo "$line"; }
done | sort -V
