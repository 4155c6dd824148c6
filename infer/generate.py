"""Answers prompts with a language model, through Medusa heads where there are some.

Examples:
  The default model and the heads made for it, beside plain decoding:
    python -m infer.generate --compare --prompt "Why is the sky blue?"

  Your own model and heads (folder, GGUF file or hub id), 64 tokens, sampled:
    python -m infer.generate --model lmsys/vicuna-7b-v1.3 \\
      --medusa FasterDecoding/medusa-vicuna-7b-v1.3 --prompt "Tell me a joke." \\
      --max_new_tokens 64 --temperature 0.7

  Many prompts, eight at a time, results and measurements into a file:
    python -m infer.generate --prompt_file questions.jsonl --batch_size 8 --output answers.jsonl

Texts and the table of --compare go to stdout, everything else to stderr.
"""

import dataclasses
import sys
from typing import Any

from absl import flags

from infer import answers, display
from infer.answers import Job
from infer.compare import compare
from infer.output import write_rows
from infer.prompt_file import check_text, read_prompt_file
from infer.report import report
from medusa_jax import Generation, GenerationConfig, MedusaLM, UserError, load
from medusa_jax.chat import Prompt
from medusa_jax.cli import run_main, setup_compilation_cache
from medusa_jax.io.atomic import check_output
from medusa_jax.io.default_model import DEFAULT_MODEL_NAME
from medusa_jax.tree.presets import load_tree

_DEFAULTS = GenerationConfig()
_SMALL_TREE = "mc_sim_7b_63:6"  # the least slow tree of a CPU in float32

_MODEL = flags.DEFINE_string(
    "model",
    None,
    "Hugging Face folder, hub id or GGUF file. Default: SmolLM2-135M-Instruct, downloaded once.",
)
_MEDUSA = flags.DEFINE_string(
    "medusa",
    None,
    "Folder, file or hub id with Medusa heads; 'none' decodes without (autoregressive). Default: "
    "heads found beside the model, or the shipped ones for the default model.",
)
_PROMPT = flags.DEFINE_multi_string("prompt", None, "A prompt; repeat the flag for more of them.")
_PROMPT_FILE = flags.DEFINE_string(
    "prompt_file",
    None,
    "File of prompts: a .txt file is one prompt; each row of a .jsonl file has 'prompt' (text), "
    "'messages' (a list of {role, content}) or 'turns' (texts, of which the first is asked).",
)
_CHAT = flags.DEFINE_boolean(
    "chat",
    None,
    "Apply the tokenizer's chat template: the prompt is the user's message. Default: when the "
    "tokenizer has one.",
)
_MAX_NEW_TOKENS = flags.DEFINE_integer(
    "max_new_tokens", _DEFAULTS.max_new_tokens, "Bound on the new tokens per prompt."
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", _DEFAULTS.temperature, "Of sampling, 0 or more; 0 decodes greedily."
)
_ACCEPTANCE = flags.DEFINE_enum(
    "acceptance",
    None,
    ["greedy", "typical"],
    "Which proposed tokens are accepted: those of greedy decoding, or typical ones (Medusa paper, "
    "section 2.3.1). Default: greedy at temperature 0, typical above.",
)
_EPSILON = flags.DEFINE_float(
    "epsilon",
    _DEFAULTS.epsilon,
    "Typical acceptance: hard threshold of the probability, between 0 and 1; larger is stricter.",
)
_DELTA = flags.DEFINE_float(
    "delta",
    _DEFAULTS.delta,
    "Typical acceptance: factor of the threshold that falls with the entropy, above 0.",
)
_SAMPLED_ROOT = flags.DEFINE_boolean(
    "sampled_root",
    None,
    "Typical acceptance: draw the first token of each step instead of taking the most likely one. "
    "Default: only when decoding without heads.",
)
_TREE = flags.DEFINE_string(
    "tree",
    None,
    "What each step proposes: a preset such as mc_sim_7b_63, PRESET:N for its first N nodes, a "
    "JSON file with a list of paths, or chain:K for the best token of K heads. Default: what was "
    "measured to be fastest on this kind of device; on a CPU in float32 that is chain:0, plain "
    "decoding, and mc_sim_7b_63:6 with --compare.",
)
_SEED = flags.DEFINE_integer(
    "seed", _DEFAULTS.seed, "Of sampling.", lower_bound=0, upper_bound=2**32 - 1
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    ["float32", "bfloat16"],
    "Of parameters and computation. Default: float32 on a CPU, bfloat16 elsewhere.",
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 1, "Prompts that are decoded at the same time.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "JSON-lines file: one row per prompt, in order, with text, tokens and measurements (seconds). "
    "Written at the end, and only when everything went well.",
)
_COMPARE = flags.DEFINE_boolean(
    "compare", False, "Decode autoregressively too, and compare texts, steps and time."
)
_STREAM = flags.DEFINE_boolean(
    "stream",
    None,
    "Print text as it is accepted. Default: in a terminal, with one prompt at a time.",
)


