"""Measures decoding on this machine.

A real model answers prompts (the default) with our plain (autoregressive) decoding, with our
Medusa decoding and several trees and, if torch is installed, with transformers' generate. All
decode the same prompts greedily in the same run, taking turns prompt by prompt; medians over the
rounds are reported. Compiling is not timed. In float32 all must give the same tokens, which is
checked.

  python -m infer.benchmark
  python -m infer.benchmark --dtypes float32 --trees mc_sim_7b_63:4,:8,chain:2 --output cpu.json
  python -m infer.benchmark --model FOLDER --medusa FOLDER --prompt_file questions.jsonl

Exact sampling (--sampling SEEDS): tokens per step at temperatures from 0 to 1.3, with drafts
ranked by the noise that will decide, and with drafts ranked by the heads alone.

  python -m infer.benchmark --sampling 2 --trees smollm2_135m_63 --prompt_file questions.jsonl

A queue of prompts with different budgets (--batches ROWS): the throughput of rows that are refilled
as they end, of batches that stay together, and of transformers' batches.

  python -m infer.benchmark --batches 8 --prompt_file questions.jsonl

Random weights of a given shape (--shape), without prompts: the time of a plain step, its memory
bandwidth compared with that of a large copy, and the time of steps with trees of 8 to 128 nodes,
for every batch size and context; also the time of running a prompt. What a step accepts is drawn at
the rates of middling heads. A tree pays off when a step gains more in tokens (first mode) than
it costs in time (this mode).

  python -m infer.benchmark --shape tiny --dtypes float32
  python -m infer.benchmark --shape llama-7b --batch_sizes 1,4,16,64 --contexts 512,2048,8192 \
    --minutes 8
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from absl import flags

from infer.bench import tables
from infer.bench.batches import BatchesJob, measure_batches
from infer.bench.checkpoint import CheckpointJob, measure_checkpoint
from infer.bench.questions import questions
from infer.bench.sampling import SamplingJob, measure_sampling
from infer.bench.steps import ShapeJob, measure_shape
from infer.bench.trees import DEFAULT_TREES, parse_trees
from infer.prompts import define_prompt_file
from medusa_jax.cli.console import note
from medusa_jax.cli.model_flags import define_medusa, define_mesh, define_model, define_quantize
from medusa_jax.cli.run import run_main, setup_compilation_cache
from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_json
from medusa_jax.io.load import DTYPES
from medusa_jax.mesh import parse_mesh
from medusa_jax.model_shapes import SHAPES

_MODEL = define_model()
_MEDUSA = define_medusa()
_PROMPT_FILE = define_prompt_file(default="Default: eight built-in questions.")
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", 64, "Longest answer to each prompt, in tokens.", lower_bound=1
)
_TREES = flags.DEFINE_string(
    "trees",
    None,
    "Trees to compare, separated by commas: auto, NAME:N (the first N nodes of a preset), NAME, "
    "chain:K or a JSON file; a bare :N repeats the name before it. Default: those of "
    f"{DEFAULT_TREES} that the model has heads for; with --shape, 8 to 128 nodes.",
)
_DTYPES = flags.DEFINE_list(
    "dtypes",
    None,
    "float32, bfloat16, float16 or several, separated by commas. Default: the first two; with "
    "--shape, bfloat16.",
)
_MESH, _QUANTIZE = define_mesh(), define_quantize()
_ROUNDS = flags.DEFINE_integer(
    "rounds", 3, "How often to repeat everything; medians are reported.", lower_bound=1
)
_VERIFY = flags.DEFINE_boolean(
    "verify",
    False,
    "Compare every emitted token with the choice of the base model in float32, and report the "
    "largest difference between their logits.",
)
_SAMPLING = flags.DEFINE_integer(
    "sampling",
    None,
    "Measure tokens per step of exact sampling, with this many answers to each prompt.",
    lower_bound=1,
)
_BATCHES = flags.DEFINE_integer(
    "batches",
    None,
    "Measure the throughput of 64 prompts with budgets from 16 to 256 tokens on this many rows: "
    "rows that are refilled as they end against batches that stay together.",
    lower_bound=1,
)
_SHAPE = flags.DEFINE_enum(
    "shape", None, list(SHAPES), "Measure random weights of this shape instead of a real model."
)
_BATCH_SIZES = flags.DEFINE_list(
    "batch_sizes", ["1"], "With --shape: rows to decode at the same time, separated by commas."
)
_CONTEXTS = flags.DEFINE_list(
    "contexts", ["512"], "With --shape: tokens in each row's prompt, separated by commas."
)
_MINUTES = flags.DEFINE_float(
    "minutes",
    None,
    "With --shape: begin no batch that would not be done after so many minutes, if it takes as "
    "long as the longest one before. Default: no limit.",
    lower_bound=0.0,
)
_HEADS = flags.DEFINE_enum(
    "heads",
    "shared",
    ["shared", "own"],
    "With --shape: whether the five heads share the LM head (format C) or each has a projection of "
    "its own (format A).",
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file to write: all numbers, with device, versions, commit and command."
)

# What does not go with a mode.
_WITHOUT = {
    "shape": (_MODEL, _MEDUSA, _PROMPT_FILE, _MAX_NEW_TOKENS, _VERIFY),
    "sampling": (_VERIFY, _ROUNDS),
    "batches": (_MAX_NEW_TOKENS, _VERIFY),
}
_SHAPE_FLAGS = (_BATCH_SIZES, _CONTEXTS, _MINUTES, _HEADS)


def main(argv: list[str]) -> None:
    """Measures, prints tables and writes the report."""
    del argv
    _check_flags()
    target = None if _OUTPUT.value is None else check_output(_OUTPUT.value)
    around = environment("infer.benchmark")
    _warn_if_busy(around)
    mode, measure, show = _mode()
    report = {"mode": mode} | around | measure()
    if target is not None:
        write_json(target, report)
    show(report)


def _mode() -> tuple[str, Callable[[], dict[str, Any]], Callable[[dict[str, Any]], None]]:
    """The mode's name, what measures, and what prints."""
    if _SHAPE.value:
        return "shape", partial(_measure_shape, _SHAPE.value), tables.print_shape
    if _SAMPLING.value:
        return "sampling", partial(_measure_sampling, _SAMPLING.value), tables.print_sampling
    if _BATCHES.value:
        return "batches", partial(_measure_batches, _BATCHES.value), tables.print_batches
    return "checkpoint", _measure_checkpoint, tables.print_checkpoint


