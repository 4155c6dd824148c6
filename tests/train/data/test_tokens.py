"""Tokens of documents: those that a model does not have are refused."""

import numpy as np
import pytest

from medusa_jax.errors import UserError
from train.data.tokens import check_token_ids


def test_a_token_that_the_model_does_not_have_is_refused():
    check_token_ids(np.asarray([3, 9, 0], np.int32), 10)
    check_token_ids(np.zeros(0, np.int32), 10)
    with pytest.raises(UserError, match="the tokenizer gives token 10, but the model has 10"):
        check_token_ids(np.asarray([3, 10], np.int32), 10)