def main(argv: list[str]) -> None:
    """Answers what the flags ask for."""
    del argv
    job = _job()
    streaming = _streaming()
    output = check_output(_OUTPUT.value) if _OUTPUT.value is not None else None
    lm = _load()
    answers.check_prompts(lm, job)
    display.describe_model(lm, _MODEL.value or DEFAULT_MODEL_NAME)
    if _COMPARE.value:
        rows = _compare(lm, job, streaming)
    else:
        rows = [dataclasses.asdict(result) for result in _answer(lm, job, streaming)]
    if output is not None:
        write_rows(output, rows)
        display.note(f"wrote {output}")


def _job() -> Job:
    options: dict[str, Any] = {
        "max_new_tokens": _MAX_NEW_TOKENS.value,
        "temperature": _TEMPERATURE.value,
        "acceptance": _ACCEPTANCE.value,
        "epsilon": _EPSILON.value,
        "delta": _DELTA.value,
        "sampled_root": _SAMPLED_ROOT.value,
        "seed": _SEED.value,
    }
    GenerationConfig(**options)  # refuses what is out of range before the model loads
    return Job(_prompts(), _BATCH_SIZE.value, _CHAT.value, options)


def _prompts() -> list[Prompt]:
    prompts: list[Prompt] = [check_text(text, "--prompt") for text in _PROMPT.value or ()]
    if _PROMPT_FILE.value is not None:
        prompts += read_prompt_file(_PROMPT_FILE.value)
    if not prompts:
        raise UserError('nothing to answer: give --prompt "..." or --prompt_file FILE')
    if _CHAT.value is False and not all(isinstance(prompt, str) for prompt in prompts):
        raise UserError("rows with messages need the chat template: leave out --nochat")
    return prompts


def _streaming() -> bool:
    if _STREAM.value and _BATCH_SIZE.value > 1:
        raise UserError("--stream shows one answer at a time: leave out --batch_size")
    if _STREAM.value is None:
        return _BATCH_SIZE.value == 1 and sys.stdout.isatty()
    return _STREAM.value


def _load() -> MedusaLM:
    if _COMPARE.value and _MEDUSA.value == "none":
        raise UserError("--compare needs Medusa heads: leave out --medusa none")
    if _TREE.value is not None:
        load_tree(_TREE.value)  # a wrong tree is refused before the model loads
    setup_compilation_cache()
    lm = load(_MODEL.value, _MEDUSA.value, dtype=_DTYPE.value, tree=_TREE.value)
    if _COMPARE.value and _TREE.value is None and lm.tree.max_depth == 0 and lm.heads_config:
        return lm.with_tree(_SMALL_TREE if lm.heads_config.num_heads >= 3 else "chain:1")
    return lm


def _answer(lm: MedusaLM, job: Job, streaming: bool) -> list[Generation]:
    if streaming:
        results = answers.stream_answers(lm, job)
    elif _OUTPUT.value is None:
        results = answers.print_answers(job.run(lm), len(job.prompts))
    else:
        results = answers.collect_answers(lm, job)
    display.note(display.closing_line(results, job.batch_size))
    return results


def _compare(lm: MedusaLM, job: Job, streaming: bool) -> list[dict[str, Any]]:
    shown = answers.stream_answers(lm, job) if streaming else []
    comparison = compare(lm, job, shown)
    if not streaming and _OUTPUT.value is None:
        answers.print_answers(comparison.medusa, len(job.prompts))
    greedy = _TEMPERATURE.value == 0 and _ACCEPTANCE.value != "typical"
    display.make_console().print(report(lm, comparison, greedy=greedy))
    return comparison.rows()


def run() -> None:
    """Entry point of `medusa-generate`."""
    run_main(main)


if __name__ == "__main__":
    run()
