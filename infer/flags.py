"""Flags that commands share, and what they give: a model, options of decoding.

A command imports the flags that it reads and calls `flags.adopt_module_key_flags` for its help.
"""

from typing import Any

from absl import flags

from medusa_jax import GenerationConfig
from medusa_jax.decoding.options import ACCEPTANCES

_DEFAULTS = GenerationConfig()

MODEL = flags.DEFINE_string(
    "model",
    None,
    "Hugging Face folder, hub id or GGUF file. Default: SmolLM2-135M-Instruct, downloaded once.",
)
MEDUSA = flags.DEFINE_string(
    "medusa",
    None,
    "Folder, file or hub id with Medusa heads; 'none': plain (autoregressive) decoding. Default: "
    "the heads beside the model, or those that ship with the default model.",
)
SYSTEM = flags.DEFINE_string(
    "system",
    None,
    "System message that every conversation begins with, in place of the chat template's own.",
)
# One flag for each field of GenerationConfig that means something to every command, but for the
# tree: that belongs to the model.
_OPTIONS = (
    flags.DEFINE_integer(
        "max_new_tokens", _DEFAULTS.max_new_tokens, "Longest answer to each prompt, in tokens."
    ),
    flags.DEFINE_float(
        "temperature", _DEFAULTS.temperature, "Sampling temperature; 0 is greedy decoding."
    ),
    flags.DEFINE_enum(
        "acceptance",
        _DEFAULTS.acceptance,
        list(ACCEPTANCES),
        "Which of the proposed tokens to accept: those that greedy decoding gives, those that "
        "sampling without heads gives (lossless), or all that are typical (Medusa paper, section "
        "2.3.1). Default: greedy at temperature 0, lossless above.",
    ),
    flags.DEFINE_float(
        "epsilon",
        _DEFAULTS.epsilon,
        "Typical acceptance: a token is accepted if its probability exceeds the smaller of epsilon "
        "and delta * exp(-entropy); between 0 and 1, larger is stricter.",
    ),
    flags.DEFINE_float(
        "delta",
        _DEFAULTS.delta,
        "Typical acceptance: see --epsilon; above 0. The paper recommends sqrt(epsilon).",
    ),
    flags.DEFINE_boolean(
        "sampled_root",
        _DEFAULTS.sampled_root,
        "Typical acceptance: sample the first token of each step instead of taking the most likely "
        "one. Default: only when decoding without heads.",
    ),
    flags.DEFINE_integer(
        "seed", _DEFAULTS.seed, "Random seed for sampling.", lower_bound=0, upper_bound=2**64 - 1
    ),
)
TREE = flags.DEFINE_string(
    "tree",
    None,
    "Tree of tokens that each step proposes: a preset such as mc_sim_7b_63, PRESET:N for its first "
    "N nodes, a JSON file with a list of paths, or chain:K for the best token of each of K heads. "
    "Default: the tree that was measured to be fastest on this kind of device; on a CPU in float32 "
    "that is chain:0, plain decoding, and mc_sim_7b_63:6 with --compare.",
)
DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Number format of parameters and computation. Default: float32 on a CPU, bfloat16 elsewhere.",
)


def decoding_options() -> dict[str, Any]:
    """What the flags say about decoding: keyword arguments of `GenerationConfig`."""
    return {option.name: option.value for option in _OPTIONS}
