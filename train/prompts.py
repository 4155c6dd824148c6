"""Writes prompts of many kinds, for a model to answer with train.self_distill.

Examples:
  Prompts to learn from, in ShareGPT's format:
    python -m train.prompts --output prompts.jsonl --problems gsm8k_train.jsonl

  200 of the same kinds, from other material, to choose trees and recipes on:
    python -m train.prompts --output held_out_kinds.jsonl --problems gsm8k_train.jsonl \\
      --part choose --count 200

Shares in percent: first 14, turns 8.5, problem 7, summary 6, heading 2, rewriting 5, extraction 5,
reading 5, continuation 2, translation 6, sentence 2, spelling 2, code 3.5, explanation 3.5, program
3.5, science 3, fact 3.5, list 3.5, sum 3.5, review 1.5, writing 4.5, role 3.5, logic 2. A third of
the prompts go on with a second question; those of "turns" are two to four questions of one
conversation.

Texts come from ShareGPT's questions and answers and, with --problems, from GSM8K; topics, and what
is asked about the texts, come from lists of our own. The parts share no conversation, no problem
and no topic of a long list: each belongs to one part, by its hash, whatever else there is. Lists of
fewer than 20 (languages, tones, addressees) are common to all parts. Make nothing of "final" before
everything is chosen. Conversations that training holds out (config.held_out=0.02) belong to no
part, nor do the first 100 problems, which train.report measures on.

An id gives the kind, and the row of ShareGPT that the text is from: "summary:QWJhYvA_11.4.20". Any
stretch of the file is a fair mix. The same command makes the same file.
"""

import json

from absl import flags

from medusa_jax.cli.run import run_main
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_text
from medusa_jax.paths import user_path
from train.data import sharegpt
from train.distill.kinds.material import Text, read_problems, read_sharegpt
from train.distill.kinds.mix import Mix
from train.distill.kinds.parts import PARTS

_OUTPUT = flags.DEFINE_string("output", None, "File of JSON lines to write.")
_CONVERSATIONS = flags.DEFINE_string(
    "conversations",
    "sharegpt",
    "ShareGPT-format JSON or JSON lines (.gz, .xz), or 'sharegpt': its sample.",
)
_PROBLEMS = flags.DEFINE_string("problems", None, "GSM8K's training problems, as JSON lines.")
_LEAVE_OUT = flags.DEFINE_list(
    "leave_out", [], "ShareGPT-format files of conversations to leave out, comma-separated."
)
_PART = flags.DEFINE_enum("part", "train", PARTS, "Which part of the material to use.")
_COUNT = flags.DEFINE_integer(
    "count", 24_000, "Prompts in total, if there is material for that many.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of all choices.", lower_bound=0)
_DATA_ERRORS = flags.DEFINE_enum(
    "data_errors", "stop", sharegpt.DATA_ERRORS, "What to do about malformed rows."
)


def main(argv: list[str]) -> None:
    """Writes the file."""
    del argv
    if not _OUTPUT.value:
        raise UserError("--output is needed: the file to write")
    path = check_output(_OUTPUT.value)
    mix = Mix(_read_texts(), _PART.value, _SEED.value)
    made = mix.prompts(_COUNT.value)
    prompts = mix.shuffled(made)
    if not prompts:
        raise UserError(f"there is no material for part {_PART.value}: give more conversations")
    # ASCII: U+2028 and its like would end the line for some readers.
    write_text(path, "".join(json.dumps(prompt.row()) + "\n" for prompt in prompts))
    print(f"{path}: {len(prompts):,} prompts")
    print(", ".join(f"{len(of_kind):,} {kind}" for kind, of_kind in made.items()))


def _read_texts() -> dict[str, list[Text]]:
    is_sample = _CONVERSATIONS.value == "sharegpt"
    texts = read_sharegpt(
        sharegpt.sharegpt_path() if is_sample else user_path(_CONVERSATIONS.value),
        "skip" if is_sample else _DATA_ERRORS.value,
        _PART.value,
        [user_path(name) for name in _LEAVE_OUT.value],
    )
    if _PROBLEMS.value:
        texts["problem"] = read_problems(user_path(_PROBLEMS.value), _PART.value)
    return texts


def run() -> None:
    """Entry point."""
    run_main(main)


if __name__ == "__main__":
    run()
