"""MEDUSA-2 for Vicuna-13B v1.5 in two stages with QLoRA: as for 7B (paper, section 2.2.2).

  python -m train.main --config=configs/vicuna_13b_medusa2.py:stage1 \\
    --workdir=runs/vicuna_13b_medusa2/stage1 \\
    --config.data=ShareGPT_V4.3_unfiltered_cleaned_split.json
  python -m train.main --config=configs/vicuna_13b_medusa2.py:stage2 \\
    --workdir=runs/vicuna_13b_medusa2/stage2 \\
    --config.data=ShareGPT_V4.3_unfiltered_cleaned_split.json

Needs: pip install ".[quant]", for the 4-bit backbone.
Data: as for 7B, 230 million tokens in two epochs of each stage.
Hardware: the authors' files are for 8 GPUs. According to the compilers, the first stage fits one
H100 (37.7 of 84.9 GB), and the second barely (81.8: set XLA_PYTHON_CLIENT_MEM_FRACTION=0.97), or
two (51.0 each). Both fit a v5e:2x4 (6.6 and 13.1 of 16.9), a v5p:2x2x1 (12.1 and 23.2 of 102.8) and
a v6e:2x2 (11.9 and 22.9 of 33.5); the first also fits a v5e:2x2 (11.9; docs/tpu.md).
Hours: not in the paper; not measured here. The compilers' estimates, which leave out waiting: 2.1
and 5.6 on one H100, 2.8 on two; 4.1 on the v5e:2x2, 2.1 and 6.8 on a v5e:2x4, 1.7 and 8.2 on a
v5p:2x2x1, 1.6 and 6.3 on a v6e:2x2.
Expected: in the paper, MT-bench quality 6.43 (0.14 below the base model) at 2.83 times the speed,
3.51 tokens per step by typical acceptance (table 1).
"""

from ml_collections import ConfigDict

from configs import vicuna_7b_medusa2


def get_config(stage: str = "stage1") -> ConfigDict:
    """Returns the configuration of "stage1" or "stage2"."""
    c = vicuna_7b_medusa2.get_config(stage)
    c.model = "lmsys/vicuna-13b-v1.5"
    if stage == "stage2":
        c.medusa = "runs/vicuna_13b_medusa2/stage1/export"
    return c
