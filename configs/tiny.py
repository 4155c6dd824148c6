"""MEDUSA-2 on a random model the size of stories260K: no download, done in a minute anywhere.

  python -m train.main --config=configs/tiny.py --workdir=runs/tiny
  python -m infer.generate --model runs/tiny/export --prompt "What do bees make?"

Data: 60 short conversations that come with this file, 57 to train on.
Hardware: anything. Hours: 0.01 (38 seconds) on 2 CPU cores.
Expected: the model learns the conversations by heart. On its training data, the base head's loss
falls from 4.04 after 10 steps to 0.10, and the top-1 accuracies of heads 1 to 4 reach .57 .38 .35
.27. The second command answers with the sentence that the model was trained on.
"""

from pathlib import Path

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    """Returns the configuration."""
    c = base.get_config()
    c.model = "random:tiny"
    c.data = str(Path(__file__).parent / "data" / "tiny.jsonl")
    c.held_out = 0.1
    c.objective = "medusa2"
    c.num_heads = 4
    c.steps = 160
    c.batch_size = 8
    c.seq_len = 160
    c.learning_rate = 4e-3
    c.head_lr_multiplier = 2.0
    c.warmup_steps = 10
    c.log_every = 10
    c.eval_every = 80
    c.save_every = 80
    c.export_format = "B"
    c.export_dtype = "float32"
    return c
