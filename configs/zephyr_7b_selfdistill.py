"""Self-distilled MEDUSA-2 for Zephyr-7B-beta in one stage (paper, section 2.3.2, appendix B).

It uses the model's own replies and LoRA on full-precision weights. To warm the heads up, the weight
of their loss rises from 0 along a sine.

  python -m train.self_distill --model HuggingFaceH4/zephyr-7b-beta --prompts ultrachat.jsonl \\
    --output replies.jsonl --max_new_tokens 2048 --batch_size 16
  python -m train.main --config=configs/zephyr_7b_selfdistill.py --config.data=replies.jsonl \\
    --workdir=runs/zephyr_7b_selfdistill

Data: about 100k conversations; seeds probably from UltraChat (the paper names it and ShareGPT for
its two self-distilled models). The authors let Zephyr talk to itself instead of replaying prompts.
Hardware: the authors' files are for 8 GPUs. According to the compilers, the run fits one H100 (71.3
of 84.9 GB: set XLA_PYTHON_CLIENT_MEM_FRACTION=0.9), two (47.9 each), a v5e:2x4 (12.0 of 16.9), a
v5p:2x2x1 (21.6 of 102.8) or a v6e:2x2 (21.8 of 33.5; docs/tpu.md).
Hours: not in the paper; not measured here. The compilers' estimates, which leave out waiting: 3.5
on one H100, 1.7 on two, 3.9 on the v5e:2x4, 3.3 on the v5p:2x2x1 and 3.6 on the v6e:2x2, for 200
million tokens (two epochs of conversations of 1000 tokens).
Expected: in the paper, MT-bench quality 7.25 (0.07 below the base model) at 2.66 times the speed,
3.14 tokens per step by typical acceptance (table 1).
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the configuration."""
    c = base.get_config()
    c.model = "HuggingFaceH4/zephyr-7b-beta"
    c.data = "replies.jsonl"
    c.held_out = 0.01
    c.objective = "self_distill"
    c.heads_coef = 0.01
    c.heads_schedule = "sine"
    c.heads_ramp = 1.0
    c.num_heads = 5
    c.num_layers = 1
    c.steps, c.epochs = None, 2.0
    c.batch_size = 128
    c.seq_len = 2048
    c.accumulate = 4
    c.learning_rate = 1e-4  # 4e-4 for the heads.
    c.warmup_steps = 20
    c.moments = "bfloat16"  # The paper: 8-bit AdamW.
    c.lora_rank = 32
    c.lora_alpha = 16.0
    c.lora_dropout = 0.05
    c.dtype = "bfloat16"
    c.remat = "nothing"
    c.mesh = ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
    c.export_format = "B"
    return c
