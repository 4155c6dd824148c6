#!/usr/bin/env bash
# MEDUSA-2 for Vicuna-7B v1.5 as in the paper (two stages, QLoRA), on a TPU slice.
#
#   DATA=ShareGPT_V4.3_unfiltered_cleaned_split.json OUT=DIR runs/vicuna_7b_tpu.sh
#
# On a slice of several hosts, run it with PART=train on all of them at once; they find each other. DATA
# and OUT must be in a folder that all of them see (not in gs://). Then run it with PART=measure on one
# machine that sees OUT and is not part of the slice. Needs `pip install ".[tpu,quant,parity]"` (parity
# brings torch, to read Vicuna's files), and a token for the Hugging Face hub where downloads ask for one.
# We have not run it on TPUs yet: the programs compile for eight v5e chips, and nothing here was timed.
#
# Rerun it to resume.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

DATA=${DATA:?name a ShareGPT-format file}
OUT=${OUT:-runs/vicuna_7b_tpu}
TEST=${TEST:-$DATA} # conversations to measure on; better those that training has not seen
PART=${PART:-all} # train, measure, or all: both, on a single host
refuse() {
  echo "error: $1" >&2
  exit 2
}
case $PART in all | train | measure) ;; *) refuse "PART=$PART: choose train, measure or all" ;; esac
case $OUT in gs://*) refuse "OUT=$OUT is a bucket: name a folder that all hosts see" ;; esac
mkdir -p "$OUT"

if [ "$PART" != measure ]; then
  # 1. Heads alone, on the frozen 4-bit backbone: this warms them up.
  python -m train.main --config=configs/vicuna_7b_medusa2.py:stage1 --workdir="$OUT/stage1" \
    --config.data="$DATA"

  # 2. Heads and the backbone's adapters together, from the heads of the first stage.
  python -m train.main --config=configs/vicuna_7b_medusa2.py:stage2 --workdir="$OUT/stage2" \
    --config.medusa="$OUT/stage1/export" --config.data="$DATA"
fi

if [ "$PART" != train ]; then
  # 3. Quality and acceptance of the result; the whole model with its heads is in stage2/export.
  python -m train.evaluate --model="$OUT/stage2/export" --data="$TEST" \
    --tree=vicuna_7b_stage2 --output="$OUT/metrics.json"

  # 4. Decode with the paper's typical acceptance, and plainly for comparison.
  python -m infer.generate --model="$OUT/stage2/export" --tree=vicuna_7b_stage2 --compare \
    --acceptance=typical --temperature=0.7 \
    --prompt="Write a short story about a lighthouse."
fi
