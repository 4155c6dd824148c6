"""Answers prompts with a language model, sped up by its Medusa heads if it has some.

Examples:
  The default model with its heads, compared with plain decoding:
    python -m infer.generate --compare --prompt "Why is the sky blue?"

  Your own model and heads (folder, GGUF file or hub id), 64 tokens, sampled:
    python -m infer.generate --model lmsys/vicuna-7b-v1.3 \\
      --medusa FasterDecoding/medusa-vicuna-7b-v1.3 --prompt "Tell me a joke." \\
      --max_new_tokens 64 --temperature 0.7

  Many prompts, eight at a time, with answers and measurements written to a file:
    python -m infer.generate --prompt_file questions.jsonl --batch_size 8 --output answers.jsonl

Answers and the table of --compare go to stdout, everything else to stderr.
"""

import dataclasses
import sys
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags

from infer import answers, display
from infer import flags as shared
from infer.answers import Job
from infer.compare import compare, from_rows
from infer.compare_table import report
from infer.flags import DTYPE, MEDUSA, MESH, MODEL, QUANTIZE, SYSTEM, TREE
from infer.prompts import check_text, define_prompt_file, read_prompt_file, with_system
from infer.row_file import Rows, identify, open_rows
from infer.totals import closing_line, totals
from infer.tree_picture import most_used_tree, tree_picture
from medusa_jax import Generation, GenerationConfig, MedusaLM, UserError
from medusa_jax.chat import Prompt
from medusa_jax.cli.console import make_console, note
from medusa_jax.cli.run import run_main, setup_compilation_cache
from medusa_jax.decoding.runtime import Clock
from medusa_jax.io.atomic import check_output, write_text
from medusa_jax.io.default_model import DEFAULT_MODEL_NAME
from medusa_jax.paths import user_path
from medusa_jax.tree.build import Tree, build_tree
from medusa_jax.tree.dynamic import DynamicTree
from medusa_jax.tree.presets import load_fitting_tree

flags.adopt_module_key_flags(shared)
_SMALL_TREE = "mc_sim_7b_63:4"  # what --compare shows where plain decoding is chosen
_WIDE_TREE, _DEFAULT_MODEL_WIDE_TREE = "mc_sim_7b_63", "smollm2_135m_63"

_PROMPT = flags.DEFINE_multi_string("prompt", None, "A prompt; repeat the flag for more.")
_PROMPT_FILE = define_prompt_file()
_CHAT = flags.DEFINE_boolean(
    "chat",
    None,
    "Apply the tokenizer's chat template, with the prompt as the user's message. Default: if the "
    "tokenizer has a template.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 1, "How many prompts to decode at the same time.", lower_bound=1
)
_NUM_SAMPLES = flags.DEFINE_integer(
    "num_samples",
    1,
    "How many answers to give to each prompt (run only once); they differ above temperature 0.",
)
_LOGPROBS = flags.DEFINE_boolean(
    "logprobs",
    False,
    "With --output: add to each row the log-probabilities of its new tokens under the model itself "
    "(at temperature 1, among all tokens, without bias).",
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "JSON-lines file to write: one row per answer, in the order of the prompts, with text, tokens "
    "and measurements (in seconds). Rows are kept in FILE.part as they are done, and at the end "
    "become FILE, replacing an older one. After an interruption, rerun the same command to "
    "resume.",
)
_OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "With --output: start anew instead of resuming from FILE.part."
)
_COMPARE = flags.DEFINE_boolean(
    "compare",
    False,
    "Decode without Medusa too, and compare texts, steps and time. Where auto would begin with "
    "plain decoding, mc_sim_7b_63:4 is compared.",
)
_TREE_PICTURE = flags.DEFINE_string(
    "tree_picture",
    None,
    "SVG file to draw: the tree that most steps used, how often each node was accepted and, where "
    "rates are measured (python -m infer.tune), how often that was expected.",
)
_STREAM = flags.DEFINE_boolean(
    "stream",
    None,
    "Print text as soon as it is accepted. Default: in a terminal, with one prompt at a time.",
)


def main(argv: list[str]) -> None:
    """The path of a prompt: parse, load, encode once, decode, print."""
    del argv
    config, prompts, streaming = _config(), _prompts(), _streaming()
    _check_files()
    call = _call(config) if _OUTPUT.value is not None else {}
    asked = [prompt for prompt in prompts for _ in range(config.num_samples)]
    with open_rows(_OUTPUT.value, call, asked, overwrite=_OVERWRITE.value) as rows:
        lm = _load()
        rows.made_in(lm.dtype)
        if _TREE_PICTURE.value is not None and isinstance(lm.tree, DynamicTree):
            raise UserError("--tree_picture draws a fixed tree: leave out dynamic:N")
        encoded = answers.encode_prompts(lm, prompts, _CHAT.value, config.max_context)
        job = Job(encoded, _BATCH_SIZE.value, config, done=frozenset(rows.rows))
        if _COMPARE.value and TREE.value is None and answers.begins_plainly(lm, job):
            lm = _with_small_tree(lm)
        display.describe_model(lm, MODEL.value or DEFAULT_MODEL_NAME)
        display.describe_choice(lm, config, job.rows, encoded)
        (_compare if _COMPARE.value else _answer)(lm, job, rows, streaming)
        if _TREE_PICTURE.value is not None:
            write_text(check_output(_TREE_PICTURE.value), _picture(lm, config, rows.in_order()))
            note(f"wrote {_TREE_PICTURE.value}")


