#!/usr/bin/env bash
# MEDUSA-2 for SmolLM2-135M-Instruct: each warm-up of the heads, none, and the controls, with three seeds
# each; also longer runs of four of them (configs/smollm2_medusa2.py says what each answers).
#
#   QUESTIONS=mt_bench_question.jsonl PROBLEMS=gsm8k_train.jsonl runs/smollm2_controls.sh   hours on a CPU
#   QUESTIONS=... PROBLEMS=... JOBS=10 FLAGS=--config.dtype=bfloat16 \
#     XLA_PYTHON_CLIENT_PREALLOCATE=false runs/smollm2_controls.sh               minutes on one GPU
#
# Rerun it to resume.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -n "${QUESTIONS:-}" ] || { echo "error: name questions: QUESTIONS=FILE" >&2; exit 2; }
[ -n "${PROBLEMS:-}" ] || { echo "error: name problems: PROBLEMS=FILE" >&2; exit 2; }

OUT=${OUT:-runs/smollm2_controls}
DATA=${DATA:-sharegpt}
SEEDS=${SEEDS:-0 1 2}
STEPS=${STEPS:-50}  # of 1024 tokens
LONG=${LONG:-800}   # of the longer runs, one seed each
JOBS=${JOBS:-1}     # runs at a time
FLAGS=${FLAGS:-}    # more flags of train.main

VARIANTS=(two_stage one_stage one_stage_stopped naive naive_own naive_stopped lora_only heads_only)
LONGER=(two_stage one_stage one_stage_stopped lora_only)

# 1. Train them.
train() {
  local variant=$1 seed=$2 steps=$3 folder=$OUT/$4
  [ -e "$folder/done" ] && return
  mkdir -p "$folder"
  # shellcheck disable=SC2086
  if python -m train.main --config="configs/smollm2_medusa2.py:$variant" --config.data="$DATA" \
    --workdir="$folder" --config.seed="$seed" --config.steps="$steps" --config.held_out=0.02 \
    --config.eval_every=50 --config.save_every="$steps" $FLAGS >"$folder/log" 2>&1; then
    [ ! -d "$folder/export" ] || touch "$folder/done"  # SIGTERM, which stops a run, is no failure
  else
    tail -n 3 "$folder/log" >&2
    return 1
  fi
}
export -f train
export OUT DATA FLAGS
{
  for variant in "${LONGER[@]}"; do echo "$variant 0 $LONG ${variant}_long"; done
  for seed in $SEEDS; do
    for variant in "${VARIANTS[@]}"; do echo "$variant $seed $STEPS $variant/$seed"; done
  done
} | xargs -P "$JOBS" -L 1 bash -c 'train "$@"' _

# 2. Compare them with the model that all started from, adapters alone, and the paper's recipe.
runs=""
for variant in "${LONGER[@]}"; do runs+="${variant}_long=$OUT/${variant}_long,"; done
for variant in "${VARIANTS[@]}"; do
  folders=""
  for seed in $SEEDS; do folders+="+$OUT/$variant/$seed"; done
  runs+="$variant=${folders#+},"
done
python -m train.report --runs "${runs%,}" --reference base,lora_only,two_stage --data "$DATA" --count 60 \
  --problems "$PROBLEMS" --questions "$QUESTIONS" --tree smollm2_135m_63 --output "$OUT/report.json"
