#!/usr/bin/env bash
# Runs the property tests with new random examples; in scripts/test.sh they are always the same.
# Arguments go to pytest, ROUNDS says how often, and SEED repeats a round:
#   bash scripts/fuzz.sh
#   ROUNDS=20 bash scripts/fuzz.sh tests/losses
#   SEED=12345 bash scripts/fuzz.sh tests/losses
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/python_env.sh"

install "[test]"
cd "$root"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
for round in $(seq "${ROUNDS:-1}"); do
    seed="${SEED:-$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}"
    say "round $round, SEED=$seed"
    "$venv/bin/python" -m pytest -m hypothesis --hypothesis-profile=fuzz --hypothesis-seed="$seed" "$@" || {
        status=$?
        say "to repeat this round: SEED=$seed bash scripts/fuzz.sh $*"
        exit $status
    }
done
