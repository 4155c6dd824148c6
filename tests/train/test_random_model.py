"""The random model: the same everywhere, a tokenizer of bytes, and a template to learn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.chat import tokenize
from medusa_jax.config import MedusaConfig
from medusa_jax.errors import UserError
from medusa_jax.io.heads.save import save_heads
from medusa_jax.io.hf.tokenizer import load_tokenizer
from medusa_jax.mesh import make_mesh
from medusa_jax.nn.heads import init_heads
from train.random_model import RANDOM_TINY, base_config, byte_tokenizer, load_base, load_lm

TEXTS = ["Hello, world!", "", " two  spaces ", "tab\tnew\nline\r\n", "Grüße 漢字 🙂", "\x00\x7f"]


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_bytes(text):
    tokenizer = byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert max(ids, default=0) < 256
    assert tokenizer.decode(ids) == text


def test_vocabulary_fits_the_network():
    tokenizer = byte_tokenizer()
    assert len(tokenizer) == base_config(RANDOM_TINY).vocab_size == 264
    assert sorted(tokenizer.get_vocab().values()) == list(range(264))
    assert tokenizer("<|im_end|>")["input_ids"] == [tokenizer.eos_token_id] == [257]


def test_saved_tokenizer_is_the_same(tmp_path):
    tokenizer = byte_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    messages = [{"role": "user", "content": "Grüße 🙂"}, {"role": "assistant", "content": "x"}]
    render = {"add_generation_prompt": True, "return_dict": True}
    assert loaded.apply_chat_template(messages, **render) == tokenizer.apply_chat_template(
        messages, **render
    )
    assert loaded.eos_token_id == tokenizer.eos_token_id


def test_labels_are_the_replies_and_their_ends():
    tokenizer = byte_tokenizer()
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "naïve"},
    ]
    example = tokenize(tokenizer, messages, truncated=False, max_length=999)
    assert tokenizer.decode(example.token_T[example.is_label_T]) == "Hi<|im_end|>naïve<|im_end|>"
    assert tokenizer.decode(example.token_T) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>\n"
        "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\nnaïve<|im_end|>\n"
    )


def test_weights_are_the_same_in_every_run_and_sensible():
    first, again = (load_base(RANDOM_TINY, np.float32).params for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    # Pinned: another draw would make checkpoints of earlier runs worthless.
    wanted = [0.13970275223255157, -0.17339061200618744, -0.05332145094871521]
    np.testing.assert_allclose(np.asarray(first["embed"]["weight"])[0, :3], wanted, rtol=1e-6)
    spread = {
        name: float(jnp.std(first["layers_4"]["mlp"][name]["weight"])) for name in ("up", "down")
    }
    np.testing.assert_allclose([spread["up"], spread["down"]], [64**-0.5, 176**-0.5], rtol=0.05)


def test_it_spreads_over_a_mesh():
    mesh = make_mesh(1, 2, 4)
    plain = load_base(RANDOM_TINY, np.float32)
    spread = load_base(RANDOM_TINY, np.float32, mesh)
    jax.tree.map(np.testing.assert_array_equal, plain.params, spread.params)
    assert spread.params["embed"]["weight"].sharding.shard_shape((264, 64)) == (66, 32)


def test_it_takes_heads(tmp_path):
    lm = load_lm(RANDOM_TINY, dtype="float32")
    assert lm.heads_config is None
    assert lm.eos_ids == (257,)
    config = MedusaConfig(num_heads=2, hidden_size=64, vocab_size=264)
    heads = init_heads(config, lm.params["embed"]["weight"], jnp.float32)
    save_heads(tmp_path, config, heads, format="C", base_model=RANDOM_TINY, vocab_size=264)
    loaded = load_lm(RANDOM_TINY, str(tmp_path), dtype="float32")
    assert loaded.heads_config == config
    with pytest.raises(UserError, match="does not exist"):
        load_lm(RANDOM_TINY, str(tmp_path / "nowhere"), dtype="float32")


def test_other_names_are_models_as_ever(stories260k):
    lm = load_lm(str(stories260k), dtype="float32")
    assert lm.config == base_config(str(stories260k))
    assert lm.heads_config is None
    with pytest.raises(UserError, match="random:huge"):
        load_lm("random:huge", dtype="float32")
