#!/usr/bin/env bash
# Plans decoding and training for GPUs, and for what newcomers have on Colab, into this folder; plans
# that exist already are kept. Needs `pip install ".[plan]"` and the CUDA compiler (docs/plan.md);
# takes minutes.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../../.."

plan() { # NAME MODULE [FLAGS ...]
  local file="$here/$1.json"
  [[ -e $file ]] || JAX_PLATFORMS=cpu python -m "$2" --output "$file" "${@:3}"
}

plan llama_7b_h200 infer.plan --shape=llama-7b --topology=h200:1 --tree=mc_sim_7b_63
plan llama_7b_h100_15 infer.plan --shape=llama-7b --topology=h100:1 --tree=mc_sim_7b_63:15
plan llama_7b_h100 infer.plan --shape=llama-7b --topology=h100:1 --tree=mc_sim_7b_63
plan llama_7b_h100_prompt infer.plan --shape=llama-7b --topology=h100:1 --tree=mc_sim_7b_63 --max_context=512 --prefill
plan llama_8b_h100 infer.plan --shape=llama-8b --topology=h100:1 --tree=mc_sim_7b_63
plan llama_8b_h100x4 infer.plan --shape=llama-8b --topology=h100:8 --mesh=tensor=4 --tree=mc_sim_7b_63
plan smollm2_t4 infer.plan --topology=t4:1 --tree=smollm2_135m_63
plan smollm2_v5e infer.plan --topology=v5e:1x1 --tree=smollm2_135m_63
plan vicuna_7b_medusa1_h100 train.plan --config=configs/vicuna_7b_medusa1.py --topology=h100:8
