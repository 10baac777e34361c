#!/usr/bin/env bash
# Checks and measures everything that needs a GPU, in under nine minutes, without a network:
#   bash scripts/gpu_check.sh OUT
# OUT: a folder for the results, which are written as they come: log.txt, summary.txt, CSV files, and
# the result and the curves of a real training. What python3 (or $PYTHON) lacks comes from .gpu/, which
# scripts/gpu_pack.sh makes where there is a network; so do the images to train on.
#   DEVICE=cpu SMALL=1 bash scripts/gpu_check.sh OUT    rehearses it without a GPU
set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$(mkdir -p "${1:?give a folder for the results}" && cd "$1" && pwd)" || exit 2
python="${PYTHON:-python3}"
device="${DEVICE:-cuda}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$root:$work/site" PYTHONUNBUFFERED=1
cd "$root" || exit 2
failed=0

# part NAME SECONDS COMMAND...: a part that fails or takes too long does not stop the rest
part() {
    local name="$1" seconds="$2" begin=$SECONDS
    shift 2
    printf '== %s\n' "$name"
    timeout "$seconds" "$@" 2>&1 | tee -a "$out/log.txt" | tail -n 40
    local status=${PIPESTATUS[0]}
    printf '== %s: exit status %s, %s s\n' "$name" "$status" $((SECONDS - begin)) | tee -a "$out/summary.txt"
    [ "$status" = 0 ] || failed=1
}

sizes=(--encoders resnet18 resnet50 --batch-sizes 64 256 --steps 10 --turns 2)
usual=(--encoders resnet18 --batch-sizes 256 --steps 10 --turns 2)
rows=(--rows 256 2048 8192 65536 --seconds 3 --dtypes float32)
many=(--rows 65536 --seconds 3 --dtypes float32)
turns=15
small=()
if [ -n "${SMALL:-}" ]; then
    sizes=(--encoders resnet18 --batch-sizes 8 --steps 1 --turns 1)
    usual=("${sizes[@]}")
    rows=(--rows 256 --seconds 1 --dtypes float32)
    many=("${rows[@]}")
    turns=1
    small=(encoder=resnet8 batch_size=64 epochs=1)
fi

if [ -d .gpu/wheels ]; then
    part wheels 20 "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps \
        --target "$work/site" .gpu/wheels/*.whl
fi
export TCL_TRAIN_TEST_DEVICE="$device"
part tests 100 "$python" -m pytest -q -p no:cacheprovider tests/gpu
if [ -f .gpu/images.tar ]; then
    mkdir "$work/images" && tar --extract --file .gpu/images.tar --directory "$work/images"
    part training 100 "$python" -m tcl_train loss=tcl dataset=cifar100 dataset.root="$work/images" \
        device="$device" encoder=resnet18 augment=simaug batch_size=256 epochs=30 k1=5000 \
        probe=lbfgs data.cache_dir="$work/cache" hydra.run.dir="$work/run" "${small[@]}"
    cp "$work/run/result.json" "$out/training.json"
    cp "$work/run/metrics.jsonl" "$out/training.jsonl"
fi
part step 130 "$python" scripts/bench_throughput.py --device "$device" --kinds encoder step \
    "${sizes[@]}" --out "$out/throughput.csv"
part usual 40 "$python" scripts/bench_throughput.py --device "$device" --kinds step public \
    "${usual[@]}" --out "$out/usual.csv"
part augment 40 "$python" scripts/bench_augment.py --device "$device" --turns "$turns" \
    --out "$out/augment.csv"
part losses 60 "$python" scripts/bench_losses.py --device "$device" --losses tcl supcon \
    "${rows[@]}" --largest-dense 8192 --out "$out/losses.csv"
part compile 50 "$python" -m tcl_train device="$device" compile=true epochs=5 probe=lbfgs \
    random_encoder_baseline=false hydra.run.dir="$work/compiled"
left=$((530 - SECONDS))  # a trial, for which the parts above may leave time
if [ "$left" -gt 30 ]; then
    part flex "$left" "$python" scripts/bench_losses.py --device "$device" --losses tcl supcon \
        "${many[@]}" --largest-dense 8192 --flex --out "$out/flex.csv"
fi
cat "$out/summary.txt"
exit "$failed"
