"""The paper's losses, each against the same written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medusa_jax.objectives.cross_entropy import cross_entropy
from medusa_jax.objectives.distance import l1_loss
from medusa_jax.objectives.labels import IGNORE
from medusa_jax.objectives.medusa1 import medusa1_loss
from medusa_jax.objectives.medusa2 import medusa2_loss
from medusa_jax.objectives.self_distill import self_distill_loss
from tests.medusa_jax.objectives.problems import log_softmax, random_problem
from tests.medusa_jax.packed import quick_jit


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 3), (11, 3)])
def test_cross_entropy(shape, soft):
    logits, labels, teacher = random_problem(shape, 9)
    loss = quick_jit(cross_entropy)(logits, labels, teacher if soft else None)
    assert loss.dtype == jnp.float32
    for where in np.ndindex(shape):
        label = labels[where]
        target = np.exp(log_softmax(teacher[where])) if soft else np.eye(9)[max(label, 0)]
        wanted = -target @ log_softmax(logits[where]) if label >= 0 else 0.0
        np.testing.assert_allclose(loss[where], wanted, rtol=1e-5)


def test_l1_loss():
    logits, labels, teacher = random_problem((4, 5, 3), 9)
    loss = quick_jit(l1_loss)(logits, labels, teacher)
    for where in np.ndindex(4, 5, 3):
        p, q = np.exp(log_softmax(logits[where])), np.exp(log_softmax(teacher[where]))
        label = labels[where]
        wanted = 0.1 * -np.log(p[label]) + 0.9 * np.abs(p - q).sum() if label >= 0 else 0.0
        np.testing.assert_allclose(loss[where], wanted, rtol=1e-5)


def test_equation_1():
    loss = medusa1_loss(jnp.asarray([2.0, 3.0, 5.0]), 0.8)
    np.testing.assert_allclose(loss, 0.8 * 2 + 0.64 * 3 + 0.512 * 5, rtol=1e-6)


def test_equation_2():
    loss = medusa2_loss(jnp.float32(3.0), jnp.float32(5.0), jnp.float32(0.2))
    np.testing.assert_allclose(loss, 4.0, rtol=1e-6)


def test_divergence():
    logits, labels, original = random_problem((3, 8), 7)
    target, model = log_softmax(original), log_softmax(logits)
    wanted = np.where(labels >= 0, (np.exp(target) * (target - model)).sum(-1), 0)
    out = quick_jit(self_distill_loss)(original, logits, labels)
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-6)
    assert (labels == IGNORE).any()


def test_no_divergence_and_no_gradient_where_model_and_original_agree():
    logits, labels, _ = random_problem((3, 8), 7)
    function = quick_jit(jax.value_and_grad(lambda *x: self_distill_loss(*x).sum(), argnums=1))
    value, gradient = function(logits + 3, logits, labels)
    np.testing.assert_allclose(value, 0.0, atol=1e-5)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-6)
