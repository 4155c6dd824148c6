"""MEDUSA-1 heads for SmolLM2-135M-Instruct: those that the package ships.

The heads see their branch through one recurrent cell (see `MedusaConfig`), propose from a draft
vocabulary, and learn the model's distributions over its own replies. The backbone is frozen. The
last command chooses the tree, on replies to questions that the heads have not seen.

  PROBLEMS=gsm8k_train.jsonl runs/smollm2_replies.sh
  cat runs/smollm2_replies/pieces/*.replies.jsonl >replies.jsonl
  python -m train.main --config=configs/smollm2_medusa1.py --config.data=replies.jsonl \\
    --config.dtype=bfloat16 --workdir=runs/medusa1
  python -m train.evaluate --medusa runs/medusa1/export --walk --best_tree tree.json \\
    --data runs/smollm2_replies/held_out_replies.jsonl --output metrics.json

Data: replies of up to 192 tokens (three of five greedy, two sampled at temperature 0.7) to 23,258
prompts of 23 kinds, a third of them with a second turn. With the prompts they have 5.3 million
tokens; 124 replies were held out (since 2026-11-29 others are: a conversation's stay together).
Hardware: one H100: 3 minutes for the replies, and for the heads (2098 steps, 3 epochs) 4 minutes,
beside ten other runs. According to the compiler a step takes at least 12 ms there, and 2.1 of 84.9
GB (docs/plan.md). runs/smollm2_cpu.sh does the same on two CPU cores, with less data.
Result, held out (labels in the draft vocabulary): top-1 of heads 1 to 4 .48 .42 .39 .38, and 2.71
tokens per step expected with mc_sim_7b_63.
Expected: docs/results.md, for questions that the heads never saw, and for other heads and labels.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the configuration."""
    c = base.get_config()
    c.data = "sharegpt"
    c.held_out = 0.005
    c.head_labels = "distribution"
    c.num_heads = 4
    c.num_layers = 4
    c.own_projection = False
    c.conditioning = "recurrent"
    c.draft_vocab = 8192
    c.steps = 2098  # 3 epochs.
    c.batch_size = 16
    c.seq_len = 512
    c.learning_rate = 2e-3
    c.head_lr_multiplier = 1.0
    c.warmup_steps = 50
    c.weight_decay = 0.01
    c.eval_every = 500
    c.save_every = 500
    c.export_format = "C"
    return c
