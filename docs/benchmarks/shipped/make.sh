#!/usr/bin/env bash
# Compares the heads in the package with those before them on two sets of prompts: every answer is
# decoded, in float32, and compare_steps.py counts. Of a conversation, the first question is asked.
# Needs a clone with its history, MT-bench's questions and GSM8K's training problems. Answers stay in
# runs/shipped/.
#
#   docs/benchmarks/shipped/make.sh mt_bench_question.jsonl gsm8k_train.jsonl
set -euo pipefail
[[ $# == 2 ]] || { echo "error: say which files have MT-bench's questions and GSM8K's problems" >&2; exit 2; }
questions="$(realpath "$1")" problems="$(realpath "$2")"
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
here=docs/benchmarks/shipped runs=runs/shipped
before=1fde98c^ # the last commit with the earlier heads and tree
mkdir -p "$runs/before"

heads=medusa_jax/data/heads/smollm2-135m-instruct
for file in medusa_lm_head.safetensors config.json; do
  git show "$before:$heads/$file" >"$runs/before/$file"
done
git show "$before:medusa_jax/data/trees.json" |
  python -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["smollm2_135m_63"]))' >"$runs/before_tree.json"
[[ -e $runs/conversations.jsonl ]] ||
  python -m train.prompts --output "$runs/conversations.jsonl" --part final --count 100 --problems "$problems"
python -c 'import json, sys
for line in sys.stdin:
    print(json.dumps({"prompt": json.loads(line)["conversations"][0]["value"]}))' \
  <"$runs/conversations.jsonl" >"$runs/kinds.jsonl"

decode() { # SET NAME PROMPTS FLAGS ...
  [[ -e $runs/$1_$2.jsonl ]] ||
    python -m infer.generate --prompt_file "$3" --output "$runs/$1_$2.jsonl" --batch_size 8 \
      --max_new_tokens 128 --dtype float32 "${@:4}"
}

compare() { # SET PROMPTS
  local named=()
  decode "$1" 64 "$2" --tree smollm2_135m_63
  decode "$1" 16 "$2" --tree smollm2_135m_63:16
  decode "$1" dynamic_64 "$2" --tree dynamic:64
  decode "$1" dynamic_16 "$2" --tree dynamic:16
  decode "$1" before "$2" --medusa "$runs/before" --tree "$runs/before_tree.json"
  for name in 64 16 dynamic_64 dynamic_16 before; do
    named+=("$name=$runs/$1_$name.jsonl")
  done
  python docs/benchmarks/compare_steps.py "${named[@]}" "$runs/$1.json"
}

compare mt_bench "$questions"
compare kinds "$runs/kinds.jsonl"
cp "$runs/mt_bench.json" "$runs/kinds.json" "$here" # at the end: a clone with changes is no commit
