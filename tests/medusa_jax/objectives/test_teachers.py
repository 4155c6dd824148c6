"""What only teaches does not learn: the original model, and the base model of soft labels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.nn.lora import init_lora
from medusa_jax.objectives.labels import IGNORE
from tests.medusa_jax.objectives.networks import (
    BASE,
    BATCH,
    HEADS,
    M,
    adapted_lm_head,
    assert_tree_close,
    gradients,
    jitted,
    jitted_hidden,
    parameters,
)
from tests.medusa_jax.objectives.problems import log_softmax
from tests.medusa_jax.packed import random_lora


def test_self_distillation_starts_at_the_original_model():
    params = parameters()
    fresh = init_lora(params["backbone"], 2, jax.random.key(0), jnp.float32)
    objective = dataclasses.replace(BASE, kind="self_distill", lora_dropout=0.1)

    def divergence(lora):
        return jitted(objective, params | {"lora": lora}, BATCH, key=jax.random.key(1))[2]["kl"]

    np.testing.assert_allclose(divergence(fresh), 0.0, atol=1e-6)
    changed = random_lora(params["backbone"], rank=2)
    for part in ("lm_head", "layers_0"):  # either alone leads away from it
        assert divergence(fresh | {part: changed[part]}) > 0.01


def test_teachers_do_not_learn():
    """Where model and original agree, nothing pulls at the LM head: not the divergence, nor, of
    heads with projections of their own, the soft labels."""
    own = dataclasses.replace(HEADS, own_projection=True)
    objective = dataclasses.replace(
        BASE, heads=own, kind="self_distill", head_labels="distribution"
    )
    params = parameters(own)
    fresh = init_lora(params["backbone"], 2, jax.random.key(0), jnp.float32)
    out = gradients(objective, params | {"lora": fresh})
    np.testing.assert_allclose(out["backbone"]["lm_head"]["weight"], 0.0, atol=1e-6)
    np.testing.assert_allclose(out["lora"]["lm_head"]["b"], 0.0, atol=1e-6)


def test_soft_labels_come_from_the_adapted_lm_head():
    """Heads with projections of their own: the adapter changes the teacher all the same."""
    own = dataclasses.replace(HEADS, own_projection=True)
    objective = dataclasses.replace(BASE, heads=own, kind="medusa2", head_labels="distribution")
    params = parameters(own, lora=True)
    zero = jax.tree.map(np.zeros_like, params["lora"]["lm_head"])
    merged = {
        "backbone": params["backbone"] | {"lm_head": {"weight": adapted_lm_head(params)}},
        "lora": params["lora"] | {"lm_head": zero},
    }
    got, wanted = (jitted(objective, p, BATCH)[1] for p in (params, params | merged))
    assert_tree_close(got, wanted, atol=1e-4)


OWN = dataclasses.replace(HEADS, own_projection=True)
STEP = 1e-3


def hidden_and_lm_head(params):
    hidden_BTD = jitted_hidden(params, BATCH)
    lm_head_VD = (
        adapted_lm_head(params) if "lora" in params else params["backbone"]["lm_head"]["weight"]
    )
    return np.asarray(hidden_BTD, np.float64), np.asarray(lm_head_VD, np.float64)


def divergence(params, original):
    """KL(original || model), mean over the base head's labels, in numpy."""
    (hidden_BTD, lm_head_VD), (own_BTD, own_VD) = map(hidden_and_lm_head, (params, original))
    log_q, log_p = log_softmax(hidden_BTD @ lm_head_VD.T), log_softmax(own_BTD @ own_VD.T)
    is_label_BT = np.asarray(BASE.labels({}, BATCH))[..., 0] != IGNORE
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)[is_label_BT].mean()


def soft_label_loss(params, teacher):
    """Equation 1 with the teacher's distribution at the predicted position, in numpy."""
    (hidden_BTD, _), (own_BTD, own_VD) = map(hidden_and_lm_head, (params, teacher))
    heads, labels_BTJ = params["heads"], np.asarray(BASE.labels({}, BATCH))
    loss = 0.0
    for k in range(1, M + 1):
        weight_DD, bias_D = (heads["blocks"][name][k - 1, 0] for name in ("weight", "bias"))
        y_BTD = hidden_BTD @ weight_DD.T + bias_D
        x_BTD = hidden_BTD + y_BTD / (1 + np.exp(-y_BTD))
        log_q = log_softmax(x_BTD @ heads["projection"]["weight"][k - 1].T)
        target = np.exp(log_softmax(np.roll(own_BTD, -k, axis=1) @ own_VD.T))
        loss -= 0.8**k * (target * log_q).sum(-1)[labels_BTJ[..., k] != IGNORE].mean()
    return loss


def moved(params, part, direction, amount):
    """The parameters with one part of the backbone moved along a direction."""
    weights = jax.tree.map(
        lambda x, d: x + np.float32(amount) * d, params["backbone"][part], direction
    )
    return params | {"backbone": params["backbone"] | {part: weights}}


def slopes(loss, params, teacher, part, direction):
    """Of a loss along a direction: with a fixed teacher, and with one that moves along."""
    sides = [[moved(p, part, direction, s * STEP) for s in (1, -1)] for p in (params, teacher)]
    fixed = [loss(student, teacher) for student in sides[0]]
    moving = [loss(*both) for both in zip(*sides, strict=True)]
    return ((plus - minus) / (2 * STEP) for plus, minus in (fixed, moving))


@pytest.mark.parametrize("part", ["layers_0", "lm_head"])
@pytest.mark.parametrize("kind", ["self_distill", "soft_labels"])
def test_gradients_are_those_of_a_fixed_teacher(kind, part):
    """Adapters are not zero, so that model and teacher differ; against finite differences."""
    params = parameters(OWN, lora=kind == "self_distill")
    rng = np.random.default_rng(0)
    direction = jax.tree.map(
        lambda x: rng.normal(size=x.shape).astype(np.float32), params["backbone"][part]
    )
    if kind == "self_distill":
        objective = dataclasses.replace(BASE, heads=OWN, kind=kind)
        gradient = gradients(objective, params, heads_coef=0.0)["backbone"][part]
        teacher = {"backbone": params["backbone"]}
        fixed, moving = slopes(divergence, params, teacher, part, direction)
    else:
        objective = dataclasses.replace(BASE, heads=OWN, kind="medusa2", head_labels="distribution")
        with_heads, without = (
            gradients(objective, params, heads_coef=coef)["backbone"][part] for coef in (1.0, 0.0)
        )
        gradient = jax.tree.map(jnp.subtract, with_heads, without)
        fixed, moving = slopes(soft_label_loss, params, params, part, direction)
    slope = sum(map(np.vdot, jax.tree.leaves(direction), jax.tree.leaves(gradient)))
    np.testing.assert_allclose(slope, fixed, rtol=0.01, atol=1e-3)
    assert abs(moving - fixed) > 0.1
