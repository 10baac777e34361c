#!/usr/bin/env bash
# Packs into .gpu/ what scripts/gpu_check.sh needs on a bare machine without a network that has
# torch and pytest: wheels of the rest, and a part of a folder of images to train on:
#   bash scripts/gpu_pack.sh DIR [TRAIN TEST]
# DIR holds train/CLASS/ and test/CLASS/ with images; TRAIN and TEST are how many of each class are
# taken (120 and 25: of CIFAR-100's PNGs 43 MB). FOR=3.12 names that machine's version of Python.
# Git ignores .gpu/: carry it beside the repository.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/python_env.sh"
images="$(cd "${1:?give the folder with train/CLASS and test/CLASS}" && pwd)"
train="${2:-120}" test="${3:-25}"

install "[test]"
pack="$root/.gpu"
rm -rf "$pack"
mkdir -p "$pack/wheels"
versions="$pack/versions.txt" # those that are tested here
"$venv/bin/python" -m pip freeze --exclude-editable >"$versions"
fetch=("$venv/bin/python" -m pip --quiet --disable-pip-version-check)
"${fetch[@]}" wheel --no-deps --constraint "$versions" --wheel-dir "$pack/wheels" antlr4-python3-runtime
"${fetch[@]}" download --no-deps --constraint "$versions" --dest "$pack/wheels" \
    --python-version "${FOR:-3.12}" --only-binary :all: \
    hydra-core omegaconf pyyaml packaging filelock tqdm \
    hypothesis sortedcontainers pytest-timeout pytorch-metric-learning

# chosen SPLIT COUNT: the first COUNT images of each class, by name
chosen() {
    local folder
    for folder in "$1"/*/; do
        find "$folder" -maxdepth 1 -type f | LC_ALL=C sort | sed -n "1,${2}p"
    done
}
(cd "$images" && { chosen train "$train"; chosen test "$test"; } | tar --create --file "$pack/images.tar" --files-from -)
du -sh "$pack" >&2
