"""A tiny random model with random heads, and a slow, obvious reading of what decoding means."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from medusa_jax.config import LlamaConfig, MedusaConfig
from medusa_jax.io.hf.weights import abstract_params
from medusa_jax.model import MedusaLM
from medusa_jax.nn.heads import init_heads
from medusa_jax.nn.llama import Llama, causal_mask, lm_head_weight

CONFIG = LlamaConfig(
    vocab_size=24,
    hidden_size=16,
    intermediate_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    max_position=256,
)
_WIDTH = 256


def tiny_lm(
    tree: str = "mc_sim_7b_63", *, seed: int = 0, eos_ids=(), config=CONFIG, token_map=None
) -> MedusaLM:
    """Weights random enough that the greedy text does not settle on one token."""
    rng = np.random.default_rng(seed)

    def weight(shape):
        scale = 0.6 if len(shape) == 2 else 1.0
        return jnp.asarray(rng.normal(size=shape) * scale + (len(shape) == 1), jnp.float32)

    params = jax.tree.map(lambda x: weight(x.shape), abstract_params(config, jnp.float32))
    D, V = config.hidden_size, config.vocab_size
    heads_config = MedusaConfig(
        num_heads=4,
        hidden_size=D,
        vocab_size=V if token_map is None else len(token_map),
        draft_vocab=token_map is not None,
    )
    heads = init_heads(heads_config, lm_head_weight(params), jnp.float32, token_map)
    heads["blocks"]["weight"] = jnp.asarray(rng.normal(size=(4, 1, D, D)) * 0.3, jnp.float32)
    heads["blocks"]["bias"] = jnp.asarray(rng.normal(size=(4, 1, D)) * 0.3, jnp.float32)
    lm = MedusaLM(
        config=config,
        params=params,
        heads_config=heads_config,
        heads_params=heads,
        eos_ids=tuple(eos_ids),
        dtype="float32",
    )
    return lm.with_tree(tree)


@functools.partial(jax.jit, static_argnums=0)
def _forward(config, params, token_BT):
    position_BT = jnp.arange(_WIDTH, dtype=jnp.int32)[None]
    return Llama(config).apply({"params": params}, token_BT, position_BT, causal_mask(_WIDTH))[0]


def last_hidden(lm: MedusaLM, tokens: list[int]) -> np.ndarray:
    """Hidden state behind the last token: the whole sequence from scratch, no cache."""
    token_BT = np.zeros((1, _WIDTH), np.int32)
    token_BT[0, : len(tokens)] = tokens
    return np.asarray(_forward(lm.config, lm.params, token_BT))[0, len(tokens) - 1]


def next_token(lm: MedusaLM, hidden: np.ndarray) -> int:
    """Greedy choice of the base model."""
    return int(np.argmax(np.asarray(lm.params["lm_head"]["weight"]) @ hidden))


def head_ranking(lm: MedusaLM, hidden: np.ndarray, head: int) -> np.ndarray:
    """Tokens by falling probability under one head, in numpy (paper, section 2.1.1)."""
    blocks = lm.heads_params["blocks"]
    y = np.asarray(blocks["weight"])[head, 0] @ hidden + np.asarray(blocks["bias"])[head, 0]
    x = hidden + y / (1 + np.exp(-y))
    return np.argsort(-(np.asarray(lm.params["lm_head"]["weight"]) @ x), kind="stable")


def walk(lm: MedusaLM, paths, prompt: list[int], budget: int) -> tuple[list[int], int]:
    """Greedy text and number of Medusa steps, following the tree token by token."""
    tree = {tuple(path) for path in paths}
    out: list[int] = []
    steps = 0
    while len(out) < budget:
        hidden = last_hidden(lm, prompt + out)
        rankings = [head_ranking(lm, hidden, head) for head in range(4)]
        block, path = [next_token(lm, hidden)], ()
        while True:
            wanted = next_token(lm, last_hidden(lm, prompt + out + block))
            if len(path) == 4:
                break
            path += (int(np.flatnonzero(rankings[len(path)] == wanted)[0]),)
            if path not in tree:
                break
            block.append(wanted)
        out += block
        steps += 1
    return out[:budget], steps
