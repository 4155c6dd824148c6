"""Objectives: packing, caching and blocks change nothing; what is trained by what; draft ids."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.objectives.labels import IGNORE, OUTSIDE
from medusa_jax.objectives.metrics import metrics
from tests.medusa_jax.objectives.networks import (
    BASE,
    BATCH,
    DRAFT,
    ROOTED,
    TOKEN_MAP,
    D,
    M,
    T,
    V,
    adapted_lm_head,
    assert_tree_close,
    evaluate,
    gradients,
    jitted,
    jitted_hidden,
    labelled,
    parameters,
)
from tests.medusa_jax.objectives.problems import log_softmax
from tests.medusa_jax.packed import TIED, quick_jit, single_documents


@pytest.mark.parametrize(
    ("kind", "head_labels"),
    [("medusa1", "tokens"), ("medusa2", "distribution"), ("self_distill", "l1")],
)
def test_packed_documents_count_as_if_each_were_alone(kind, head_labels):
    objective = dataclasses.replace(BASE, heads=ROOTED, kind=kind, head_labels=head_labels)
    params = parameters(ROOTED, lora=kind != "medusa1")
    _, packed, _ = jitted(objective, params, BATCH)
    total = None
    for single in single_documents(BATCH):
        # In the place of a row, beside one of padding: what is compiled stays the same.
        wide = {name: np.pad(x, ((0, 1), (0, T - x.shape[1]))) for name, x in single.items()}
        sums = jitted(objective, params, wide)[1]
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    assert min(packed["labels"]) > 3
    assert_tree_close(packed, total)


@pytest.mark.parametrize("head_labels", ["tokens", "distribution", "l1"])
def test_heads_by_hand(head_labels):
    """Root-conditioned: the token at t + 1 enters; learned is that at t + k + 1, or what the base
    model says of this place one position before it."""
    objective = dataclasses.replace(BASE, heads=ROOTED, head_labels=head_labels)
    params = parameters(ROOTED)
    loss, sums, _ = jitted(objective, params, BATCH)
    hidden_BTD = np.asarray(jitted_hidden(params, BATCH))
    backbone, heads = params["backbone"], params["heads"]
    lm_head = backbone["lm_head"]["weight"]
    token = BATCH["token"]
    total, count = np.zeros(M), np.zeros(M)
    for b, t, k, ahead in labelled():
        e = backbone["embed"]["weight"][token[b, t + 1]]
        y = heads["root"]["weight"][k] @ (e / np.sqrt((e**2).mean()))
        y += heads["blocks"]["weight"][k, 0] @ hidden_BTD[b, t] + heads["blocks"]["bias"][k, 0]
        log_p = log_softmax(lm_head @ (hidden_BTD[b, t] + y / (1 + np.exp(-y))))
        target = np.eye(V)[token[b, ahead]]
        teacher = np.exp(log_softmax(lm_head @ hidden_BTD[b, ahead - 1]))
        if head_labels == "l1":
            total[k] += 0.9 * np.abs(teacher - np.exp(log_p)).sum() - 0.1 * target @ log_p
        else:
            total[k] -= (teacher if head_labels == "distribution" else target) @ log_p
        count[k] += 1
    np.testing.assert_allclose(sums["head_loss"], total, rtol=1e-5)
    np.testing.assert_allclose(loss, (0.8 ** np.arange(1, M + 1) * total / count).sum(), rtol=1e-5)


def test_draft_labels_are_draft_ids():
    whole = np.asarray(quick_jit(BASE.labels)({}, BATCH))
    objective = dataclasses.replace(BASE, heads=DRAFT)
    draft = np.asarray(quick_jit(objective.labels)({"token_map": TOKEN_MAP}, BATCH))
    np.testing.assert_array_equal(draft[..., 0], whole[..., 0])  # the base head knows all tokens
    ids = {token: i for i, token in enumerate(TOKEN_MAP.tolist())} | {IGNORE: IGNORE}
    wanted = [ids.get(token, OUTSIDE) for token in whole[..., 1:].ravel().tolist()]
    np.testing.assert_array_equal(draft[..., 1:].ravel(), wanted)
    assert {IGNORE, OUTSIDE, 2, 6} < set(wanted)


def test_draft_logits_are_rows_of_the_adapted_lm_head():
    objective = dataclasses.replace(BASE, heads=DRAFT, kind="medusa2")
    params = parameters(DRAFT, lora=True)
    projection = {"weight": np.stack([adapted_lm_head(params)[TOKEN_MAP]] * M)}
    own_heads = dataclasses.replace(DRAFT, own_projection=True)
    own = params | {"heads": params["heads"] | {"projection": projection}}
    loss, sums, out = jax.device_get(jitted(objective, params, BATCH))
    own_loss, own_sums, _ = jitted(dataclasses.replace(objective, heads=own_heads), own, BATCH)
    np.testing.assert_allclose(loss, own_loss, rtol=1e-5)
    assert_tree_close(sums, own_sums, atol=1e-4)
    whole = np.asarray(BASE.labels({}, BATCH))[..., 1:]
    num_labels, inside = (x.sum((0, 1)) for x in (whole != IGNORE, np.isin(whole, TOKEN_MAP)))
    assert (inside < num_labels).all()
    np.testing.assert_allclose(out["head_loss"], sums["head_loss"] / inside, rtol=1e-6)
    # A token that the heads cannot propose is a miss.
    np.testing.assert_allclose(out["head_top5"], sums["hits"][4] / num_labels, rtol=1e-6)
    num_roots = (np.asarray(BASE.labels({}, BATCH))[..., 0] != IGNORE).sum()
    np.testing.assert_allclose(out["accepted"], 1 + sums["followed"] / num_roots, rtol=1e-6)


def test_cached_hidden_states_give_the_loss_of_the_sequences():
    objective = dataclasses.replace(BASE, heads=ROOTED, head_labels="distribution")
    params = parameters(ROOTED)
    streamed = jitted(objective, params, BATCH)
    hidden = np.asarray(jitted_hidden(params, BATCH), np.float16)
    cached = {
        "hidden": np.stack([np.roll(hidden, -k, axis=1) for k in range(M + 1)], axis=2),
        "next": np.stack([np.roll(BATCH["token"], -j, axis=1) for j in range(1, M + 1)], axis=2),
        "labels": np.asarray(objective.labels(params, BATCH)),
    }

    def shuffled(x):  # positions are all that counts now, as in a file of them
        order = np.random.default_rng(0).permutation(2 * T)
        return x.reshape(2 * T, *x.shape[2:])[order].reshape(4, T // 2, *x.shape[2:])

    loss, sums, _ = jitted(objective, params, jax.tree.map(shuffled, cached))
    np.testing.assert_allclose(loss, streamed[0], rtol=2e-3)
    np.testing.assert_allclose(sums["head_loss"], streamed[1]["head_loss"], rtol=2e-3)
    for name in ("labels", "followed"):
        np.testing.assert_array_equal(sums[name], streamed[1][name])


def test_medusa2_adds_the_weighted_medusa1_loss_to_the_models_own():
    params = parameters(config=TIED)
    medusa1 = dataclasses.replace(BASE, llama=TIED)
    medusa2 = dataclasses.replace(medusa1, kind="medusa2")
    loss, sums, out = jitted(medusa2, params, BATCH, heads_coef=0.3)
    loss1, sums1, _ = jitted(medusa1, params, BATCH)
    np.testing.assert_allclose(loss, out["lm_loss"] + 0.3 * loss1, rtol=1e-6)
    assert_tree_close({k: v for k, v in sums.items() if k != "lm_loss"}, sums1)
    hidden_BTD = np.asarray(quick_jit(medusa1.hidden)(params, BATCH))
    log_p_BTV = log_softmax(hidden_BTD @ params["backbone"]["embed"]["weight"].T)
    labels_BT = np.asarray(medusa1.labels(params, BATCH))[..., 0]
    b, t = np.nonzero(labels_BT != IGNORE)
    np.testing.assert_allclose(out["lm_loss"], -log_p_BTV[b, t, labels_BT[b, t]].mean(), rtol=1e-5)


def test_medusa1_trains_the_heads_alone():
    out = gradients(dataclasses.replace(BASE, head_labels="distribution"), parameters())
    assert not any(x.any() for x in jax.tree.leaves(out["backbone"]))
    assert all(x.any() for x in jax.tree.leaves(out["heads"]))


@pytest.mark.parametrize("heads", [ROOTED, DRAFT], ids=["rooted", "draft"])
def test_a_stopped_lm_head_learns_from_the_base_heads_loss_alone(heads):
    """What reaches the heads and, through the hidden states, the backbone is the same."""
    params = parameters(heads, lora=True)
    trained = {name: x for name, x in params.items() if name != "token_map"}
    plain = dataclasses.replace(BASE, heads=heads, kind="medusa2")

    def grad(objective, heads_coef):
        def loss(trained):
            return evaluate(objective, params | trained, BATCH, heads_coef=heads_coef)[0]

        return quick_jit(jax.grad(loss))(trained)

    wanted, base_alone = grad(plain, 0.7), grad(plain, 0.0)
    got = grad(dataclasses.replace(plain, stop_lm_head=True), 0.7)
    for part in ("backbone", "lora"):
        own, other, alone = (x[part].pop("lm_head") for x in (got, wanted, base_alone))
        assert_tree_close(own, alone, rtol=1e-6, atol=1e-7)
        changed = jax.tree.map(lambda a, b: np.abs(a - b).max(), own, other)
        assert min(jax.tree.leaves(changed)) > 1e-4
    assert_tree_close(got, wanted)


def test_neither_remat_nor_blocks_change_gradients():
    params, key = parameters(lora=True), jax.random.key(0)
    objective = dataclasses.replace(BASE, kind="self_distill", lora_dropout=0.2, time_block=64)
    wanted = gradients(objective, params, key=key)
    got = gradients(dataclasses.replace(objective, remat=True, time_block=5), params, key=key)
    assert all(x.any() for x in jax.tree.leaves((got["heads"], got["lora"])))
    assert_tree_close(got, wanted, rtol=1e-4, atol=1e-5)


def in_bfloat16(backbone):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), backbone)


def test_bfloat16_is_close_to_float32_and_its_losses_are_float32():
    objective = dataclasses.replace(BASE, heads=ROOTED, kind="self_distill")
    params = parameters(ROOTED, lora=True)
    wanted = jitted(objective, params, BATCH)
    half = params | {"backbone": in_bfloat16(params["backbone"])}
    got = jitted(dataclasses.replace(objective, dtype="bfloat16"), half, BATCH)
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(got[1]["head_loss"], wanted[1]["head_loss"], rtol=0.05)
    np.testing.assert_allclose(got[2]["kl"], wanted[2]["kl"], rtol=0.1)


def test_adapters_count_that_bfloat16_weights_could_not_hold():
    """An adapter of the LM head a thousand times smaller than its weights still moves the heads."""
    params = parameters(ROOTED, lora=True)
    lora = jax.tree.map(np.zeros_like, params["lora"])
    params = params | {"backbone": in_bfloat16(params["backbone"])}
    objective = dataclasses.replace(BASE, heads=ROOTED, kind="self_distill", dtype="bfloat16")

    def head_loss(number):
        b = np.zeros((V, 3), np.float32)
        b[5] = number
        adapted = lora | {"lm_head": {"a": np.ones((3, D), np.float32), "b": b}}
        return jitted(objective, params | {"lora": adapted}, BATCH)[1]["head_loss"]

    assert (head_loss(2e-4) != head_loss(0.0)).all()


def test_accepted_counts_the_root():
    sums = {"head_loss": jnp.ones(2), "hits": jnp.ones((5, 2)), "labels": jnp.asarray([4.0, 2.0])}
    out = metrics(sums | {"followed": jnp.float32(6.0)}, jnp.asarray([5.0, 3.0, 2.0]))
    assert out["accepted"] == 1 + 6 / 5  # roots are labels of the base head
    assert out.keys() == {"accepted", "head_loss", *(f"head_top{k}" for k in range(1, 6))}
