"""Self-distilled MEDUSA-2 for SmolLM2-135M-Instruct, from the heads in the package.

  python -m train.main --config=configs/smollm2_selfdistill.py --config.data=replies.jsonl \\
    --workdir=runs/self_distill

Data: the model's own replies, as for configs/smollm2_medusa1.py. The base head learns to stay the
original model, and the heads learn to predict it. (The measured run had greedy replies alone, to
320 prompts.)
Hardware: 2 CPU cores. Hours: 0.4, beside other work, for 82k tokens. On an H100 a step in bfloat16
takes at least 8.5 ms, according to the compiler, and 2.5 of 84.9 GB (docs/plan.md).
Expected: docs/results.md.
"""

from ml_collections import ConfigDict

from configs import smollm2_medusa2


def get_config() -> ConfigDict:
    """Returns the configuration: two-stage MEDUSA-2 with other data and another base loss."""
    c = smollm2_medusa2.get_config("two_stage")
    c.data = "replies.jsonl"
    c.held_out = 0.02
    c.objective = "self_distill"
    c.steps = 80
    c.warmup_steps = 20
    c.heads_coef = 0.1
    c.learning_rate = 2e-4  # 8e-4 for the heads.
    return c
