"""Counts the steps that greedy decoding would take to write given replies."""

import numpy as np


def count_steps(is_root_BT: np.ndarray, followed_BT: np.ndarray) -> int:
    """Steps of a decoding that writes exactly the labels.

    Example: a reply of five tokens, whose roots follow 2, 0, 1, 1 and 0 nodes of the tree. The
    first step writes its root and two more tokens, which leads to the fourth; the second step
    writes that and one more: two steps.

    Args:
      is_root_BT: bool, the token after this position is a label; runs of them are replies.
      followed_BT: int, tokens that a step from this position adds to that one; a path of labels
        never leads beyond its reply.
    """
    steps = 0
    for is_root_T, followed_T in zip(is_root_BT, followed_BT, strict=True):
        t = 0
        while t < len(is_root_T):
            steps += bool(is_root_T[t])
            t += 1 + (int(followed_T[t]) if is_root_T[t] else 0)
    return steps
