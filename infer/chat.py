"""A conversation with a language model in the terminal, sped up by its Medusa heads.

Examples:
  The default model, which keeps the conversation's keys and values between turns:
    python -m infer.chat --system "Answer in one sentence."

  Your own model and heads, sampled:
    python -m infer.chat --model lmsys/vicuna-7b-v1.3 \\
      --medusa FasterDecoding/medusa-vicuna-7b-v1.3 --temperature 0.7

Every change of colour is one step of the model; the terminal's title shows the speed. Ctrl-C stops
an answer and keeps what it has so far; Ctrl-D ends the conversation. A backslash at the end of a
line continues the message on the next one. /help lists the commands. Messages may come through a
pipe. Answers go to stdout, everything else to stderr.
"""

import contextlib
import itertools
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

from absl import flags

from infer import display
from infer import flags as shared
from infer.conversation.commands import execute
from infer.conversation.lines import read_messages
from infer.conversation.talk import Talk
from infer.flags import MODEL, SYSTEM
from infer.prompts import check_text
from infer.totals import closing_line, totals
from medusa_jax import Generation, GenerationConfig, UserError
from medusa_jax.cli.console import note, waiting
from medusa_jax.cli.run import run_main, setup_compilation_cache
from medusa_jax.io.default_model import DEFAULT_MODEL_NAME

flags.adopt_module_key_flags(shared)

_MAX_NEW_TOKENS = 512  # in a conversation nobody wants to be cut short


def main(argv: list[str]) -> None:
    """Loads the model, then takes turns with the person until the conversation ends."""
    del argv
    config = GenerationConfig(**shared.decoding_options())
    system = None if SYSTEM.value is None else check_text(SYSTEM.value, "--system")
    setup_compilation_cache()
    lm = shared.load_lm()
    talk = Talk(lm, config, system)
    display.describe_model(lm, MODEL.value or DEFAULT_MODEL_NAME)
    display.describe_choice(lm, config, 1, [])
    if sys.stdin.isatty():
        note("Ctrl-C stops an answer, Ctrl-D ends, /help lists commands")
    for message in read_messages():
        if not _take(talk, message):
            break


def _take(talk: Talk, message: str) -> bool:
    """Takes one message or command; returns whether the conversation goes on."""
    try:
        if message.startswith("/"):
            said = execute(talk, check_text(message, "the command"))
            if said is None:
                return False
            note(said)
        elif message.strip():
            _answer(talk, check_text(message, "the message"))
    except UserError as error:
        display.show_error(error)
    return True


def _answer(talk: Talk, message: str) -> None:
    printer, result = display.StepPrinter(), None
    events = talk.ask(message)
    with contextlib.suppress(KeyboardInterrupt), _heeding_interrupts() as stop:
        with waiting("Running the prompt"):  # and compiling, the first time
            first = next(events)
        rates = display.LiveRates()
        for event in itertools.chain([first], events):
            printer.add(event.text)
            if event is not first:
                rates.add(event)
            result = event.result
            if stop.is_set():
                break
    events.close()
    printer.finish(result.text if result else "")
    note(_remark(talk, result) if result else "stopped")


def _remark(talk: Talk, result: Generation) -> str:
    """What an answer took, and that the conversation before it was not run again."""
    run = f"{talk.new_tokens} tokens were run before the first in {result.prefill_seconds:.2f} s"
    cut = ", cut off" if result.finish_reason == "length" else ""
    return f"{closing_line(totals([result]))}; {run}{cut}"


@contextlib.contextmanager
def _heeding_interrupts() -> Iterator[threading.Event]:
    """Ctrl-C sets the event that is yielded; a second one interrupts as usual.

    So an answer ends between two steps, where what has been computed can be kept.
    """
    stop = threading.Event()

    def heed(*where: Any) -> None:
        if stop.is_set():
            signal.default_int_handler(*where)
        stop.set()

    before = signal.signal(signal.SIGINT, heed)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def run() -> None:
    """Entry point of `medusa-chat`."""
    flags.FLAGS.set_default("max_new_tokens", _MAX_NEW_TOKENS)
    run_main(main)


if __name__ == "__main__":
    run()
