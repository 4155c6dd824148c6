"""MEDUSA-2 for SmolLM2-135M-Instruct, with either warm-up of the heads and with none.

  python -m train.main --config=configs/smollm2_medusa2.py:two_stage --workdir=runs/two_stage
  python -m train.main --config=configs/smollm2_medusa2.py:one_stage --workdir=runs/one_stage
  python -m train.main --config=configs/smollm2_medusa2.py:naive --workdir=runs/naive

"two_stage" continues from the heads in the package (first stage: configs/smollm2_medusa1.py);
"one_stage" starts with fresh heads and lets lambda_0 rise along a sine; "naive" trains fresh heads
and adapters together from the first step, which the paper's table 2 shows to be harmful.

Fifty steps (51k tokens) are what two CPU cores manage in ten minutes: enough to rank the variants.
On an accelerator, raise steps and batch_size.

Hardware: 2 CPU cores. Hours: 0.2.
Expected: docs/results.md.
"""

from ml_collections import ConfigDict

from configs import base
from medusa_jax.io.load import SHIPPED_HEADS


def get_config(variant: str = "two_stage") -> ConfigDict:
    """Returns the configuration of "two_stage", "one_stage" or "naive"."""
    if variant not in ("two_stage", "one_stage", "naive"):
        raise ValueError(f"{variant!r} is no variant: choose two_stage, one_stage or naive")
    c = base.get_config()
    c.data = "sharegpt"
    c.held_out = 0.005
    c.objective = "medusa2"
    c.lora_rank = 32
    c.log_every = 5
    c.num_heads = 4
    c.num_layers = 2
    c.own_projection = False
    c.root_conditioned = True
    c.draft_vocab = 8192
    c.steps = 50
    c.batch_size = 2  # 1024 tokens a step.
    c.seq_len = 512
    c.warmup_steps = 10
    c.eval_every = 50
    c.save_every = 25
    c.export_format = "C"
    if variant == "two_stage":
        c.medusa = str(SHIPPED_HEADS)
    if variant == "one_stage":
        c.heads_schedule = "sine"
    return c