def _warn_if_busy(around: dict[str, Any]) -> None:
    load, cores = around["load_average"], around["cores"]
    if load > cores / 2:
        note(f"the machine is busy (load {load:.1f}, {cores} cores): expect noisy numbers")


def _check_flags() -> None:
    modes = [flag for flag in (_SHAPE, _SAMPLING, _BATCHES) if flag.value is not None]
    if len(modes) > 1:
        raise UserError(
            f"--{modes[0].name} and --{modes[1].name} measure different things: give one"
        )
    for flag in () if _SHAPE.value else _SHAPE_FLAGS:
        if flag.present:
            raise UserError(f"--{flag.name} only works with --shape: see --help")
    for mode in modes:
        for flag in _WITHOUT[mode.name]:
            if flag.present:
                raise UserError(f"--{flag.name} only works without --{mode.name}: see --help")
    if modes and not _SHAPE.value and len(_DTYPES.value or ()) > 1:
        raise UserError(f"--{modes[0].name} measures one number format: give --dtypes only one")
    if _MESH.value is not None:
        parse_mesh(_MESH.value)  # before anything is downloaded
    if _SAMPLING.value and len(_trees() or ()) > 1:
        raise UserError("--sampling measures one tree: give --trees only one")
    for dtype in _DTYPES.value or ():
        if dtype not in DTYPES:
            raise UserError(f"--dtypes has {dtype!r}: choose from {', '.join(DTYPES)}")


def _measure_shape(shape: str) -> dict[str, Any]:
    setup_compilation_cache()
    job = ShapeJob(
        shape=shape,
        trees=_trees(),
        dtypes=_dtypes("bfloat16"),
        heads=_HEADS.value,
        rounds=_ROUNDS.value,
        batch_sizes=_numbers(_BATCH_SIZES),
        contexts=_numbers(_CONTEXTS),
        mesh=_MESH.value,
        quantize=_QUANTIZE.value,
        minutes=_MINUTES.value,
    )
    return measure_shape(job)


def _measure_checkpoint() -> dict[str, Any]:
    setup_compilation_cache()
    job = CheckpointJob(
        **_model(),
        prompts=questions(_PROMPT_FILE.value),
        trees=_trees(),
        dtypes=_dtypes("float32", "bfloat16"),
        max_new_tokens=_MAX_NEW_TOKENS.value,
        rounds=_ROUNDS.value,
        verify=_VERIFY.value,
    )
    return measure_checkpoint(job)


def _measure_sampling(seeds: int) -> dict[str, Any]:
    setup_compilation_cache()
    job = SamplingJob(
        **_model(),
        prompts=questions(_PROMPT_FILE.value),
        tree=(_trees() or [None])[0],
        dtype=_dtypes("float32")[0],
        max_new_tokens=_MAX_NEW_TOKENS.value,
        seeds=seeds,
    )
    return measure_sampling(job)


def _measure_batches(rows: int) -> dict[str, Any]:
    setup_compilation_cache()
    job = BatchesJob(
        **_model(),
        prompts=questions(_PROMPT_FILE.value),
        trees=_trees(),
        dtype=_dtypes("float32")[0],
        batch_size=rows,
        rounds=_ROUNDS.value,
    )
    return measure_batches(job)


def _model() -> dict[str, Any]:
    """What to measure: fields of `ModelJob`."""
    return {flag.name: flag.value for flag in (_MODEL, _MEDUSA, _MESH, _QUANTIZE)}


def _numbers(flag: flags.FlagHolder[list[str]]) -> tuple[int, ...]:
    if not flag.value or not all(text.isdecimal() and int(text) for text in flag.value):
        raise UserError(
            f"--{flag.name} is {','.join(flag.value)}: give numbers from 1, separated by commas"
        )
    return tuple(dict.fromkeys(map(int, flag.value)))


def _trees() -> list[str] | None:
    return None if _TREES.value is None else parse_trees(_TREES.value)


def _dtypes(*default: str) -> list[str]:
    return list(dict.fromkeys(_DTYPES.value or default))


def run() -> None:
    """Entry point of `medusa-benchmark`."""
    run_main(main)


if __name__ == "__main__":
    run()
