"""Generation: prompts in; texts, tokens and their measurements out."""

import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from numbers import Integral
from typing import Any

import numpy as np

from medusa_jax.chat import Encoded, Prompt, encode_text, is_integer
from medusa_jax.decoding.engine.jobs import Job, answer_all, check_bias, check_tree
from medusa_jax.decoding.options import GenerationConfig, make_config
from medusa_jax.decoding.results import Generation, StreamEvent
from medusa_jax.decoding.runtime import Clock
from medusa_jax.errors import UserError
from medusa_jax.model import MedusaLM


def generate(
    lm: MedusaLM,
    prompts: Sequence[Prompt | Encoded],
    *,
    batch_size: int = 1,
    chat: bool | None = None,
    numbers: Sequence[int] | None = None,
    each: Sequence[Mapping[str, Any]] | None = None,
    **options: Any,
) -> list[Generation]:
    """Answers prompts, `batch_size` at a time: when one is done, the next takes its place.

    Args:
      lm: the model.
      prompts: what to answer; results of `encode_prompt` are not encoded again.
      batch_size: rows of a batch, for which programs are compiled; fewer prompts leave some idle.
      chat: apply the chat template; None: when the tokenizer has one.
      numbers: one of 0..2^32-1 per prompt, which chooses its random key; default: its position.
      each: options of every single prompt, which replace the common ones; acceptance (even if it
        follows from the temperature) and tree must be the same for all.
      **options: see `GenerationConfig`.

    Returns:
      Answers in the order of the prompts, `num_samples` for each.

    Raises:
      UserError: an option out of range, or a prompt that does not fit the context.
    """
    return list(
        generate_batches(
            lm, prompts, batch_size=batch_size, chat=chat, numbers=numbers, each=each, **options
        )
    )


def generate_batches(
    lm: MedusaLM,
    prompts: Sequence[Prompt | Encoded],
    *,
    each: Sequence[Mapping[str, Any]] | None = None,
    **options: Any,
) -> Iterator[Generation]:
    """Like `generate`, but yields each answer as soon as it and all before it are complete.

    Errors are raised at once, not when the first answer is asked for.
    """
    prompts = _listed(prompts)
    answers = generate_as_done(lm, prompts, each=each, **options)
    own = each or [{}] * len(prompts)
    counts = [{"num_samples": 1, **options, **one}["num_samples"] for one in own]
    return _in_order(answers, [(i, k) for i, count in enumerate(counts) for k in range(count)])


def _in_order(
    answers: Iterator[tuple[int, Generation]], turns: Sequence[tuple[int, int]]
) -> Iterator[Generation]:
    """Holds answers back until the turn of their prompt and sample."""
    waiting: dict[tuple[int, int], Generation] = {}
    for turn in turns:
        while turn not in waiting:
            index, answer = next(answers)
            waiting[index, answer.sample] = answer
        yield waiting.pop(turn)


def generate_as_done(
    lm: MedusaLM,
    prompts: Sequence[Prompt | Encoded],
    *,
    batch_size: int = 1,
    chat: bool | None = None,
    numbers: Sequence[int] | None = None,
    each: Sequence[Mapping[str, Any]] | None = None,
    clock: Clock | None = None,
    **options: Any,
) -> Iterator[tuple[int, Generation]]:
    """Like `generate`, but yields each answer when it is complete, with its prompt's index.

    Errors are raised at once, not when the first answer is asked for.

    Args:
      lm, prompts, batch_size, chat, numbers, each, **options: see `generate`.
      clock: gets the seconds that the batch as a whole takes.
    """
    job = _job(lm, prompts, batch_size, chat, numbers, each, options)
    events = answer_all(lm, job, clock or Clock())
    return ((event.index, event.result) for event in events if event.result is not None)


def stream(
    lm: MedusaLM,
    prompts: Prompt | Encoded | Sequence[Prompt | Encoded],
    *,
    batch_size: int = 1,
    chat: bool | None = None,
    numbers: Sequence[int] | None = None,
    each: Sequence[Mapping[str, Any]] | None = None,
    **options: Any,
) -> Iterator[StreamEvent]:
    """Answers prompts step by step, with the very step that `generate` compiles.

    An answer's first token comes when its prompt has been run, before the first step.

    Args:
      lm: the model.
      prompts: what to answer, one prompt or several; see `generate`.
      batch_size: as in `generate`; events of the answers in a batch take turns.
      chat: apply the chat template; None: when the tokenizer has one.
      numbers: as in `generate`; with the same seed and number, a prompt gets the same answer.
      each: as in `generate`.
      **options: see `GenerationConfig`.

    Raises:
      UserError: at once; an option out of range, or a prompt that does not fit the context.
    """
    several = prompts if _are_several(prompts) else [prompts]
    job = _job(lm, several, batch_size, chat, numbers, each, options)
    events = answer_all(lm, job, Clock(), most_steps=1)
    return (event for event in events if event.text or event.token_ids or event.result)


