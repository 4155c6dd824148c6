"""A model without heads beside it: a note, and plain decoding; an error where heads are needed."""

import warnings

import pytest

from infer import generate
from tests.infer.commands import run_one

NOTE = "no Medusa heads beside it: plain decoding"


@pytest.fixture
def headless(backbone, stories260k, monkeypatch):
    """Runs a command on a model that comes without heads, which `load` warns of."""

    def load(*args, **kwargs):
        warnings.warn(NOTE, stacklevel=2)
        return backbone

    monkeypatch.setattr(generate, "load", load)
    monkeypatch.setattr(warnings, "filters", [("default", None, Warning, None, 0)])
    flags = [f"--model={stories260k}", "--compilation_cache=none", "--prompt=Once"]
    return lambda *argv: run_one([*flags, "--max_new_tokens=4", *argv])


def test_plain_decoding_is_announced_in_one_line(headless):
    result = headless()
    assert result["code"] == 0
    note, model, *_ = result["err"].splitlines()
    assert note == NOTE
    assert model.endswith("no heads")


def test_compare_refuses_in_one_line(headless, stories260k):
    result = headless("--compare")
    assert (result["code"], result["out"]) == (2, "")
    assert result["err"] == (
        f"error: --compare needs Medusa heads, and there are none beside {stories260k}: name them "
        "with --medusa\n"
    )


def test_compare_of_the_real_model_refuses_in_one_line(stories260k):
    argv = [f"--model={stories260k}", "--compilation_cache=none", "--prompt=Once", "--compare"]
    result = run_one(argv)
    assert (result["code"], result["out"], result["err"].count("\n")) == (2, "", 1)
    assert "Medusa heads" in result["err"]
    assert "--medusa" in result["err"]
