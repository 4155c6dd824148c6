"""Flags about a model, for commands whose other flags differ: which, where and how exactly."""

from absl import flags

from medusa_jax.io.load import DTYPES
from medusa_jax.nn.quantize import KINDS

flags.disclaim_key_flags()  # they belong to the command that asks for them


def define_model() -> flags.FlagHolder[str | None]:
    """The flag --model."""
    return flags.DEFINE_string(
        "model",
        None,
        "Hugging Face folder, hub id or GGUF file. Default: SmolLM2-135M-Instruct, which is "
        "downloaded once.",
    )


def define_medusa() -> flags.FlagHolder[str | None]:
    """The flag --medusa."""
    return flags.DEFINE_string(
        "medusa",
        None,
        "Folder, file or hub id with Medusa heads; 'none': the model alone. Default: the heads "
        "beside the model, or those that ship with the default model.",
    )


def define_dtype(more: str = "") -> flags.FlagHolder[str | None]:
    """The flag --dtype, with more to say about it."""
    return flags.DEFINE_enum(
        "dtype",
        None,
        list(DTYPES),
        "Number format of parameters and computation. Default: on a CPU, what infer.tune found to "
        f"be faster there, else float32; elsewhere bfloat16, or float16 on GPUs without it. {more}",
    )


def define_mesh() -> flags.FlagHolder[str | None]:
    """The flag --mesh."""
    return flags.DEFINE_string(
        "mesh",
        None,
        "Devices to use in each process, as sizes of data, fsdp and tensor: tensor=4 splits the "
        "weights and the cache over four. Default: one device.",
    )


def define_quantize() -> flags.FlagHolder[str]:
    """The flag --quantize."""
    return flags.DEFINE_enum(
        "quantize",
        "none",
        list(KINDS),
        "int8 keeps all matrices in 8 bits with a scale per output: half the memory of bfloat16, "
        "with slightly different logits.",
    )
