"""What a person sees: texts on stdout, everything about them on stderr."""

import sys
import time
from collections.abc import Iterable, Sequence

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from medusa_jax import Generation, GenerationConfig, MedusaLM, StreamEvent
from medusa_jax.chat import Encoded
from medusa_jax.cli.console import make_console, note
from medusa_jax.decoding.auto import auto_choice
from medusa_jax.tuning.choose import Choice

_STEP_STYLES = ("cyan", "magenta")


def describe_model(lm: MedusaLM, name: str) -> None:
    """Says on stderr what is about to decode."""
    heads = "no heads"
    if lm.heads_config is not None:
        heads = f"{lm.heads_config.num_heads} heads, tree of {lm.tree.R} nodes"
        if lm.auto:
            heads = f"{lm.heads_config.num_heads} heads"
        elif lm.tree.R == 1:
            heads = f"plain decoding (--tree chain:{lm.heads_config.num_heads} uses the heads)"
    note(f"{name}: {lm.dtype} on {lm.platform}, {heads}")


def describe_choice(
    lm: MedusaLM, config: GenerationConfig, batch_size: int, prompts: Sequence[Encoded]
) -> None:
    """Says on stderr which tree decoding begins with, and why; arguments as of `first_choice`."""
    choice = first_choice(lm, config, batch_size, prompts)
    if choice is not None:
        note(str(choice))


def first_choice(
    lm: MedusaLM, config: GenerationConfig, batch_size: int, prompts: Sequence[Encoded]
) -> Choice | None:
    """The tree that decoding begins with, if it has the choice.

    Args:
      lm: the model.
      config: the options of decoding.
      batch_size: rows that decode at the same time.
      prompts: those known already; the longest one counts.
    """
    if lm.auto and lm.heads_config is not None:
        longest = max((len(prompt.ids) for prompt in prompts), default=0) + config.max_new_tokens
        longest = min(longest, config.max_context or longest, lm.config.max_position)
        return auto_choice(lm, config, batch_size, longest)
    return None


def show_error(error: Exception) -> None:
    """One line on stderr, as a command that ends with an error writes it."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)


def announce(title: str) -> None:
    """Separates the texts of several answers, on stderr; an empty title separates nothing."""
    if title:
        note(f"--- {title}")


def progress_bar() -> Progress:
    """A bar on stderr, in a terminal only, that leaves nothing behind.

    Its tasks may have a field `remark`, which stands at the end. The bar moves when it is told to
    refresh: a thread that kept it moving would disturb what is measured.
    """
    console = make_console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        _Remark(),
        console=console,
        transient=True,
        auto_refresh=False,
        disable=not console.is_terminal,
    )


class _Remark(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields.get("remark", ""))


class StepPrinter:
    """Prints an answer on stdout as it grows; in a terminal the colour changes with every step."""

    def __init__(self) -> None:
        self._console = make_console()
        self.coloured = self._console.is_terminal and self._console.color_system is not None
        self._shown: list[str] = []

    def add(self, piece: str) -> None:
        """Prints what one step added."""
        if not piece:
            return
        style = _STEP_STYLES[len(self._shown) % len(_STEP_STYLES)]
        if self.coloured:
            self._console.print(Text(piece, style), end="", soft_wrap=True)
        else:  # the very characters, for whoever reads the pipe
            self._console.file.write(piece)
        self._console.file.flush()
        self._shown.append(piece)

    def finish(self, text: str) -> None:
        """Prints what is still missing, such as an unfinished character, and a line end."""
        shown = "".join(self._shown)
        self.add(text.removeprefix(shown) if text.startswith(shown) else "")
        print_text("")


class LiveRates:
    """Speed of an answer while it grows, in the title of the terminal, where it hides no text."""

    def __init__(self) -> None:
        self._console = make_console(stderr=True)
        self._begin, self._first = 0.0, 0
        self._steps = self._tokens = 0

    def add(self, event: StreamEvent) -> None:
        """Counts the tokens of a step; the prompt's pass must not be given."""
        now = time.perf_counter()
        if not self._steps:  # it may have waited for the compiler, so its time does not count
            self._begin, self._first = now, len(event.token_ids)
        self._steps, self._tokens = self._steps + 1, self._tokens + len(event.token_ids)
        title = f"{self._tokens / self._steps:.2f} tokens per step"
        if self._steps > 1:
            speed = (self._tokens - self._first) / (now - self._begin)
            title += f", {speed:.1f} tokens/s"
        self._console.set_window_title(title)


def print_steps(events: Iterable[StreamEvent]) -> Generation:
    """Prints an answer as it grows.

    Args:
      events: of one answer, all of them.
    """
    printer = StepPrinter()
    for event in events:
        printer.add(event.text)
        if event.result is not None:
            printer.finish(event.result.text)
            return event.result
    raise AssertionError("an answer ends with its result")


def print_text(text: str) -> None:
    """A whole answer on stdout."""
    print(text, flush=True)
