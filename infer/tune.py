"""Finds out which tree suits a model, its heads and this machine, for decoding to use.

Two things decide how fast a tree is: how many of its guesses the model accepts, and what a step
with that many nodes costs. Both are measured once and kept in the user's cache folder, where
--tree auto, the default of infer.generate, finds them:

  acceptance  the model answers prompts, and the heads' guesses are compared with what it wrote;
              heads with an acceptance.json, such as those of the default model, do not need this
  step times  on this device, by nodes, batch size and context, for as many nodes as may pay off

Examples:
  The default model, whose acceptance is known:
    python -m infer.tune

  Your own model and heads, on the kind of questions that it will get, for sampling too:
    python -m infer.tune --model FOLDER --medusa FOLDER --prompt_file questions.jsonl \\
      --temperatures 0,0.7

  Only one prompt at a time, with the numbers in a file:
    python -m infer.tune --batch_sizes 1 --output tuned.json

Every answer and every batch size is kept as soon as it is measured: after an interruption, rerun
the command to go on. Until all are there, decoding goes by what was known before.

On a CPU both float32 and bfloat16 are measured; bfloat16 becomes the default of this model there if
it decodes one prompt 5 % faster. bfloat16 rounds to three digits: where two tokens are nearly
equally likely, trees of different sizes may choose differently. In float32 they do not.
"""

import dataclasses
import functools
from typing import Any

import jax
from absl import flags

import medusa_jax
from infer.bench.questions import questions
from infer.prompts import define_prompt_file
from infer.tuning import report
from infer.tuning.keep import Kept
from infer.tuning.measure import measure_acceptance, measure_times
from medusa_jax.cli.console import note
from medusa_jax.cli.model_flags import define_medusa, define_model
from medusa_jax.cli.run import run_main, setup_compilation_cache
from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_json
from medusa_jax.io.load import DTYPES, default_dtype, find
from medusa_jax.tuning.measured import Measured

_MODEL = define_model()
_MEDUSA = define_medusa()
_PROMPT_FILE = define_prompt_file(
    "Measure acceptance on these prompts, even if it is known",
    "Default: built-in questions, if it is not known.",
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 128, "Longest answer to each prompt, in tokens.", lower_bound=8
)
_TEMPERATURES = flags.DEFINE_list(
    "temperatures",
    ["0"],
    "Temperatures at which to measure acceptance, separated by commas. Decoding at another one "
    "uses the nearest.",
)
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes",
    ["1", "4", "8", "16", "64"],
    "Batch sizes to measure, separated by commas; those between them are interpolated.",
)
_DTYPES = flags.DEFINE_list(
    "dtypes",
    None,
    "float32, bfloat16, float16 or several. Default: on a CPU the first two, elsewhere bfloat16, "
    "or float16 on GPUs without it.",
)
_OVERWRITE = flags.DEFINE_boolean(
    "overwrite",
    False,
    "Measure everything anew instead of adding what is missing, also what an interrupted run has "
    "kept. Acceptance that came with the heads is measured anew only with --prompt_file.",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file to write: all numbers, with device, versions, commit and command."
)


def main(argv: list[str]) -> None:
    """Measures what is missing, keeps it and prints what follows from it."""
    del argv
    temperatures, batches = _numbers(_TEMPERATURES, float, 0.0), _numbers(_BATCH_SIZES, int, 1)
    dtypes, prompts = _dtypes(), questions(_PROMPT_FILE.value)
    target = None if _OUTPUT.value is None else check_output(_OUTPUT.value)
    setup_compilation_cache()
    around = environment("infer.tune")
    if around["load_average"] > around["cores"] / 2:
        note(f"the machine is busy (load {around['load_average']:.1f}): expect noisy step times")
    path, heads = find(_MODEL.value, _MEDUSA.value)
    if heads is None:
        raise UserError("there are no Medusa heads to tune: name them with --medusa")
    load = functools.partial(medusa_jax.load, _MODEL.value, _MEDUSA.value)
    lm = load(dtype=dtypes[0])
    kept = Kept(path, heads, jax.devices()[0], overwrite=_OVERWRITE.value)
    acceptance = measure_acceptance(
        lm, kept, prompts, temperatures, _MAX_NEW_TOKENS.value, is_asked=bool(_PROMPT_FILE.value)
    )
    for dtype in dtypes:
        lm = lm if lm.dtype == dtype else load(dtype=dtype)
        measured = dataclasses.replace(lm.measured, acceptance=acceptance, times={})
        lm = dataclasses.replace(lm, measured=measured)
        measure_times(lm, kept, batches)
    summary = report.summary(lm, kept, acceptance, dtypes, batches)
    fastest = report.fastest(lm, kept.measured())
    if fastest is not None:
        kept.set_fastest(fastest)
    if target is not None:
        write_json(target, around | {"acceptance": acceptance.to_json()} | summary)
    report.show(summary, fastest if lm.platform == "cpu" else None)


def _numbers(flag: Any, kind: Any, least: float) -> list[Any]:
    """A flag's numbers, ascending."""
    try:
        numbers = sorted({kind(text) for text in flag.value})
    except ValueError:
        numbers = []
    if not numbers or not all(least <= number < float("inf") for number in numbers):
        raise UserError(
            f"--{flag.name} is {','.join(flag.value)}: give numbers from {least:g}, separated by "
            "commas"
        )
    return numbers


def _dtypes() -> list[str]:
    device = jax.devices()[0]
    default = ("float32", "bfloat16")
    if device.platform != "cpu":
        default = (default_dtype(Measured(), device),)
    for dtype in _DTYPES.value or ():
        if dtype not in DTYPES:
            raise UserError(f"--dtypes has {dtype!r}: choose from {', '.join(DTYPES)}")
    return list(dict.fromkeys(_DTYPES.value or default))


def run() -> None:
    """Entry point of `medusa-tune`."""
    run_main(main)


if __name__ == "__main__":
    run()
