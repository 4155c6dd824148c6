"""Every key of a training configuration, with the default that the recipes start from.

The defaults are the MEDUSA-1 of the paper (section 2.2.1, appendix B). A recipe is a file whose
`get_config` changes some of them, as `--config.KEY=VALUE` does on the command line, and
`train.settings` checks them all. Not to be run itself: it names no data.
"""

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    """Returns the defaults."""
    c = ConfigDict()
    # Model and data.
    c.model = placeholder(str)  # Folder, hub id or GGUF file; default: SmolLM2-135M-Instruct.
    c.medusa = placeholder(str)  # Heads to start from (folder, file, hub id); default: fresh ones.
    c.data = placeholder(str)  # ShareGPT-format file, or a name that tensorflow-datasets knows.
    c.data_errors = "cut"  # Long conversations; "stop": at them; "skip": malformed rows, too.
    c.held_out = 0.02  # Share of the conversations that is kept for evaluation.

    # What is minimised.
    c.objective = "medusa1"  # "medusa1": heads only; "medusa2": backbone too; "self_distill".
    c.hidden_states = "streamed"  # "cached": the backbone runs once before training; medusa1 only.
    c.soft_labels = False  # Heads learn the base model's distribution instead of the token (ours).
    c.head_decay = 0.8  # lambda_k = head_decay ** k.
    c.heads_coef = 0.2  # lambda_0, weight of the heads' loss beside the base head's.
    c.heads_schedule = "constant"  # Of lambda_0: "constant", "linear" or "sine" from 0 upwards.
    c.heads_ramp = 1.0  # Share of the steps that the rise of lambda_0 takes.

    # The heads.
    c.num_heads = 5  # M; the published trees use 4.
    c.num_layers = 1  # Residual blocks per head.
    c.own_projection = True  # Each head has a vocabulary projection; else all share the LM head.
    c.root_conditioned = False  # Heads also see the token that the base head has just fixed (ours).
    c.draft_vocab = 0  # Most frequent tokens that the heads can propose (ours); 0: all.

    # How long and how much at a time.
    c.steps = FieldReference(1000, field_type=int)  # Either steps or epochs; the other is None.
    c.epochs = placeholder(float)  # Passes over the training data, as they are packed.
    c.batch_size = 64  # Sequences per step, of all devices and accumulated parts together.
    c.seq_len = 2048  # Positions per sequence; conversations are packed, longer ones are cut.
    c.accumulate = 1  # Parts of a batch, one in memory at a time; divides batch_size.
    c.seed = 0

    # The optimiser: AdamW, linear warm-up, then half a cosine down to zero.
    c.learning_rate = 5e-4  # Peak, of the backbone or its adapters.
    c.head_lr_multiplier = 4.0  # The heads' peak is this times learning_rate.
    c.warmup_steps = 40
    c.weight_decay = 0.0
    c.grad_clip = 1.0  # Bound on the norm of all gradients together.
    c.moments = "float32"  # "float32", "bfloat16" (first moments) or "factored" (Adafactor).

    # The backbone, and how it is computed.
    c.lora_rank = 0  # r of the adapters; 0: none, all of the backbone trains in medusa2.
    c.lora_alpha = 16.0  # Adapters count alpha / r.
    c.lora_dropout = 0.05
    c.quantize = "none"  # Of a frozen backbone: "int8" or "nf4".
    c.dtype = "float32"  # "bfloat16" on accelerators.
    c.remat = False  # Compute each layer again in the backward pass instead of keeping it.
    c.mesh = ConfigDict({"data": -1, "fsdp": 1, "tensor": 1})  # Devices per axis; -1: the rest.

    # Log, checkpoints and result.
    c.log_every = 20  # Steps, as below.
    c.eval_every = 200
    c.save_every = 200
    c.keep = 2  # Latest checkpoints that stay; the best one stays besides.
    c.profile = ""  # "10:15" writes a jax.profiler trace of these steps.
    c.tree = "mc_sim_7b_63"  # Of the expected tokens per step in the log.
    c.export_format = "A"  # Written at the end: "A", "B", "C", "vllm" or "none".
    c.export_dtype = "float16"  # Of the weights in it.
    return c
