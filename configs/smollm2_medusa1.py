"""MEDUSA-1 heads for SmolLM2-135M-Instruct: those that the package ships.

The heads are root-conditioned (see `MedusaConfig`) and propose from a draft vocabulary; the
backbone is frozen; the labels are the model's own greedy replies. "soft" continues from the heads
of "hard" and learns the model's distributions instead of its tokens. The last command chooses the
tree, on replies that the heads have not seen.

  python -m train.self_distill --prompts sharegpt --output replies.jsonl --limit 3569 \\
    --max_prompt_tokens 126 --max_new_tokens 128 --temperature 0 --max_turns 1
  python -m train.main --config=configs/smollm2_medusa1.py:hard --config.data=replies.jsonl \\
    --config.hidden_states=cached --workdir=runs/hard
  python -m train.main --config=configs/smollm2_medusa1.py:soft --config.data=replies.jsonl \\
    --config.hidden_states=cached --workdir=runs/soft
  python -m train.evaluate --medusa runs/soft/export --data other_replies.jsonl \\
    --best_tree tree.json --output metrics.json

Data: greedy replies, at most 128 tokens, to the first turns of 3569 conversations (drawn from
16 583 of the sample's 17 545 rows, so the command above draws others); 403k training positions
(3488 conversations), 81 conversations held out; 448 more for the tree.
Hardware: 2 CPU cores, at times shared with other work: about 250 tokens/s for the replies, 27
minutes for the hidden states, and for training 19 minutes ("hard", 2400 steps, 3 epochs) and
10 minutes ("soft", 1000 steps).
Result, held out (labels in the draft vocabulary): top-1 of heads 1 to 4 .50 .30 .21 .17, top-5 .72
.50 .39 .33 ("hard" alone the same within .01).
Tokens per step on MT-bench, hard against soft labels and root-conditioned heads against others:
docs/results.md.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(stage: str = "hard") -> ConfigDict:
    """Returns the configuration of stage "hard" or "soft"."""
    if stage not in ("hard", "soft"):
        raise ValueError(f"{stage!r} is no stage: choose hard or soft")
    c = base.get_config()
    c.data = "sharegpt"
    c.num_heads = 4
    c.num_layers = 2
    c.own_projection = False
    c.conditioning = "root"
    c.draft_vocab = 8192
    c.steps = 2400
    c.batch_size = 1  # 512 positions per step: batch_size * seq_len.
    c.seq_len = 512
    c.learning_rate = 2e-3
    c.head_lr_multiplier = 1.0
    c.warmup_steps = 50
    c.weight_decay = 0.01
    c.eval_every = 400
    c.save_every = 400
    c.export_format = "C"
    if stage == "soft":
        c.medusa = "runs/hard/export"
        c.head_labels = "distribution"
        c.steps = 1000
        c.learning_rate = 1e-3
        c.eval_every = 250
        c.save_every = 250
    return c
