#!/usr/bin/env bash
# What should the heads of SmolLM2-135M-Instruct see and learn from ("kinds"), and how large should they
# be and how fast should they learn ("sizes")? Every answer is trained from scratch on the same replies,
# with three seeds, and all are compared on separate questions.
#
#   DATA=replies.jsonl QUESTIONS=questions.jsonl runs/smollm2_ablation.sh        hours on a CPU
#   DATA=... QUESTIONS=... COMPARE=sizes JOBS=10 FLAGS=--config.dtype=bfloat16 \
#     XLA_PYTHON_CLIENT_PREALLOCATE=false runs/smollm2_ablation.sh               minutes on one GPU
#
# Rerun it to resume. DATA is in ShareGPT's format (from runs/smollm2_replies.sh), QUESTIONS has JSON
# lines with "turns"; keep MT-bench out of it, since these questions decide.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ -n "${DATA:-}" ] || { echo "error: name replies: DATA=FILE" >&2; exit 2; }
[ -n "${QUESTIONS:-}" ] || { echo "error: name questions of your own: QUESTIONS=FILE" >&2; exit 2; }
COMPARE=${COMPARE:-kinds}
[[ $COMPARE =~ ^(kinds|sizes)$ ]] || { echo "error: COMPARE is kinds or sizes" >&2; exit 2; }

OUT=${OUT:-runs/smollm2_$COMPARE}
SEEDS=${SEEDS:-0 1 2}
STEPS=${STEPS:-400}  # of 4096 positions
JOBS=${JOBS:-1}      # runs at a time
FLAGS=${FLAGS:-}     # more flags of train.main

# Name and flags of every answer. Size of the heads in float16, in MB: none 11, root 8, root_4 13, markov and
# gated_markov 9, branch 12, recurrent 3.
KINDS=(
  "none --config.conditioning=none --config.num_layers=4"
  "root --config.conditioning=root"
  "root_4 --config.conditioning=root --config.num_layers=4"
  "markov --config.conditioning=markov --config.markov_rank=32"
  "gated_markov --config.conditioning=gated_markov --config.markov_rank=32"
  "branch --config.conditioning=branch"
  "recurrent --config.conditioning=recurrent"
  "branch_distribution --config.conditioning=branch --config.head_labels=distribution"
  "branch_l1 --config.conditioning=branch --config.head_labels=l1"
  "branch_even --config.conditioning=branch --config.head_decay=1.0"
)
# All recurrent. In float16: shipped 4.7 MB, layers_1 2.7, layers_2 3.4, layers_8 7.4, the others 4.7.
SIZES=(
  "shipped --config.num_layers=4"
  "layers_1 --config.num_layers=1"
  "layers_2 --config.num_layers=2"
  "layers_8 --config.num_layers=8"
  "heads_6 --config.num_layers=4 --config.num_heads=6"
  "vocab_4k --config.num_layers=4 --config.draft_vocab=4096"
  "vocab_16k --config.num_layers=4 --config.draft_vocab=16384"
  "vocab_all --config.num_layers=4 --config.draft_vocab=0"
  "rate_half --config.num_layers=4 --config.learning_rate=1e-3"
  "rate_double --config.num_layers=4 --config.learning_rate=4e-3"
  "batch_double --config.num_layers=4 --config.batch_size=16 --config.steps=$((STEPS / 2))"
)
if [ "$COMPARE" = kinds ]; then
  ANSWERS=("${KINDS[@]}") REFERENCES=root,root_4,branch
else
  ANSWERS=("${SIZES[@]}") REFERENCES=shipped
fi

# 1. Train them.
train() {
  local name=$1 seed=$2 folder=$OUT/$1/$2
  shift 2
  [ -e "$folder/done" ] && return
  mkdir -p "$folder"
  # shellcheck disable=SC2086
  if python -m train.main --config=configs/smollm2_medusa1.py --config.data="$DATA" \
    --workdir="$folder" --config.seed="$seed" --config.batch_size=8 --config.steps="$STEPS" \
    --config.held_out=0.02 --config.head_labels=tokens --config.num_layers=2 \
    --config.eval_every="$STEPS" --config.save_every="$STEPS" "$@" $FLAGS >"$folder/log" 2>&1; then
    [ ! -d "$folder/export" ] || touch "$folder/done"  # SIGTERM, which stops a run, is no failure
  else
    tail -n 3 "$folder/log" >&2
    return 1
  fi
}
export -f train
export OUT DATA STEPS FLAGS
for seed in $SEEDS; do # a kind's second seed finds its programs compiled
  for answer in "${ANSWERS[@]}"; do
    echo "${answer/ / $seed }"
  done
done | xargs -P "$JOBS" -L 1 bash -c 'train "$@"' _

# 2. Compare them.
runs=""
for answer in "${ANSWERS[@]}"; do
  name=${answer%% *}
  folders=""
  for seed in $SEEDS; do folders+="+$OUT/$name/$seed"; done
  runs+=",$name=${folders#+}"
done
python -m train.report --runs "${runs#,}" --reference "$REFERENCES" --data "$DATA" --count 20 \
  --questions "$QUESTIONS" --output "$OUT/report.json"
