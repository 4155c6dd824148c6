"""MEDUSA-1 heads for SmolLM2-135M-Instruct, trained on the model's own greedy replies."""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Returns the default configuration."""
    c = ConfigDict()
    c.model = placeholder(str)  # Folder, hub id or GGUF file; default: SmolLM2-135M-Instruct.
    c.data = "replies.jsonl"  # ShareGPT-format conversations.
    c.seq_len = 512  # Longer conversations are cut, in tokens.
    c.num_heads = 4  # M; the published trees use 4.
    c.num_layers = 1  # Residual blocks per head.
    c.root_conditioned = False  # Heads also see the token that the base head has just fixed.
    c.draft_vocab = 8192  # Most frequent tokens that the heads can propose; 0: all.
    c.head_decay = 0.8  # lambda_k = head_decay ** k.
    c.steps = 4000
    c.batch_size = 512  # Positions, not sequences.
    c.learning_rate = 3e-3
    c.warmup_steps = 50
    c.weight_decay = 0.0
    c.log_every = 20
    c.save_every = 200
    c.seed = 0
    return c
