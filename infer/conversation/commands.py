"""What begins with a slash: commands about the conversation, instead of a message in it."""

import dataclasses
from collections.abc import Callable

from infer.conversation.talk import Talk
from medusa_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      usage: how it is written, with the name of its argument if it takes one.
      purpose: what it does, for /help.
      run: does it, and returns what there is to say about it; None ends the conversation.
    """

    usage: str
    purpose: str
    run: Callable[[Talk, str], str | None]

    @property
    def name(self) -> str:
        """Its first word."""
        return self.usage.split()[0]

    @property
    def takes_argument(self) -> bool:
        """Whether it needs one."""
        return " " in self.usage


def execute(talk: Talk, line: str) -> str | None:
    """Runs the command of a line.

    Returns:
      What there is to say about it; None ends the conversation.

    Raises:
      UserError: there is no such command, or it cannot do what it is asked.
    """
    name, _, argument = line.strip().partition(" ")
    command = next((command for command in COMMANDS if command.name == name), None)
    if command is None:
        raise UserError(
            f"unknown command {name}: /help lists all, and how to begin a message with a slash"
        )
    if bool(argument.strip()) != command.takes_argument:
        raise UserError(f"write {command.usage}")
    return command.run(talk, argument.strip())


def _help(talk: Talk, argument: str) -> str:
    del talk, argument
    width = max(len(command.usage) for command in COMMANDS)
    lines = [f"{command.usage:{width}}  {command.purpose}" for command in COMMANDS]
    continued = "\\".ljust(width) + "  at the end of a line: the message goes on with the next one"
    slash = "a space".ljust(width) + "  at the beginning: for a message that begins with a slash"
    return "\n".join([*lines, continued, slash])


def _reset(talk: Talk, argument: str) -> str:
    del argument
    talk.reset()
    return "a new conversation"


def _save(talk: Talk, argument: str) -> str:
    return f"wrote {talk.save(argument)}"


def _tree(talk: Talk, argument: str) -> str:
    talk.use_tree(argument)
    return talk.describe_tree()


def _stats(talk: Talk, argument: str) -> str:
    del argument
    return talk.describe()


def _exit(talk: Talk, argument: str) -> None:
    del talk, argument


COMMANDS = (
    Command("/reset", "forget the conversation and begin a new one", _reset),
    Command("/save FILE", "write the conversation, as a row for --prompt_file or training", _save),
    Command("/tree SPEC", "go on with another tree, written as for --tree", _tree),
    Command("/stats", "tokens, steps and speed so far, and how full the context is", _stats),
    Command("/help", "this list", _help),
    Command("/exit", "end, as Ctrl-D does", _exit),
)
