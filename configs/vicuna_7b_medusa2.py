"""MEDUSA-2 for Vicuna-7B v1.5 in two stages with QLoRA (paper, section 2.2.2 and appendix B).

First the heads, on the frozen 4-bit backbone; then both together, starting from those heads:

  python -m train.main --config=configs/vicuna_7b_medusa2.py:stage1 \\
    --workdir=runs/vicuna_7b_medusa2/stage1 \\
    --config.data=ShareGPT_V4.3_unfiltered_cleaned_split.json
  python -m train.main --config=configs/vicuna_7b_medusa2.py:stage2 \\
    --workdir=runs/vicuna_7b_medusa2/stage2 \\
    --config.data=ShareGPT_V4.3_unfiltered_cleaned_split.json

(The paper's sentence that the backbone is trained first is a slip, as its authors confirmed.)

Needs: pip install ".[quant]", for the 4-bit backbone.
Data: as for configs/vicuna_7b_medusa1.py, 230 million tokens in two epochs of each stage.
Hardware: the authors' files are for 8 GPUs. According to the compilers, both stages fit one H100
(27.6 and 57.7 of 84.9 GB), a TPU v5e:2x4 (4.8 and 9.1 of 16.9 GB on each chip), a v5p:2x2x1 (8.6
and 15.9 of 102.8), a v6e:2x2 (8.6 and 15.9 of 33.5) and, with 1.2 GB to spare, a v5e:2x2 (8.6 and
15.7; docs/tpu.md). The first stage also fits a v6e:1x1 (30.7).
Hours: not in the paper; not measured here. The compilers' estimates, which leave out waiting: 1.2
and 3.1 on one H100, 2.2 and 8.8 on a v5e:2x2, 1.2 and 4.1 on a v5e:2x4, 1.0 and 3.5 on a v5p:2x2x1,
0.8 and 4.0 on a v6e:2x2; 4.0 for the first on a v6e:1x1.
Expected: in the paper, MT-bench quality 6.18 (base model 6.17) at 2.83 times the speed, 3.47 tokens
per step by typical acceptance (table 1). Joint training without the first stage lowered the quality
to 5.925 (table 2).
"""

from ml_collections import ConfigDict

from configs import vicuna_7b_medusa1


def get_config(stage: str = "stage1") -> ConfigDict:
    """Returns the configuration of "stage1" or "stage2"."""
    c = vicuna_7b_medusa1.get_config()
    c.quantize = "nf4"
    if stage == "stage1":
        return c
    if stage != "stage2":
        raise ValueError(f"{stage!r} is no stage: choose stage1 or stage2")
    c.medusa = "runs/vicuna_7b_medusa2/stage1/export"
    c.objective = "medusa2"
    c.heads_coef = 0.2
    c.heads_schedule = "constant"
    c.lora_rank = 32
    c.lora_alpha = 16.0
    c.lora_dropout = 0.05
    c.export_format = "B"
    return c
