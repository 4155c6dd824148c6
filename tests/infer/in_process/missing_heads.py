"""A model without heads beside it: a note, and plain decoding; an error where heads are needed."""

import warnings

import pytest

from tests.infer.commands import run_one


@pytest.fixture
def headless(stories260k, monkeypatch):
    """Runs a command on a model that comes without heads."""
    # As Python starts with, where pytest makes errors of warnings.
    monkeypatch.setattr(warnings, "filters", [("default", None, Warning, None, 0)])
    flags = [f"--model={stories260k}", "--compilation_cache=none", "--prompt=Once"]
    return lambda *argv: run_one([*flags, "--max_new_tokens=4", *argv])


def test_plain_decoding_is_announced_in_one_line(headless, stories260k):
    result = headless()
    assert result["code"] == 0
    note, model, *_ = result["err"].splitlines()
    assert note.startswith(f"no Medusa heads beside {stories260k}: decoding plainly")
    assert model.endswith("no heads")


def test_plain_decoding_that_is_asked_for_is_not(headless):
    result = headless("--medusa=none")
    assert result["code"] == 0
    assert "no Medusa heads" not in result["err"]


def test_compare_refuses_in_one_line(headless, stories260k):
    result = headless("--compare")
    assert (result["code"], result["out"]) == (2, "")
    assert result["err"] == (
        f"error: --compare needs Medusa heads, and there are none beside {stories260k}: name them "
        "with --medusa\n"
    )
