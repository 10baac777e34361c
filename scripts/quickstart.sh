#!/usr/bin/env bash
# Installs tcl-train into .venv and trains on the embedded digits. Arguments go to tcl-train:
#   bash scripts/quickstart.sh loss=supcon epochs=5
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/python_env.sh"

install ""
"$venv/bin/tcl-train" "$@"
say ""
say "Dashboard of all runs:   $venv/bin/tensorboard --logdir outputs"
say "The next run:            $venv/bin/tcl-train --help"
