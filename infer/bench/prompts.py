"""What the benchmark asks: built-in questions, or a file of one's own."""

import json
from pathlib import Path

from infer.prompt_file import check_text, read_prompt_file
from medusa_jax.errors import UserError
from medusa_jax.prompts import Prompt

# Everyday questions of different kinds: heads guess lists and code better than free prose.
QUESTIONS: tuple[Prompt, ...] = (
    "Why does the moon show us the same side all the time?",
    "Write a short, friendly email that moves tomorrow's meeting to Thursday at ten.",
    "Write a Python function that returns the n-th Fibonacci number, and explain it.",
    "List five cheap and healthy breakfasts, with one sentence for each.",
    "A train leaves at 14:35 and arrives at 17:10. How long is the journey? Show your steps.",
    "Explain the difference between a virus and a bacterium to a ten-year-old.",
    "Tell a very short story about a lighthouse keeper who finds a message in a bottle.",
    "What should I keep in mind when I buy a used bicycle?",
)


def read_prompts(path: str | None) -> list[Prompt]:
    """The prompts to measure with.

    Args:
      path: None: the built-in questions; a file as in `infer.prompt_file`, or a `.jsonl` file of
        rows with `turns` (MT-bench), of which the first turn is asked.

    Raises:
      UserError: the file is missing or malformed (with the line).
    """
    if path is None:
        return list(QUESTIONS)
    return _read_turns(Path(path).expanduser()) or read_prompt_file(path)


def _read_turns(path: Path) -> list[Prompt]:
    """First turns, if every row of the file has turns; empty: it is another kind of file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, RecursionError):  # read_prompt_file says what is wrong
        return []
    if path.suffix.lower() != ".jsonl" or not all(
        isinstance(r, dict) and "turns" in r for r in rows
    ):
        return []
    return [_first_turn(row["turns"], f"{path}, row {n}") for n, row in enumerate(rows, start=1)]


def _first_turn(turns: object, where: str) -> str:
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], str):
        raise UserError(f'{where}: write "turns" as a list of strings that is not empty')
    return check_text(turns[0], where)
