"""Measures what is missing, with a progress bar, and keeps what is complete at once."""

import hashlib
import json
from collections.abc import Sequence

from infer import display
from infer.answers import encode_prompts
from infer.tuning import acceptance as ranks_of
from infer.tuning import step_times
from infer.tuning.keep import Kept
from infer.tuning.rates import acceptance_rates
from medusa_jax import GenerationConfig, MedusaLM
from medusa_jax.chat import Encoded, Prompt
from medusa_jax.errors import UserError
from medusa_jax.tree.rates import Rates
from medusa_jax.tuning.measured import Acceptance


def measure_acceptance(
    lm: MedusaLM,
    kept: Kept,
    prompts: Sequence[Prompt],
    temperatures: Sequence[float],
    max_new_tokens: int,
    *,
    is_asked: bool,
) -> Acceptance:
    """Acceptance at some temperatures, and at any others where it was known.

    Args:
      lm: a model with heads.
      kept: gets what is measured.
      prompts: what the model answers.
      temperatures: at least one.
      max_new_tokens: per prompt.
      is_asked: measure even what is known.

    Raises:
      UserError: a prompt does not fit, or the answers are too short to say anything.
    """
    known = dict(kept.acceptance.by_temperature) if kept.acceptance else {}
    missing = [t for t in temperatures if is_asked or t not in known]
    if missing:
        encoded = encode_prompts(lm, prompts, None, None)
        for temperature in missing:
            config = GenerationConfig(
                max_new_tokens=max_new_tokens, temperature=temperature, tree="chain:0"
            )
            known[temperature] = _rates(lm, kept, encoded, config)
    if missing or kept.overwrite:
        kept.set_acceptance(Acceptance(known))
    return Acceptance(known)


def _rates(lm: MedusaLM, kept: Kept, prompts: Sequence[Encoded], config: GenerationConfig) -> Rates:
    about = [[list(p.ids) for p in prompts], config.max_new_tokens, config.temperature, lm.dtype]
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    done = kept.partial(key)
    waiting = [index for index in range(len(prompts)) if index not in done]
    with display.progress_bar() as bar:
        name = f"Acceptance at temperature {config.temperature:g}"
        task = bar.add_task(name, total=len(prompts), completed=len(done))
        for index, rank_TM in ranks_of.measure(lm, prompts, waiting, config):
            done[index] = rank_TM
            kept.add_ranks(key, index, rank_TM)
            bar.update(task, advance=1, refresh=True)
    texts = [done[index] for index in sorted(done) if len(done[index]) > 1]
    if not texts:
        raise UserError("all answers are empty: give other prompts with --prompt_file")
    return acceptance_rates(texts)


def measure_times(lm: MedusaLM, kept: Kept, batches: Sequence[int]) -> None:
    """Step times of a model in its dtype; `lm.measured` says what trees to expect."""
    wanted = step_times.plan(lm, batches)
    kept.begin_times(lm.dtype)
    with display.progress_bar() as bar:
        task = bar.add_task(f"Step times, {lm.dtype}", total=len(wanted) * step_times.VISITS)

        def advance(visits: int) -> None:
            bar.update(task, advance=visits, refresh=True)

        for point in step_times.measure(lm, wanted, kept.points(lm.dtype), advance):
            kept.add_point(lm.dtype, point)
    if not kept.points(lm.dtype):
        raise UserError("no batch has room on this device: give smaller --batch_sizes")
    kept.complete_times(lm.dtype)
