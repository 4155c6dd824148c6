"""MEDUSA-2 for SmolLM2-135M-Instruct with either warm-up of the heads, with none, and controls.

  python -m train.main --config=configs/smollm2_medusa2.py:two_stage --workdir=runs/two_stage
  python -m train.main --config=configs/smollm2_medusa2.py:one_stage --workdir=runs/one_stage
  python -m train.main --config=configs/smollm2_medusa2.py:naive --workdir=runs/naive

"two_stage" continues from the heads in the package (first stage: configs/smollm2_medusa1.py);
"one_stage" starts with fresh heads and lets lambda_0 rise along a sine; "naive" trains fresh heads
and adapters together from the first step, which the paper's table 2 shows to be harmful.

Controls, each of which answers a question about these:

  python -m train.main --config=configs/smollm2_medusa2.py:one_stage_stopped \\
    --workdir=runs/one_stage_stopped
  python -m train.main --config=configs/smollm2_medusa2.py:naive_own --workdir=runs/naive_own
  python -m train.main --config=configs/smollm2_medusa2.py:naive_stopped \\
    --workdir=runs/naive_stopped
  python -m train.main --config=configs/smollm2_medusa2.py:lora_only --workdir=runs/lora_only
  python -m train.main --config=configs/smollm2_medusa2.py:heads_only --workdir=runs/heads_only

"one_stage_stopped": does a single stage do less harm if the heads' loss does not train the LM head
that they share?
"naive_own": is "naive" harmful, too, if the heads have projections of their own, as the paper's do?
They then see nothing but the hidden state, since recurrent heads share the LM head.
"naive_stopped": does the harm come through that LM head? Again the heads' loss does not train it.
"lora_only": what do the adapters do to the model without heads? lambda_0 is 0, and the heads of
"two_stage" stay as they are.
"heads_only": what does more training do to the heads of "two_stage" without adapters (MEDUSA-1, on
the same batches)?

Fifty steps (51k tokens) are what two CPU cores manage in ten minutes: enough to rank the variants.
--config.seed=1 and --config.seed=2, in folders of their own, show what chance does; --config.steps
trains longer. On an accelerator, raise steps and batch_size, and set --config.dtype=bfloat16:
float32 is for CPUs (docs/design/training.md, "Compiling a step of MEDUSA-2").

Hardware: 2 CPU cores. Hours: 0.2. On an H100 a step of two_stage in bfloat16 takes at least 8 ms,
according to the compiler, and 2.5 of 84.9 GB (docs/plan.md).
Expected: docs/results.md.
"""

from ml_collections import ConfigDict

from configs import base
from medusa_jax.io.load import SHIPPED_HEADS

_VARIANTS = {
    "two_stage": {"medusa": str(SHIPPED_HEADS)},
    "one_stage": {"heads_schedule": "sine"},
    "one_stage_stopped": {"heads_schedule": "sine", "stop_lm_head": True},
    "naive": {},
    "naive_own": {"own_projection": True, "conditioning": "none", "export_format": "vllm"},
    "naive_stopped": {"stop_lm_head": True},
    "lora_only": {"medusa": str(SHIPPED_HEADS), "heads_coef": 0.0},
    "heads_only": {"medusa": str(SHIPPED_HEADS), "objective": "medusa1", "lora_rank": 0},
}


def get_config(variant: str = "two_stage") -> ConfigDict:
    """Returns the configuration of one of the variants above."""
    if variant not in _VARIANTS:
        raise ValueError(f"{variant!r} is no variant: choose one of {', '.join(_VARIANTS)}")
    c = base.get_config()
    c.data = "sharegpt"
    c.held_out = 0.005
    c.objective = "medusa2"
    c.lora_rank = 32
    c.log_every = 5
    c.num_heads = 4
    c.num_layers = 4
    c.own_projection = False
    c.conditioning = "recurrent"
    c.draft_vocab = 8192
    c.steps = 50
    c.batch_size = 2  # 1024 tokens a step.
    c.seq_len = 512
    c.warmup_steps = 10
    c.eval_every = 50
    c.save_every = 25
    c.export_format = "C"
    c.update(_VARIANTS[variant])
    return c
