"""What a kind of prompts is, and follow-up questions that many kinds share."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of prompts.

    Attributes:
      name: begins the ids of its prompts.
      sort: of the texts that it is about, see `material.read_sharegpt`; None: it needs none.
      share: of 1000 prompts.
      templates: first questions; {text} stands for the text, other slots for `topics.TOPICS`.
      follow_ups: a third of the prompts go on with one of these.
    """

    name: str
    sort: str | None
    share: int
    templates: tuple[str, ...]
    follow_ups: tuple[str, ...] = ()


SHORTER = (
    "Make it shorter.",
    "Can you say that in one sentence?",
    "Now put it more simply, for a child.",
    "Rewrite it in a more formal tone.",
    "Now as a list of bullet points.",
)
MORE = (
    "Can you give an example?",
    "Why is that?",
    "Explain it to a ten-year-old.",
    "Summarize your answer in one sentence.",
    "Are you sure? Check your answer.",
    "Give me three more.",
    "Name one exception.",
)
ABOUT_CODE = (
    "Add comments to the code.",
    "What is its time complexity?",
    "Can you write a test for it?",
    "How would it look in {other_computer_language}?",
    "What happens if the input is empty?",
)
