"""What docs/benchmarks/same_seed.py counts."""

import dataclasses
import runpy

import pytest

import medusa_jax
from tests.docs.pages import ROOT


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "docs" / "benchmarks" / "same_seed.py"))


@pytest.fixture(scope="module")
def lm(script, stories260k):
    return script["with_some_heads"](
        medusa_jax.load(str(stories260k), "none", dtype="float32", tree="chain:0")
    )


def test_heads_change_no_token_and_save_steps(script, lm):
    found = script["compared"](lm, 7, 6, 40)
    assert found["partings"] == []
    assert found["positions"] == found["tokens"] == 6 * 40
    assert found["steps"] < found["tokens"] - 6  # the first token takes none


def test_a_text_that_parts_is_counted_up_to_there(script, lm, monkeypatch):
    generate = medusa_jax.generate

    def changed(lm, prompts, **options):
        answers = generate(lm, prompts, **options)
        if options["tree"] == "chain:0":
            return answers
        ids = [*answers[1].token_ids]
        ids[9] = (ids[9] + 1) % 512
        return [answers[0], dataclasses.replace(answers[1], token_ids=ids)]

    monkeypatch.setattr(medusa_jax, "generate", changed)
    found = script["compared"](lm, 0, 2, 40)
    (parting,) = found["partings"]
    assert (parting["number"], parting["position"], parting["near_tie"]) == (1, 9, False)
    assert parting["temperature"] == 1.0
    assert parting["lead"] > 1e-4  # plain decoding took the better one
    assert found["positions"] == 40 + 10
