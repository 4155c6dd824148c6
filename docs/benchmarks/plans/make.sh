#!/usr/bin/env bash
# Plans every configuration of configs/ into this folder, and the large ones on small slices of each
# kind into slices.json. Needs `pip install ".[plan,quant]"`, the CUDA compiler (docs/plan.md), a
# clone without changes, and hours of one core. Plans that exist already are kept; those that only
# slices.json has are in runs/plans/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
here=docs/benchmarks/plans slices=runs/plans
mkdir -p "$slices"

plan() { # FILE TOPOLOGY CONFIG [FLAGS ...]
  [[ -e $1.json ]] || JAX_PLATFORMS=cpu python -m train.plan --output "$1.json" --topology "$2" \
    --config="configs/$3" "${@:4}"
}

on() { # CONFIG TOPOLOGY ...
  local topology name=${1/.py/}
  for topology in "${@:2}"; do plan "$slices/${name/:/_}.${topology/:/_}" "$topology" "$1"; done
}

plan $here/tiny v5e:2x2 tiny.py
for recipe in smollm2_medusa1 smollm2_medusa2 smollm2_selfdistill; do
  plan $here/$recipe h100:1 $recipe.py --config.dtype=bfloat16 # float32 is for CPUs
done
plan $here/vicuna_7b_medusa1 v5e:2x4 vicuna_7b_medusa1.py
plan $here/vicuna_7b_medusa2_stage1 v5e:2x4 vicuna_7b_medusa2.py:stage1
plan $here/vicuna_7b_medusa2_stage2 v5e:2x4 vicuna_7b_medusa2.py:stage2
plan $here/llama3_8b_medusa1 v5e:2x4 llama3_8b_medusa1.py
plan $here/zephyr_7b_selfdistill h100:2 zephyr_7b_selfdistill.py
plan $here/vicuna_13b_medusa1 v5p:2x2x1 vicuna_13b_medusa1.py
plan $here/vicuna_13b_medusa2_stage1 h100:1 vicuna_13b_medusa2.py:stage1
plan $here/vicuna_13b_medusa2_stage2 h100:2 vicuna_13b_medusa2.py:stage2
plan $here/vicuna_33b_selfdistill v5p:2x2x2 vicuna_33b_selfdistill.py

on vicuna_7b_medusa1.py h100:1 v5e:2x2 v5p:2x2x1 v6e:2x2
on vicuna_7b_medusa2.py:stage1 h100:1 v5e:2x2 v5p:2x2x1 v6e:1x1 v6e:2x2
on vicuna_7b_medusa2.py:stage2 h100:1 v5e:2x2 v5p:2x2x1 v6e:2x2
on llama3_8b_medusa1.py h100:1 v5e:2x2 v5p:2x2x1 v6e:2x2
on zephyr_7b_selfdistill.py h100:1 v5e:2x4 v5p:2x2x1 v6e:2x2
on vicuna_13b_medusa1.py h100:1 v5e:2x4 v6e:2x2
on vicuna_13b_medusa2.py:stage1 v5e:2x2 v5e:2x4 v5p:2x2x1 v6e:2x2
on vicuna_13b_medusa2.py:stage2 h100:1 v5e:2x4 v5p:2x2x1 v6e:2x2
on vicuna_33b_selfdistill.py h100:4 v5p:2x2x1 v6e:2x4

python $here/gather.py $here $slices $here/slices.json
