"""The flags of decoding are the fields of GenerationConfig."""

import dataclasses

import pytest
from absl.flags import FLAGS

from infer import flags as shared
from medusa_jax import GenerationConfig


def test_every_option_of_decoding_is_a_flag_with_the_same_default():
    options = {option.name: option.default for option in shared._OPTIONS}
    assert options | {"tree": None} == dataclasses.asdict(GenerationConfig())  # --tree: of `load`


def test_seeds_have_64_bits():
    parser = FLAGS["seed"].parser
    assert [parser.parse(text) for text in ("0", f"{2**64 - 1}")] == [0, 2**64 - 1]
    for text in ("-1", f"{2**64}"):
        with pytest.raises(ValueError, match="is not an integer in the range"):
            parser.parse(text)
