"""Every key of a training configuration, with the default that the recipes start from.

The defaults are the MEDUSA-1 of the paper (section 2.2.1, appendix B). A recipe is a file whose
`get_config` changes some of them, as `--config.KEY=VALUE` does on the command line;
`train.recipe` checks the result. This file names no data, so it cannot be run itself.
"""

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Returns the defaults."""
    c = ConfigDict()
    _what_is_learned(c)
    _how(c)
    _what_is_written(c)
    return c


def _what_is_learned(c: ConfigDict) -> None:
    # Model and data.
    c.model = placeholder(str)  # Folder, hub id or GGUF file; default: SmolLM2-135M-Instruct.
    c.medusa = placeholder(str)  # Heads to start from (folder, file, hub id); default: fresh ones.
    c.data = placeholder(str)  # ShareGPT-format file, or the name of a tensorflow-datasets dataset.
    # "cut" shortens conversations longer than seq_len, "stop" ends the run at one; both end it at a
    # malformed row. "skip" shortens too, but leaves malformed rows out.
    c.data_errors = "cut"
    c.held_out = 0.02  # Share of the conversations kept for evaluation.

    # What is minimised.
    c.objective = "medusa1"  # "medusa1": heads only; "medusa2": backbone too; "self_distill".
    c.hidden_states = "streamed"  # "cached": the backbone runs once, before training; medusa1 only.
    # What heads learn: "tokens"; the base model's "distribution" instead; or, with "l1", to come
    # close to that distribution (the last two are not in the paper).
    c.head_labels = "tokens"
    c.head_decay = 0.8  # lambda_k = head_decay ** k.
    c.heads_coef = 0.2  # lambda_0, weight of the heads' loss against the base head's.
    c.heads_schedule = "constant"  # Heads' warm-up: lambda_0 grows from 0 by "linear" or "sine".
    c.heads_ramp = 1.0  # Share of the steps that this warm-up takes.
    c.stop_lm_head = False  # True: the heads' loss does not train a shared LM head (ours).

    # The heads.
    c.num_heads = 5  # M; the published trees use 4, that of the 33B 3.
    c.num_layers = 1  # Residual blocks per head.
    c.own_projection = True  # Each head has its own projection; else all share the LM head.
    # What heads also see (not in the paper): "root", the token that the base head just chose;
    # "markov", "gated_markov", "branch", "recurrent": tokens that other heads proposed (docs).
    c.conditioning = "none"
    c.markov_rank = 64  # Rank of the correction in "markov" and "gated_markov" heads.
    c.draft_vocab = 0  # Heads propose only the most frequent tokens, this many (ours); 0: all.


def _how(c: ConfigDict) -> None:
    # How long and how much at a time.
    c.steps = FieldReference(1000, field_type=int)  # Set either steps or epochs; the other is None.
    c.epochs = placeholder(float)  # Passes over the packed training data.
    c.batch_size = 64  # Sequences per step, over all devices and accumulated parts.
    c.seq_len = 2048  # Tokens per sequence; several conversations are packed into each.
    c.accumulate = 1  # Parts that a batch is computed in, to save memory; divides batch_size.
    c.seed = 0

    # The optimiser: AdamW; the learning rate rises linearly, then falls to 0 along half a cosine.
    c.learning_rate = 5e-4  # Peak for the backbone or its adapters.
    c.head_lr_multiplier = 4.0  # The heads' peak is this many times higher.
    c.warmup_steps = 40  # Steps until the learning rate peaks (lambda_0 has heads_ramp).
    c.weight_decay = 0.0
    c.grad_clip = 1.0  # Bound on the norm of all gradients together.
    c.moments = "float32"  # "float32", "bfloat16" (first moments) or "factored" (Adafactor).

    # The backbone, and how it is computed.
    c.lora_rank = 0  # r of the adapters; 0: none, and medusa2 trains the whole backbone.
    c.lora_alpha = 16.0  # Adapters are scaled by alpha / r.
    c.lora_dropout = 0.05
    c.quantize = "none"  # "int8" or "nf4" for a frozen backbone.
    c.dtype = "float32"  # "bfloat16" on accelerators.
    # What layers compute again in the backward pass, to save memory: "none"; "products": all but
    # linear maps and attention; "nothing" (is kept): all; "offload": all, with the layers'
    # inputs kept in the host's memory meanwhile.
    c.remat = "none"
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})  # Devices per axis; -1: the rest.


def _what_is_written(c: ConfigDict) -> None:
    # Logs, checkpoints and the result.
    c.log_every = 20  # In steps, as are the next two.
    c.eval_every = 200
    c.save_every = 200  # Steps whose evaluation is the best so far are saved, too.
    c.keep = 2  # Latest checkpoints to keep, in addition to the best one.
    c.profile = ""  # "10:15" writes a jax.profiler trace of these steps.
    c.tree = "mc_sim_7b_63"  # Its expected tokens per step are reported and rank checkpoints.
    c.export_format = "A"  # Written at the end: "A", "B", "C", "vllm" or "none".
    c.export_dtype = "float16"  # Type of the exported weights.
