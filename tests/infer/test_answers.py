import types

import pytest

from infer.answers import print_answers
from medusa_jax import Generation


def answer(text):
    return Generation("p", text, [1], 1, 1, 1.0, 0.1, 0.1, 10.0, 0.0, "stop")


def job(*done):
    """Answers in the order in which they are done; then Ctrl-C."""

    def answers(lm, indices, clock):
        yield from done
        raise KeyboardInterrupt

    return types.SimpleNamespace(answer=answers, pending=[], title=lambda place: f"prompt {place}")


def test_answers_are_printed_in_the_order_of_the_prompts_and_ctrl_c_loses_none(capsys):
    three = [(place, answer(f"answer {place}")) for place in (1, 0, 3)]
    printed = print_answers(None, job(*three), None)
    assert next(printed)[0] == 1
    assert capsys.readouterr().out == ""
    assert next(printed)[0] == 0
    assert capsys.readouterr().out == "answer 0\nanswer 1\n"
    assert next(printed)[0] == 3
    with pytest.raises(KeyboardInterrupt):
        next(printed)
    out, err = capsys.readouterr()
    assert out == "answer 3\n"
    assert "prompt 3" in err
