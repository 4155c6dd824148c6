"""The flags of decoding are the fields of GenerationConfig."""

import dataclasses

import pytest
from absl.flags import FLAGS
from absl.testing import flagsaver

from infer import chat, generate
from infer import flags as shared
from medusa_jax import GenerationConfig, UserError
from tests.infer.commands import run_one


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


@pytest.mark.parametrize("command", [generate.run, chat.run])
def test_commands_load_the_model_that_the_flags_name(command, monkeypatch):
    asked = []

    def load(*names, **options):
        asked.append((names, options))
        raise UserError("asked")

    options = {"dtype": "float16", "tree": "chain:1", "mesh": "tensor=2", "quantize": "int8"}
    argv = ["--model=a", "--medusa=b", *(f"--{name}={value}" for name, value in options.items())]
    argv += ["--prompt=Tom"] if command is generate.run else []
    monkeypatch.setattr(shared, "load", load)
    assert run_one([*argv, "--compilation_cache=none"], command)["err"] == "error: asked\n"
    assert asked == [(("a", "b"), options)]


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
