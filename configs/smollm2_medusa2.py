"""MEDUSA-2 for SmolLM2-135M-Instruct by both warm-ups of the heads, and without any.

  python -m train.main --config=configs/smollm2_medusa2.py:two_stage_1 \\
    --workdir=runs/smollm2_medusa2/two_stage_1
  python -m train.main --config=configs/smollm2_medusa2.py:two_stage_2 \\
    --workdir=runs/smollm2_medusa2/two_stage_2
  python -m train.main --config=configs/smollm2_medusa2.py:one_stage \\
    --workdir=runs/smollm2_medusa2/one_stage
  python -m train.main --config=configs/smollm2_medusa2.py:naive \\
    --workdir=runs/smollm2_medusa2/naive

"two_stage_2" goes on from the heads of "two_stage_1"; "one_stage" lets lambda_0 rise along a sine;
"naive" trains everything at once from the first step, as the paper's table 2 does to show the harm.

Hardware: one accelerator; a CPU does it in days. Hours: not measured here.
Expected: not measured here. Paper, for Vicuna-7B: MT-bench quality 6.18 with warm-up, 5.925
without, 6.17 before training.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "two_stage_1") -> ConfigDict:
    """Returns the configuration of "two_stage_1", "two_stage_2", "one_stage" or "naive"."""
    c = base.get_config()
    c.data = "sharegpt"
    c.num_heads = 4
    c.own_projection = False
    c.root_conditioned = True
    c.steps = 1000
    c.batch_size = 16
    c.seq_len = 1024
    c.warmup_steps = 50
    c.export_format = "C"
    if variant == "two_stage_1":
        return c
    if variant not in ("two_stage_2", "one_stage", "naive"):
        raise ValueError(
            f"{variant!r} is no variant: choose two_stage_1, two_stage_2, one_stage or naive"
        )
    c.objective = "medusa2"
    c.heads_coef = 0.2
    c.lora_rank = 32
    if variant == "two_stage_2":
        c.medusa = "runs/smollm2_medusa2/two_stage_1/export"
    if variant == "one_stage":
        c.heads_schedule = "sine"
    return c