def _check_files() -> None:
    """Refuses flags that name one file, of which one would replace what the other stands for."""
    named: dict[Path, str] = {}
    if _PROMPT_FILE.value is not None:
        named[user_path(_PROMPT_FILE.value).resolve()] = _PROMPT_FILE.name
    for flag in (_OUTPUT, _TREE_PICTURE):
        if flag.value is None:
            continue
        other = named.setdefault(check_output(flag.value), flag.name)
        if other != flag.name:
            raise UserError(f"--{other} and --{flag.name} name the same file: name two")


def _config() -> GenerationConfig:
    if _LOGPROBS.value and _OUTPUT.value is None:
        raise UserError("--logprobs only works with --output: see --help")
    if _COMPARE.value and _NUM_SAMPLES.value > 1:
        raise UserError("--compare measures one answer to each prompt: leave out --num_samples")
    own: dict[str, Any] = {flag.name: flag.value for flag in (_NUM_SAMPLES, _LOGPROBS)}
    return GenerationConfig(**shared.decoding_options(), **own)


def _prompts() -> list[Prompt]:
    prompts: list[Prompt] = [check_text(text, "--prompt") for text in _PROMPT.value or ()]
    if _PROMPT_FILE.value is not None:
        prompts += read_prompt_file(_PROMPT_FILE.value)
    if not prompts:
        raise UserError('nothing to answer: give --prompt "..." or --prompt_file FILE')
    if _CHAT.value is False and not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError("rows with messages need the chat template: leave out --nochat")
    if SYSTEM.value is None:
        return prompts
    if _CHAT.value is False:
        raise UserError("--system needs the chat template: leave out --nochat")
    return [with_system(prompt, check_text(SYSTEM.value, "--system")) for prompt in prompts]


def _streaming() -> bool:
    if _OVERWRITE.value and _OUTPUT.value is None:
        raise UserError("--overwrite only works with --output: see --help")
    if _STREAM.value and _BATCH_SIZE.value > 1:
        raise UserError("--stream shows one answer at a time: leave out --batch_size")
    if _STREAM.value is None:
        return _BATCH_SIZE.value == 1 and sys.stdout.isatty()
    return _STREAM.value


def _call(config: GenerationConfig) -> dict[str, Any]:
    """What the rows depend on besides the prompts: only a rerun with the same resumes them."""
    names = {flag.name: identify(flag.value) for flag in (MODEL, MEDUSA, TREE)}
    options = {key: value for key, value in vars(config).items() if key not in names}
    own = (_CHAT, _BATCH_SIZE, _COMPARE)
    others = {flag.name: flag.value for flag in (DTYPE, QUANTIZE, MESH, *own)}
    fields = [field.name for field in dataclasses.fields(Generation)]
    # The platform of the process, since the file is looked at before the model is loaded.
    around = {"platform": jax.default_backend(), "fields": fields}
    return names | options | others | around


def _load() -> MedusaLM:
    if _COMPARE.value and MEDUSA.value == "none":
        raise UserError("--compare needs Medusa heads: leave out --medusa none")
    setup_compilation_cache()
    with warnings.catch_warnings():
        if _COMPARE.value:  # no heads: an error follows
            warnings.filterwarnings("ignore", "no Medusa heads")
        lm = shared.load_lm()
    if not _COMPARE.value:
        return lm
    if lm.heads_config is None:
        raise UserError(
            f"--compare needs Medusa heads, and there are none beside {MODEL.value}: name them "
            "with --medusa"
        )
    return lm


def _with_small_tree(lm: MedusaLM) -> MedusaLM:
    assert lm.heads_config is not None
    num_heads, vocab_size = lm.heads_config.num_heads, lm.heads_config.vocab_size
    return lm.with_tree(load_fitting_tree(_SMALL_TREE, num_heads, vocab_size))


def _picture(lm: MedusaLM, config: GenerationConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    acceptance = lm.measured.acceptance
    rates = acceptance.at(config.temperature) if acceptance else None
    paths, accepted = most_used_tree(rows)
    return tree_picture(build_tree(paths), rates, accepted)


def _answer(lm: MedusaLM, job: Job, rows: Rows, streaming: bool) -> None:
    clock = None if streaming else Clock()
    if clock is None:
        results = answers.stream_answers(lm, job)
    elif _OUTPUT.value is None:
        results = answers.print_answers(lm, job, clock)
    else:
        results = answers.collect_answers(lm, job, clock)
    done = []
    for place, result in results:
        rows.add({place: dataclasses.asdict(result)})
        done.append(result)
    if done:
        note(closing_line(totals(done, clock)))


def _compare(lm: MedusaLM, job: Job, rows: Rows, streaming: bool) -> None:
    show = partial(answers.stream_answer, lm, job) if streaming else None
    for measured in compare(lm, job, show, _wide_tree(lm)):
        rows.add(measured)
    comparison = from_rows(rows.rows)
    if not streaming and _OUTPUT.value is None:
        for index, result in enumerate(comparison.medusa):
            answers.show_answer(job, index, result)
    plainly = answers.begins_plainly(lm, job)
    make_console().print(report(lm, comparison, rule=job.config.rule, plainly=plainly))


def _wide_tree(lm: MedusaLM) -> Tree | None:
    """On a CPU, the tree that an accelerator would use and that does not pay here."""
    if lm.platform != "cpu" or lm.heads_config is None:
        return None
    name = _WIDE_TREE if MEDUSA.value or MODEL.value else _DEFAULT_MODEL_WIDE_TREE
    tree = load_fitting_tree(name, lm.heads_config.num_heads, lm.heads_config.vocab_size)
    return tree if tree.R > lm.tree.R else None


def run() -> None:
    """Entry point of `medusa-generate`."""
    run_main(main)


if __name__ == "__main__":
    run()
