"""How often heads change a text that is sampled with the same seed, in float32: never, they should.

  python docs/benchmarks/same_seed.py --model stories15M --answers 1500 same_seed.json

Samples of one beginning, at temperatures 0.7, 1 and 1.3 in turn, are drawn plainly in batches of 16
and with a tree of 16 nodes in batches of 5. A model that is named gets heads that are right now and
then, its LM head behind a random block; the default model has its own. A position where the texts
part is excused if two tokens nearly tied there (`infer.bench.near_ties`); what follows it is not
counted.
"""

import argparse
import dataclasses
import sys
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.progress import track

import medusa_jax
from infer.bench.near_ties import parting
from medusa_jax.config import MedusaConfig
from medusa_jax.decoding.generate import encode_prompt
from medusa_jax.environment import environment
from medusa_jax.errors import UserError
from medusa_jax.io.atomic import check_output, write_json
from medusa_jax.nn.heads import init_heads
from medusa_jax.nn.llama import lm_head_weight

BEGINNING = "Once upon a time"
TEMPERATURES = (0.7, 1.0, 1.3)
TREE, BATCH, PLAIN_BATCH, SEED = "mc_sim_7b_63:16", 5, 16, 0
AT_ONCE = 240


def with_some_heads(lm: medusa_jax.MedusaLM) -> medusa_jax.MedusaLM:
    """The model with its heads, or with noisy ones if it has none."""
    if lm.heads_config is not None:
        return lm
    c = lm.config
    config = MedusaConfig(num_heads=4, hidden_size=c.hidden_size, vocab_size=c.vocab_size)
    heads = init_heads(config, lm_head_weight(lm.params), jnp.float32)
    noise = np.random.default_rng(SEED).normal(size=heads["blocks"]["weight"].shape)
    heads["blocks"]["weight"] = jnp.asarray(noise * 0.4 * c.hidden_size**-0.5, jnp.float32)
    return dataclasses.replace(lm, heads_config=config, heads_params=heads)


def compared(lm: medusa_jax.MedusaLM, first: int, count: int, length: int) -> dict[str, Any]:
    """Some answers, by their numbers: tokens, steps, tokens that could be compared, partings."""
    numbers = list(range(first, first + count))
    each = [{"temperature": TEMPERATURES[number % len(TEMPERATURES)]} for number in numbers]
    options: dict[str, Any] = {"numbers": numbers, "each": each, "chat": False, "seed": SEED}
    options |= {"max_new_tokens": length, "ignore_eos": True}
    prompts = [BEGINNING] * count
    plain = medusa_jax.generate(lm, prompts, tree="chain:0", batch_size=PLAIN_BATCH, **options)
    drafted = medusa_jax.generate(lm, prompts, tree=TREE, batch_size=BATCH, **options)
    ids = encode_prompt(lm, BEGINNING, False).ids
    positions, partings = 0, []
    for number, own, a, b in zip(numbers, each, plain, drafted, strict=True):
        found = parting(lm, ids, (a.token_ids, b.token_ids), seed=SEED, number=number, **own)
        positions += len(a.token_ids) if found is None else found["position"] + 1
        if found is not None:
            partings.append({"number": number, **own, **found})
    steps = sum(x.num_steps for x in drafted)
    return {"tokens": sum(len(x.token_ids) for x in plain), "steps": steps} | {
        "positions": positions,
        "partings": partings,
    }


def main() -> None:
    """Reads the command line, and writes the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("output")
    parser.add_argument("--model", help="what medusa_jax.load takes; default: the default model")
    parser.add_argument("--answers", type=int, default=1500)
    parser.add_argument("--length", type=int, default=200, help="tokens of each answer")
    arguments = parser.parse_args()
    output = check_output(arguments.output)
    heads = None if arguments.model is None else "none"  # the default model has its own
    lm = with_some_heads(medusa_jax.load(arguments.model, heads, dtype="float32", tree="chain:0"))
    parts = [
        compared(lm, first, min(AT_ONCE, arguments.answers - first), arguments.length)
        for first in track(range(0, arguments.answers, AT_ONCE))
    ]
    total = {name: sum((part[name] for part in parts), type(parts[0][name])()) for name in parts[0]}
    where = environment("docs.benchmarks.same_seed")
    write_json(output, where | {"model": arguments.model, "answers": arguments.answers} | total)
    print(f"{total['positions']:,} positions, {len(total['partings'])} partings: {output}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
