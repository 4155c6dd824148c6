"""A tiny network with every kind of heads, and an objective over it."""

import dataclasses
import functools

import jax
import numpy as np

from medusa_jax.config import MedusaConfig
from medusa_jax.objectives.labels import count_labels
from medusa_jax.objectives.metrics import metrics
from medusa_jax.objectives.objective import Objective
from medusa_jax.tree.build import build_tree
from tests.medusa_jax.packed import (
    SMALL,
    packed_batch,
    quick_jit,
    random_backbone,
    random_heads,
    random_lora,
)

M, V, D, T = 3, 24, 16, 14
HEADS = MedusaConfig(M, D, V)
ROOTED = dataclasses.replace(HEADS, conditioning="root")
DRAFT = MedusaConfig(M, D, 7, draft_vocab=True)
TOKEN_MAP = np.array([20, 3, 0, 11, 5, 8, 17], np.int32)
BATCH = packed_batch(np.random.default_rng(0), rows=2, length=T)
TREE = build_tree([[0], [1], [0, 0], [1, 0], [0, 0, 1]])
BASE = Objective(SMALL, HEADS, lora_scale=0.5, time_block=7)


@functools.cache
def parameters(heads=HEADS, config=SMALL, lora=False):
    params = {"backbone": random_backbone(config), "heads": random_heads(heads)}
    if heads.draft_vocab:
        params["token_map"] = TOKEN_MAP
    return params | ({"lora": random_lora(params["backbone"])} if lora else {})


def evaluate(objective, params, batch, **options):
    labels = objective.labels(params, batch)
    count = count_labels(labels)
    loss, sums = objective.loss(params, batch, labels, count, tree=TREE, **options)
    return loss, sums, metrics(sums, count)


jitted = quick_jit(evaluate, static_argnums=0)
jitted_hidden = quick_jit(BASE.hidden)


def gradients(objective, params, **options):
    def loss(params):
        return evaluate(objective, params, BATCH, **options)[0]

    return quick_jit(jax.grad(loss))(params)


def assert_tree_close(got, wanted, rtol=2e-5, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, wanted)


def labelled():
    """(row, position, head from 0, where its label is) of every label of the batch."""
    token, segment = BATCH["token"], BATCH["segment"]
    for b, t, k in np.ndindex(len(token), T, M):
        ahead = t + k + 2
        if ahead >= T or not BATCH["is_label"][b, ahead]:
            continue
        if segment[b, t] and segment[b, ahead] == segment[b, t]:
            yield b, t, k, ahead


def adapted_lm_head(params):
    adapter = params["lora"]["lm_head"]
    return params["backbone"]["lm_head"]["weight"] + 0.5 * adapter["b"] @ adapter["a"]