def _are_several(prompts: Any) -> bool:
    """Whether it is a list of prompts, not a single one: a text, messages or token ids."""
    if isinstance(prompts, str | Encoded) or not isinstance(prompts, Sequence):
        return False
    return not all(isinstance(part, Mapping) or is_integer(part) for part in prompts)


def _job(
    lm: MedusaLM,
    prompts: Any,
    batch_size: int,
    chat: bool | None,
    numbers: Sequence[int] | None,
    each: Sequence[Mapping[str, Any]] | None,
    options: dict[str, Any],
) -> Job:
    prompts = _listed(prompts)
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: it must be a whole number, at least 1")
    given = {"numbers": numbers, "each": each}
    for name, values in given.items():
        if values is not None and not isinstance(values, Sequence | np.ndarray):
            raise UserError(f"{name} is {reprlib.repr(values)}: give a list with one per prompt")
        if values is not None and len(values) != len(prompts):
            raise UserError(f"{name} has {len(values)} entries for {len(prompts)} prompts")
    numbers = range(len(prompts)) if numbers is None else list(numbers)
    each = [{}] * len(prompts) if each is None else each
    _check_numbers(numbers)
    common = make_config(options)
    configs = [make_config(own, options) for own in each]
    first = configs[0] if configs else common
    for own in configs:
        check_bias(lm, own)
        if own.tree != first.tree or _kind(own) != _kind(first):
            raise UserError("the prompts of a batch share acceptance and tree: give them for all")
    check_tree(lm, first)
    encoded = [
        encode_prompt(lm, prompt, chat, own.max_context)
        for prompt, own in zip(prompts, configs, strict=True)
    ]
    return Job(encoded, batch_size, numbers, configs, first)


def _listed(prompts: Any) -> list[Any]:
    """The prompts as a list, which their caller may change meanwhile."""
    if isinstance(prompts, str | bytes | Encoded | Mapping | Set):
        raise UserError(
            f"prompts is {reprlib.repr(prompts)}: put a single prompt into a list, "
            "generate(lm, [prompt])"
        )
    if not isinstance(prompts, Iterable):
        raise UserError(f"prompts is {reprlib.repr(prompts)}: give a list of prompts")
    return list(prompts)


def _kind(config: GenerationConfig) -> tuple[str, bool | None]:
    """What one batch cannot have twice."""
    return config.rule, config.sampled_root


def encode_prompt(
    lm: MedusaLM,
    prompt: Prompt | Encoded,
    chat: bool | None = None,
    max_context: int | None = None,
) -> Encoded:
    """A prompt as tokens, with the chat template when asked for (None: when there is one).

    Args:
      lm: the model.
      prompt: an encoded one is only checked.
      chat: apply the chat template; None: when the tokenizer has one.
      max_context: most tokens of prompt and answer together, if less than the model's context.

    Raises:
      UserError: the prompt leaves no room in the model's context, or holds unknown ids.
    """
    if not isinstance(prompt, Encoded):
        prompt = Encoded(prompt, tuple(encode_text(lm.tokenizer, prompt, chat)))
    if not prompt.ids:
        raise UserError("the prompt has no tokens: give at least one")
    if len(prompt.ids) >= lm.config.max_position:
        raise UserError(
            f"the prompt has {len(prompt.ids)} tokens and the model's context only "
            f"{lm.config.max_position}: shorten the prompt"
        )
    if max_context is not None and len(prompt.ids) >= max_context:
        raise UserError(
            f"the prompt has {len(prompt.ids)} tokens and max_context is {max_context}: shorten "
            "the prompt or raise max_context"
        )
    if min(prompt.ids) < 0 or max(prompt.ids) >= lm.config.vocab_size:
        raise UserError(f"token ids of a prompt must lie in 0..{lm.config.vocab_size - 1}")
    return prompt


def _check_numbers(numbers: Sequence[int]) -> None:
    for number in numbers:
        if not isinstance(number, Integral) or not 0 <= number < 2**32:
            raise UserError(f"a prompt's number is {number!r}: it must be from 0 to 2**32 - 1")
