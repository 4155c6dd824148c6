import pytest

from infer.conversation.commands import COMMANDS, execute
from medusa_jax import UserError


class Recorder:
    """A conversation that only notes what is asked of it."""

    def __init__(self):
        self.calls = []

    def reset(self):
        self.calls.append("reset")

    def save(self, path):
        self.calls.append(("save", path))
        return path

    def use_tree(self, spec):
        self.calls.append(("tree", spec))

    def describe_tree(self):
        return "tree of 3 nodes"

    def describe(self):
        return "2 answers"


@pytest.mark.parametrize(
    ("line", "said", "calls"),
    [
        ("/reset", "a new conversation", ["reset"]),
        ("/save my file.jsonl ", "wrote my file.jsonl", [("save", "my file.jsonl")]),
        ("/tree  chain:2", "tree of 3 nodes", [("tree", "chain:2")]),
        ("  /stats", "2 answers", []),
        ("/exit", None, []),
    ],
)
def test_commands_do_what_they_say(line, said, calls):
    talk = Recorder()
    assert execute(talk, line) == said
    assert talk.calls == calls


def test_help_lists_every_command_and_how_a_message_goes_on():
    lines = execute(Recorder(), "/help").splitlines()
    usages = [command.usage for command in COMMANDS]
    assert [line.split("  ")[0] for line in lines] == [*usages, "\\", "a space"]
    assert len({line.index(line.split("  ")[-1].strip()) for line in lines}) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/nope", "unknown command /nope: /help lists all"),
        ("/", "unknown command /: /help"),
        ("/resets", "unknown command /resets"),
        ("/save", "write /save FILE"),
        ("/tree ", "write /tree SPEC"),
        ("/reset now", "write /reset"),
    ],
)
def test_a_mistake_is_named_and_does_nothing(line, message):
    talk = Recorder()
    with pytest.raises(UserError, match=message):
        execute(talk, line)
    assert talk.calls == []
