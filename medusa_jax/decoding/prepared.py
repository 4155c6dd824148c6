"""Runtimes that outlive a call."""

import operator
import weakref
from typing import Any

import jax

from medusa_jax.decoding.rules.rule import Rule
from medusa_jax.decoding.runtime import Runtime, make_runtime
from medusa_jax.model import MedusaLM
from medusa_jax.tree.dynamic import AnyTree, DynamicTree

# The last runtime of every model that lives, with the parameters that it was made from.
_PREPARED: "weakref.WeakKeyDictionary[MedusaLM, tuple[Any, Runtime]]"
_PREPARED = weakref.WeakKeyDictionary()


def prepared(lm: MedusaLM, tree: AnyTree, rule: Rule, logprobs: bool) -> Runtime:
    """Like `make_runtime`, but remembers its last result as long as the model lives.

    A runtime holds arrays of its own: heads without those that the tree does not need, rows of the
    LM head for a draft vocabulary. It is made anew when any array of the parameters was replaced
    (NumPy's can change their values, so they are never remembered).
    """
    leaves = jax.tree.leaves((lm.params, lm.heads_params))
    key = (rule, logprobs, _value(tree))
    found = _PREPARED.get(lm)
    if found is not None:
        (old_key, old_leaves), runtime = found
        same = len(leaves) == len(old_leaves) and all(map(operator.is_, leaves, old_leaves))
        if same and key == old_key:
            return runtime
    runtime = make_runtime(lm, tree, rule, logprobs=logprobs)
    if all(isinstance(x, jax.Array) for x in leaves):
        _PREPARED[lm] = ((key, leaves), runtime)
    return runtime


def _value(tree: AnyTree) -> Any:
    """What is equal for equal trees."""
    if isinstance(tree, DynamicTree):
        return tree
    arrays, structure = jax.tree.flatten(tree)
    return structure, *(x.tobytes() for x in arrays)
