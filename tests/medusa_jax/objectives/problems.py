"""Random logits and labels, and softmax as one writes it in numpy."""

import numpy as np

from medusa_jax.objectives.labels import IGNORE, OUTSIDE


def random_problem(shape, V, seed=0):
    """Logits of a few values only, so that there are ties; labels of all kinds; a teacher."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(-4, 5, (*shape, V)).astype(np.float32) / 2
    labels = rng.integers(0, V, shape).astype(np.int32)
    labels[rng.random(shape) < 0.2] = IGNORE
    labels[rng.random(shape) < 0.1] = OUTSIDE
    return logits, labels, rng.normal(size=logits.shape).astype(np.float32)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
