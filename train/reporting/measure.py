"""Measures models and their heads on every prompt by itself."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from medusa_jax import MedusaLM, generate
from medusa_jax.chat import Example
from medusa_jax.tree.build import build_tree
from medusa_jax.tree.presets import load_tree
from train.evaluation.divergence import divergence_each
from train.evaluation.scores import Scores, score_each
from train.random_model import load_lm
from train.reporting.figures import Prompts
from train.reporting.quality import compare_answers
from train.reporting.rows import Measurement
from train.reporting.sets import Sets

_BATCH = 16


class Models:
    """Measures models that started from one original; those with the same weights once."""

    def __init__(self, name: str | None, original: MedusaLM, sets: Sets, tree: str) -> None:
        """Measures nothing yet.

        Args:
          name: of the original, see `load_lm`.
          original: without heads.
          sets: the prompts.
          tree: name of the tree to count steps with.
        """
        self._name, self._original, self._sets, self._tree = name, original, sets, tree
        self._known: dict[str | None, tuple[Prompts, list[Example]]] = {}

    def original(self) -> Measurement:
        """Measures the original, which writes one token per step."""
        rows, _ = self._of(self._name, self._original)
        return Measurement(_with_steps(rows, [row["tokens"] for row in rows["questions"]]), [])

    def run(self, model: str | None, medusa: str) -> Measurement:
        """Measures an export.

        Args:
          model: name or folder, see `load_lm`.
          medusa: folder of the heads.
        """
        lm = load_lm(model, medusa, dtype="float32")
        prompts, answers = self._of(model, lm)
        assert lm.heads_config is not None  # a run always exports some
        tree = load_tree(self._tree, lm.heads_config.num_heads)
        scores = score_each(lm, tree, answers)
        together = sum(scores, Scores.zero(lm.heads_config.num_heads))
        steps = [own.steps for own in scores]
        return Measurement(_with_steps(prompts, steps), together.rank_accuracy()[:, 0].tolist())

    def _of(self, model: str | None, lm: MedusaLM) -> tuple[Prompts, list[Example]]:
        """A model's rows without steps, and its answers."""
        if model not in self._known:
            own = self._original if model == self._name else lm
            answers = answers_of(own, self._sets)
            self._known[model] = self._measured(own, answers), answers
        return self._known[model]

    def _measured(self, lm: MedusaLM, answers: Sequence[Example]) -> Prompts:
        """A row for every prompt with all that does not depend on heads."""
        plain = dataclasses.replace(lm, heads_config=None, heads_params=None)
        originals, kl = answers, [0.0] * len(answers)
        if lm is not self._original:
            _, originals = self._of(self._name, self._original)
            kl = divergence_each(self._original, lm, originals)
        questions = [
            compare_answers(_own_tokens(answer), _own_tokens(other)) | {"kl": own}
            for answer, other, own in zip(answers, originals, kl, strict=True)
        ]
        return {
            "conversations": _losses(plain, self._sets.conversations),
            "problems": _losses(plain, self._sets.problems),
            "questions": questions,
        }


def answers_of(lm: MedusaLM, sets: Sets) -> list[Example]:
    """The questions with the model's greedy answers, token by token; no tree is needed for them."""
    answers = generate(
        lm.with_tree("chain:0"),
        sets.questions,
        batch_size=_BATCH,
        max_new_tokens=sets.max_new_tokens,
    )
    return [
        Example(
            np.asarray([*prompt.ids, *answer.token_ids], np.int32),
            np.arange(len(prompt.ids) + answer.num_new_tokens) >= len(prompt.ids),
        )
        for prompt, answer in zip(sets.questions, answers, strict=True)
    ]


def _own_tokens(answer: Example) -> list[int]:
    return answer.token_T[answer.is_label_T].tolist()


def _losses(lm: MedusaLM, examples: Sequence[Example]) -> list[dict[str, Any]]:
    scores = score_each(lm, build_tree([]), examples)
    return [{"loss": own.lm_loss, "tokens": own.num_tokens} for own in scores]


def _with_steps(prompts: Prompts, steps: Sequence[int]) -> Prompts:
    pairs = zip(prompts["questions"], steps, strict=True)
    return prompts | {"questions": [row | {"steps": own} for row, own in pairs]}
