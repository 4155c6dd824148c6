"""A report's measurements outlive an interruption, and serve no other report."""

import json

import numpy as np
import pytest

from medusa_jax.chat import Example
from medusa_jax.decoding.generate import Encoded
from medusa_jax.errors import UserError
from train.reporting.kept import digest_of, keep
from train.reporting.rows import Measurement
from train.reporting.sets import Sets

HEADER = {"commit": "a1", "tree": [[0], [0, 0]]}
ROWS = {"conversations": [{"loss": 1 / 3, "tokens": 7}], "problems": [], "questions": []}
FIRST, SECOND = Measurement(ROWS, [0.1, 0.7]), Measurement(ROWS, [])


def unexpected():
    pytest.fail("measured again")


def interrupted(target, part):
    with keep(target, HEADER) as kept:
        assert not part.exists()
        assert kept.get(["one", 3], lambda: FIRST) is FIRST
        assert part.exists()
        raise KeyboardInterrupt


def test_a_rerun_goes_on(tmp_path, capsys):
    target, part = tmp_path / "out.json", tmp_path / "out.json.part"
    with pytest.raises(KeyboardInterrupt):
        interrupted(target, part)
    assert "rerun the same command to resume" in capsys.readouterr().err
    with keep(target, HEADER) as kept:
        assert kept.get(["one", 3], unexpected) == FIRST  # every digit
        assert kept.get(["one", 4], lambda: SECOND) == SECOND
    assert not part.exists()
    assert "resuming" in capsys.readouterr().err


def test_nothing_kept_leaves_nothing(tmp_path, capsys):
    with pytest.raises(UserError), keep(tmp_path / "out.json", HEADER):
        raise UserError("no such model")
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"unfinished report": {"commit": "b", "tree": [[0]]}}', "with other commit, tree: name"),
        ('{"unfinished report": {"commit": "a1"}}', "is not of an interrupted report: name"),
        ('{"prompt": "Hi"}', "is not of an interrupted report"),
        ("3", "is not of an interrupted report"),
        ("", "is not of an interrupted report"),
        (json.dumps({"unfinished report": HEADER}) + "\n{}", "is not of an interrupted report"),
    ],
)
def test_another_file_is_refused_and_left(text, message, tmp_path):
    part = tmp_path / "out.json.part"
    part.write_text(text)
    with pytest.raises(UserError, match=message) as caught, keep(tmp_path / "out.json", HEADER):
        pytest.fail("opened")
    assert "\n" not in str(caught.value)
    assert part.read_text() == text


def test_sets_are_told_apart():
    example = Example(np.arange(4, dtype=np.int32), np.array([False, False, True, True]))
    other = Example(example.token_T, ~example.is_label_T)
    asked = [Encoded("Hi", (1, 2))]
    sets = [
        Sets([example, other], [], asked * 2, 8),
        Sets([], [example, other], asked * 2, 8),
        Sets([example, example], [], asked * 2, 8),
        Sets([example, other], [], asked * 3, 8),
        Sets([example, other], [], [*asked, Encoded("Hi", (1, 3))], 8),
    ]
    assert len({digest_of(own) for own in sets}) == len(sets)
    assert digest_of(sets[0]) == digest_of(Sets([example, other], [], asked * 2, 8))
