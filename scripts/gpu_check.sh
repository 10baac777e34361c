#!/usr/bin/env bash
# Checks and measures everything that needs a GPU, in under nine minutes:
#   bash scripts/gpu_check.sh OUT [IMAGES]
# OUT: a folder for the results, which are written as they come. IMAGES: a folder with train/CLASS/*.png
# and test/CLASS/*.png to train on, such as a part of CIFAR-100; left out: no real training.
#   DEVICE=cpu SMALL=1 bash scripts/gpu_check.sh OUT    rehearses it without a GPU
# The Python that is called python3 (or $PYTHON) must have the dependencies; nothing is installed.
set -uo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
out="$(mkdir -p "$1" && cd "$1" && pwd)"
images="${2:-}"
python="${PYTHON:-python3}"
device="${DEVICE:-cuda}"
export PYTHONPATH="$root:${PYTHONPATH:-}" PYTHONUNBUFFERED=1
cd "$root" || exit 2
failed=0

# part NAME SECONDS COMMAND...: a part that fails or takes too long does not stop the rest
part() {
    local name="$1" seconds="$2" begin=$SECONDS
    shift 2
    printf '== %s\n' "$name"
    timeout "$seconds" "$@" 2>&1 | tee "$out/$name.log" | tail -n 40
    local status=${PIPESTATUS[0]}
    printf '== %s: exit status %s, %s s\n' "$name" "$status" $((SECONDS - begin)) | tee -a "$out/summary.txt"
    [ "$status" = 0 ] || failed=1
}

sizes=(--batch-sizes 64 256 --steps 10 --turns 2)
rows=(--rows 256 2048 8192 65536 --seconds 3 --dtypes float32)
turns=15
epochs=30
if [ -n "${SMALL:-}" ]; then
    sizes=(--batch-sizes 8 --steps 1 --turns 1)
    rows=(--rows 256 --seconds 1 --dtypes float32)
    turns=1
    epochs=1
fi

part tests 120 "$python" -m pytest -q -p no:cacheprovider tests/gpu
if [ -n "$images" ]; then
    part training 120 "$python" -m tcl_train loss=tcl dataset=cifar100 dataset.root="$images" \
        device="$device" encoder=resnet18 augment=simaug batch_size=256 epochs="$epochs" k1=5000 \
        probe=lbfgs data.cache_dir="$out/cache" hydra.run.dir="$out/run"
    cp "$out/run/result.json" "$out/training.json" 2>/dev/null
fi
part step 170 "$python" scripts/bench_throughput.py --device "$device" --kinds encoder step \
    --encoders resnet18 resnet50 "${sizes[@]}" --out "$out/throughput.csv"
part augment 60 "$python" scripts/bench_augment.py --device "$device" --turns "$turns" \
    --out "$out/augment.csv"
part losses 90 "$python" scripts/bench_losses.py --device "$device" --losses tcl supcon \
    "${rows[@]}" --largest-dense 8192 --out "$out/losses.csv"
part compile 90 "$python" -m tcl_train device="$device" compile=true epochs=5 probe=lbfgs \
    random_encoder_baseline=false hydra.run.dir="$out/compiled"
cat "$out/summary.txt"
exit "$failed"
