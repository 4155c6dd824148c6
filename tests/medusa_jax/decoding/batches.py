"""Batches of the tiny model, decoded in one call."""

import jax.numpy as jnp
import numpy as np

from medusa_jax.chat import Encoded
from medusa_jax.decoding.engine.jobs import Job, make_engine, tickets
from medusa_jax.decoding.options import GenerationConfig
from medusa_jax.decoding.rules.typical import TypicalNumbers
from medusa_jax.decoding.runtime import Clock, make_request, make_runtime

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5]]


def decoded(lm, prompts, budgets, *, eos_ids=(), rule=None, **options):
    """The state after the last step."""
    runtime = make_runtime(lm, rule=rule)
    request = make_request(budgets, eos_ids, **options)
    return runtime.advance(runtime.start(request, prompts)).state


def typical_numbers(rows, temperature, epsilon=0.09, delta=0.3):
    full = (jnp.full((rows,), x, jnp.float32) for x in (temperature, epsilon, delta))
    return TypicalNumbers(*full)


def rows(state):
    """Emitted tokens of every row."""
    return [
        np.asarray(state.output_BO)[b, :n].tolist()
        for b, n in enumerate(np.asarray(state.num_new_B))
    ]


def queued(lm, prompts, budgets, num_rows):
    """Tokens of every prompt, in rows that are refilled."""
    encoded = [Encoded(prompt, tuple(prompt)) for prompt in prompts]
    configs = [GenerationConfig(max_new_tokens=budget) for budget in budgets]
    job = Job(encoded, num_rows, range(len(prompts)), configs, GenerationConfig())
    out = [[] for _ in prompts]
    for update in make_engine(lm, job, Clock(), None).run(tickets(lm, job)):
        out[update.ticket.index] += [token.id for token in update.tokens]
    return out
