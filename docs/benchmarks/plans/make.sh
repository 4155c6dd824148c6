#!/usr/bin/env bash
# Plans every configuration of configs/ on the smallest slice that its hardware line names, into this
# folder. Needs `pip install ".[plan,quant]"` and hours of one core; plans that are there are kept.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here/../../.."

plan() { # NAME TOPOLOGY CONFIG [--config.KEY=VALUE ...]
  local file="$here/$1.json"
  [[ -e $file ]] || JAX_PLATFORMS=cpu python -m train.plan --output "$file" --topology "$2" \
    --config="configs/$3" "${@:4}"
}

plan tiny v5e:2x2 tiny.py
plan smollm2_medusa1 v5e:1x1 smollm2_medusa1.py
plan smollm2_medusa2 v5e:1x1 smollm2_medusa2.py
plan smollm2_selfdistill v5e:1x1 smollm2_selfdistill.py
plan vicuna_7b_medusa1 v5e:2x4 vicuna_7b_medusa1.py
plan vicuna_7b_medusa2_stage1 v5e:2x4 vicuna_7b_medusa2.py:stage1
plan vicuna_7b_medusa2_stage2 v5e:2x4 vicuna_7b_medusa2.py:stage2
plan llama3_8b_medusa1 v5e:2x4 llama3_8b_medusa1.py
plan zephyr_7b_selfdistill v5p:2x2x1 zephyr_7b_selfdistill.py
plan vicuna_13b_medusa1 v5p:2x2x1 vicuna_13b_medusa1.py
plan vicuna_13b_medusa2_stage1 v5p:2x2x1 vicuna_13b_medusa2.py:stage1
plan vicuna_13b_medusa2_stage2 v5p:2x2x1 vicuna_13b_medusa2.py:stage2
plan vicuna_33b_selfdistill v5p:2x2x2 vicuna_33b_selfdistill.py
