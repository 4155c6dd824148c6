"""Flags that commands share, and what they give: a model, options of decoding.

A command imports the flags that it reads and calls `flags.adopt_module_key_flags` for its help.
"""

from typing import Any

from absl import flags

from infer.prompts import check_text
from medusa_jax import GenerationConfig, MedusaLM, UserError, load
from medusa_jax.cli.model_flags import (
    define_dtype,
    define_medusa,
    define_mesh,
    define_model,
    define_quantize,
)
from medusa_jax.decoding.options import ACCEPTANCES

_DEFAULTS = GenerationConfig()

MODEL = define_model()
MEDUSA = define_medusa()
SYSTEM = flags.DEFINE_string(
    "system",
    None,
    "System message that every conversation begins with, in place of the chat template's own.",
)
# With two more below, these are the fields of GenerationConfig that mean something to all commands;
# the tree, however, belongs to the model.
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
    flags.DEFINE_integer(
        "top_k",
        _DEFAULTS.top_k,
        "Sample only among this many of the most likely tokens; 0: among all.",
    ),
    flags.DEFINE_float(
        "top_p",
        _DEFAULTS.top_p,
        "Sample only among the fewest tokens that together have this probability; 1: among all.",
    ),
    flags.DEFINE_float(
        "min_p",
        _DEFAULTS.min_p,
        "Sample only among tokens with this share of the highest probability or more; 0: all.",
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
    flags.DEFINE_boolean(
        "ignore_eos", _DEFAULTS.ignore_eos, "Go on after end-of-sequence tokens, to full length."
    ),
    flags.DEFINE_integer(
        "max_context",
        _DEFAULTS.max_context,
        "Longest prompt and answer together, in tokens. Default: the model's context.",
    ),
)
_STOP = flags.DEFINE_multi_string(
    "stop", [], "A text before which an answer ends; repeat the flag for more."
)
_LOGIT_BIAS = flags.DEFINE_multi_string(
    "logit_bias",
    [],
    "ID:BIAS: add the number BIAS to the logits of the token ID, before everything else; repeat "
    "the flag for more.",
)
TREE = flags.DEFINE_string(
    "tree",
    None,
    "Tree of tokens that each step proposes. 'auto': what is fastest here for this model and "
    "batch, chosen while decoding from what infer.tune has measured, or else from assumptions. "
    "Otherwise a preset such as mc_sim_7b_63, PRESET:N for its first N nodes, a JSON file with a "
    "list of paths, chain:K for the best token of each of K heads, or dynamic:N. Default: auto.",
)
DTYPE = define_dtype(
    "bfloat16 rounds to three digits and float16 to four, so that trees of different sizes may "
    "choose differently between tokens that are nearly equally likely."
)
MESH, QUANTIZE = define_mesh(), define_quantize()


def load_lm() -> MedusaLM:
    """The model that the flags name.

    Raises:
      UserError: see `medusa_jax.load`.
    """
    return load(
        MODEL.value,
        MEDUSA.value,
        dtype=DTYPE.value,
        tree=TREE.value,
        mesh=MESH.value,
        quantize=QUANTIZE.value,
    )


def decoding_options() -> dict[str, Any]:
    """What the flags say about decoding: keyword arguments of `GenerationConfig`.

    Raises:
      UserError: a stop text that cannot be encoded, or a bias that is not written as one.
    """
    options: dict[str, Any] = {option.name: option.value for option in _OPTIONS}
    options["stop"] = tuple(check_text(text, "--stop") for text in _STOP.value)
    biases = [_bias(text) for text in _LOGIT_BIAS.value]
    options["logit_bias"] = dict(biases)
    if len(options["logit_bias"]) < len(biases):
        raise UserError("--logit_bias names a token twice: give one number for each token")
    return options


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition(":")
    try:
        return int(token), float(bias)
    except ValueError:
        raise UserError(
            f"--logit_bias={text}: write a token id and a number, as in 42:-1.5"
        ) from None
