"""What is heard on stderr while a compiler works."""

import os
import sys

from medusa_jax.plan.quiet import silenced_stderr


def test_only_python_is_heard(capfd):
    with silenced_stderr():
        os.write(2, b"a complaint in C++\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_python_is_heard_when_it_writes_there(capfd, monkeypatch):
    with os.fdopen(2, "w", closefd=False) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with silenced_stderr():
            print("a sign of life", file=sys.stderr)
            os.write(2, b"a complaint in C++\n")
        assert sys.stderr is stderr
    assert capfd.readouterr().err == "a sign of life\n"


def test_stderr_is_back_after_an_error(capfd):
    try:
        with silenced_stderr():
            raise RuntimeError
    except RuntimeError:
        os.write(2, b"heard\n")
    assert capfd.readouterr().err == "heard\n"
