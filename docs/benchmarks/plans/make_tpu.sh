#!/usr/bin/env bash
# Plans decoding for TPUs into this folder; plans that exist already are kept. Needs
# `pip install ".[plan]"` and a clone without changes; takes minutes of two cores.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../../.."

plan() { # NAME SHAPE TOPOLOGY [FLAGS ...]
  local file="$here/$1.json"
  [[ -e $file ]] || JAX_PLATFORMS=cpu python -m infer.plan --output "$file" --shape="$2" \
    --topology="$3" "${@:4}"
}

plan llama_1b_v5e llama-1b v5e:1x1 --draft_vocab=32768 --tree=mc_sim_7b_63
plan llama_7b_v5p llama-7b v5p:1x1x1 --tree=mc_sim_7b_63
plan llama_8b_v5e4 llama-8b v5e:2x2 --mesh=tensor=4 --tree=mc_sim_7b_63 --max_context=4096
plan llama_8b_v5e4_32k llama-8b v5e:2x2 --mesh=tensor=4 --max_context=32768 --prefill
plan llama_70b_v5e16 llama-70b v5e:4x4 --mesh=tensor=16 --quantize=int8 --tree=mc_sim_7b_63 --max_context=4096
plan llama_70b_v5p4 llama-70b v5p:2x2x1 --mesh=tensor=4 --quantize=int8 --tree=mc_sim_7b_63 --max_context=4096
plan vicuna_33b_replies llama-33b v5p:2x2x1 --mesh=tensor=4 --batch_size=16 --max_context=2048 --tree=chain:0
