#!/usr/bin/env bash
# Lint, types and tests, as CI runs them. Arguments go to pytest:
#   bash scripts/test.sh -k losses
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/python_env.sh"

install "[test]"
cd "$root"
bin="$venv/bin"
say "ruff"
"$bin/ruff" check .
"$bin/ruff" format --check .
say "mypy"
"$bin/mypy"
say "pytest"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # on tensors this small, threads only wait for each other
# Two at a time; the tests of a file stay together, for what they share, and files with slow tests
# come first (tests/conftest.py), so that neither waits for the other at the end.
"$bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=40 "$@"
