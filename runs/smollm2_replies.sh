#!/usr/bin/env bash
# Replies of SmolLM2-135M-Instruct to prompts of many kinds: what its heads learn from, on a CPU.
#
#   PROBLEMS=gsm8k_train.jsonl runs/smollm2_replies.sh           hours; each piece is usable when done
#
# Rerun it to resume: finished pieces are skipped, and an unfinished one continues. Three of five pieces
# are greedy, two are sampled at temperature 0.7. Join pieces to train on them:
#
#   cat runs/smollm2_replies/pieces/*.replies.jsonl >train.jsonl
#
# LEAVE_OUT=runs/smollm2_cpu/tree.jsonl,runs/smollm2_cpu/test.jsonl keeps the conversations that
# smollm2_cpu.sh measures on out of the prompts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OUT=${OUT:-runs/smollm2_replies}
PROMPTS=${PROMPTS:-24000}               # in total,
SIZE=${SIZE:-600}                       # in a piece,
PIECES=${PIECES:-$(((PROMPTS + SIZE - 1) / SIZE))}   # and pieces to answer
PROBLEMS=${PROBLEMS:-}                  # training problems of GSM8K; if left out, none are asked
LEAVE_OUT=${LEAVE_OUT:-}                # ShareGPT-format files whose conversations give no prompts
mkdir -p "$OUT/pieces"

# 1. Prompts to learn from, and others of the same kinds to choose trees and recipes on.
mix() {
  [ -e "$OUT/$1" ] ||
    python -m train.prompts --output="$OUT/$1" --part="$2" --count="$3" --problems="$PROBLEMS" \
      --leave_out="$LEAVE_OUT"
}
mix prompts.jsonl train "$PROMPTS"
mix held_out_kinds.jsonl choose 200

# 2. The model answers them, a piece at a time.
reply() {
  [ -e "$2" ] ||
    python -m train.self_distill --prompts="$1" --output="$2" --temperature="$3" \
      --max_prompt_tokens=320 --max_new_tokens=192
}
temperatures=(0 0.7 0 0.7 0)
made=$(wc -l <"$OUT/prompts.jsonl") # fewer than PROMPTS if there are no PROBLEMS
for ((i = 0; i < PIECES && i * SIZE < made; i++)); do
  piece=$OUT/pieces/$(printf %03d "$i")
  sed -n "$((i * SIZE + 1)),$(((i + 1) * SIZE))p" "$OUT/prompts.jsonl" >"$piece.prompts.jsonl"
  reply "$piece.prompts.jsonl" "$piece.replies.jsonl" "${temperatures[i % 5]}"
done
reply "$OUT/held_out_kinds.jsonl" "$OUT/held_out_replies.jsonl" 0
