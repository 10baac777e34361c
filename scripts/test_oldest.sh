#!/usr/bin/env bash
# The tests with the oldest versions that pyproject.toml allows, in .venv-oldest. Arguments go to pytest:
#   bash scripts/test_oldest.sh -m "not slow"
set -euo pipefail
TCL_TRAIN_VENV="${TCL_TRAIN_VENV:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.venv-oldest}"
source "$(dirname "${BASH_SOURCE[0]}")/python_env.sh"

make_venv
oldest="$venv/oldest.txt"
"$venv/bin/python" "$root/scripts/oldest_versions.py" "$root/pyproject.toml" >"$oldest"
say "installing $(tr '\n' ' ' <"$oldest")"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --constraint "$oldest" -e "$root[test]"
cd "$root"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$venv/bin/python" -m pytest "$@"
