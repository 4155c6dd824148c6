"""MEDUSA-1 heads for SmolLM2-135M-Instruct: those that the package ships.

The heads are root-conditioned (see `MedusaConfig`) and propose from a draft vocabulary; the
backbone is frozen; the labels are the model's own greedy replies.

  python -m train.self_distill --prompts sharegpt_train.jsonl.xz --output replies.jsonl \\
    --limit 1788 --max_prompt_tokens 126 --max_new_tokens 128 --temperature 0 --max_turns 1 \\
    --data_errors skip
  python -m train.main --config=configs/smollm2_medusa1.py --config.data=replies.jsonl --workdir=DIR

Data: greedy replies, at most 128 tokens, to the first turns of 1788 ShareGPT conversations; 200k
training positions (1741 conversations), 5.3k held out (47).
Hardware: 2 CPU cores, shared with other work, so times are upper bounds: replies 37 minutes,
hidden states 12 minutes, training (1200 steps, 3 epochs) 10 minutes.
Result, held out (labels in the draft vocabulary): top-1 of heads 1 to 4 .49 .28 .19 .14, top-5 .73
.50 .39 .30. Greedy replies to the 80 first turns of MT-bench, 128 new tokens, tree mc_sim_7b_63:
1.95 tokens per step. A run with `num_layers = 1`, `root_conditioned = False` and
`learning_rate = 3e-3` (stopped early) was at held-out top-1 .29 .17 .11 .09 after 400 steps, this
one at .44 .25 .14 .11 after as many.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the configuration."""
    c = base.get_config()
    c.data = "replies.jsonl"
    c.hidden_states = "cached"
    c.num_heads = 4
    c.num_layers = 2
    c.own_projection = False
    c.root_conditioned = True
    c.draft_vocab = 8192
    c.steps = 1200
    c.batch_size = 1  # 512 positions per step: batch_size * seq_len.
    c.seq_len = 512
    c.learning_rate = 2e-3
    c.head_lr_multiplier = 1.0
    c.warmup_steps = 50
    c.weight_decay = 0.01
    c.export_format = "C"
    return c
