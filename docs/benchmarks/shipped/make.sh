#!/usr/bin/env bash
# Compares the heads in the package with those before them on three sets of prompts: every answer is
# decoded, in float32, and compare_steps.py counts. Of a conversation, the first question is asked.
# Needs a clone with its history, MT-bench's questions and GSM8K's training problems. Answers stay in
# runs/shipped/.
#
#   docs/benchmarks/shipped/make.sh mt_bench_question.jsonl gsm8k_train.jsonl
#   SETS=own docs/benchmarks/shipped/make.sh ...     only questions.jsonl, which was written for this
set -euo pipefail
SETS=${SETS:-mt_bench kinds own}
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
tree() { # NODES: the earlier tree's first ones, which are the best smaller tree
  git show "$before:medusa_jax/data/trees.json" |
    python -c 'import json, sys
print(json.dumps(json.load(sys.stdin)["smollm2_135m_63"][:int(sys.argv[1]) - 1]))' "$1"
}
tree 64 >"$runs/before_tree.json"
tree 16 >"$runs/before_16.json"
kinds() { # prompts, of conversations their first
  [[ -e $runs/conversations.jsonl ]] ||
    python -m train.prompts --output "$runs/conversations.jsonl" --part final --count 100 --problems "$problems"
  python -c 'import json, sys
for line in sys.stdin:
    print(json.dumps({"prompt": json.loads(line)["conversations"][0]["value"]}))' \
    <"$runs/conversations.jsonl" >"$runs/kinds.jsonl"
}

compare() { # SET PROMPTS TOKENS
  decode() { # NAME FLAGS ...
    local answers=$runs/${set}_$1.jsonl
    named+=("$1=$answers")
    [[ -e $answers ]] ||
      python -m infer.generate --prompt_file "$prompts" --output "$answers" --batch_size 8 \
        --max_new_tokens "$tokens" --dtype float32 "${@:2}"
  }
  local set=$1 prompts=$2 tokens=$3 named=()
  decode 64 --tree smollm2_135m_63
  decode 16 --tree smollm2_135m_63:16
  decode dynamic_64 --tree dynamic:64
  decode dynamic_16 --tree dynamic:16
  decode before --medusa "$runs/before" --tree "$runs/before_tree.json"
  decode before_16 --medusa "$runs/before" --tree "$runs/before_16.json"
  decode plain --tree chain:0
  python docs/benchmarks/compare_steps.py "${named[@]}" "$runs/$set.json"
}

for set in $SETS; do
  case $set in
    mt_bench) compare mt_bench "$questions" 128 ;;
    kinds) kinds && compare kinds "$runs/kinds.jsonl" 128 ;;
    own) compare own "$here/questions.jsonl" 96 ;;
  esac
done
for set in $SETS; do
  cp "$runs/$set.json" "$here" # at the end: a clone with changes is no commit
done
