"""The flags of decoding are the fields of GenerationConfig."""

import dataclasses

import pytest
from absl.flags import FLAGS
from absl.testing import flagsaver

from infer import flags as shared
from infer import generate
from medusa_jax import GenerationConfig, UserError


@pytest.fixture
def parsed():
    """Reads a command line."""

    def parse(*argv):
        FLAGS(["command", *argv])
        return GenerationConfig(**shared.decoding_options())

    with flagsaver.flagsaver():
        yield parse


def test_every_option_of_decoding_is_a_flag_with_the_same_default(parsed):
    assert parsed() == GenerationConfig()
    fields = {field.name for field in dataclasses.fields(GenerationConfig)}
    only_generate = {"num_samples", "logprobs"}
    assert {*shared.decoding_options(), "tree"} == fields - only_generate  # --tree: of `load`
    assert generate._config() == GenerationConfig()
    for name in only_generate:
        assert FLAGS[name].default == getattr(GenerationConfig(), name)


def test_flags_that_are_repeated_add_up(parsed):
    config = parsed("--stop=a b", "--stop=c", "--logit_bias=5:-1.5", "--logit_bias=7:2")
    assert config.stop == ("a b", "c")
    assert config.logit_bias == {5: -1.5, 7: 2.0}


@pytest.mark.parametrize("text", ["5", "x:1", "5:x", ":", "1.5:1", ""])
def test_a_bias_that_is_none_is_refused(parsed, text):
    with pytest.raises(UserError, match="write a token id and a number"):
        parsed(f"--logit_bias={text}")


def test_seeds_have_64_bits():
    parser = FLAGS["seed"].parser
    assert [parser.parse(text) for text in ("0", f"{2**64 - 1}")] == [0, 2**64 - 1]
    for text in ("-1", f"{2**64}"):
        with pytest.raises(ValueError, match="is not an integer in the range"):
            parser.parse(text)
