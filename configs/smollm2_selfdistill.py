"""Self-distilled MEDUSA-2 for SmolLM2-135M-Instruct: the paper's one-stage recipe, smaller.

  python -m train.self_distill --prompts sharegpt_train.jsonl.xz --output replies.jsonl
  python -m train.main --config=configs/smollm2_selfdistill.py --config.data=replies.jsonl \\
    --workdir=runs/smollm2_selfdistill

Hardware: one accelerator; a CPU does it in days. Hours: not measured here.
Expected: not measured here.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the configuration."""
    c = base.get_config()
    c.data = "replies.jsonl"
    c.objective = "self_distill"
    c.heads_coef = 0.01
    c.heads_schedule = "sine"
    c.num_heads = 4
    c.own_projection = False
    c.root_conditioned = True
    c.steps = 1000
    c.batch_size = 16
    c.seq_len = 1024
    c.learning_rate = 1e-4  # 4e-4 for the heads.
    c.warmup_steps = 20
    c.lora_rank = 32
    c.export_format = "C"
    return c
