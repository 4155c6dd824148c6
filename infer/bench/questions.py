"""What the benchmark asks when it is given no prompts."""

from infer.prompts import read_prompt_file
from medusa_jax.chat import Prompt

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


def questions(file: str | None) -> list[Prompt]:
    """The prompts of a file, see `read_prompt_file`; None: the built-in ones."""
    return list(QUESTIONS) if file is None else read_prompt_file(file)
