"""What a run prints: every figure says what it is of."""

import numpy as np
import pytest

from train.console import closing_lines, held_out_line, training_line

ROW = {
    "step": 20,
    "loss": np.float32(3.14159),
    "lm_loss": 2.0,
    "head_loss": [1.0, 2.5],
    "head_top1": np.asarray([0.5, 0.25]),
    "accepted": 4.589,
    "grad_norm/heads": 1.0,
}


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        ("medusa1", "MEDUSA-1 loss"),
        ("medusa2", "MEDUSA-2 loss"),
        ("self_distill", "self-distillation loss"),
    ],
)
def test_a_line_of_training_names_split_and_loss(objective, name):
    assert training_line(20, ROW, objective) == (
        f"training | step 20 | {name} 3.142 | LM loss 2.000 | head losses 1.00 2.50 | "
        "top-1 0.50 0.25 | tokens/step 4.59"
    )


def test_a_line_of_held_out_data():
    report = {"kl": 0.01234, "head_loss": np.ones(2), "accepted": np.float32(2.05)}
    assert held_out_line(40, report) == (
        "held out | step 40 | KL to the original 0.0123 | head losses 1.00 1.00 | tokens/step 2.05"
    )


def test_a_loss_that_is_not_finite_is_shown():
    line = training_line(1, {"loss": float("nan")}, "medusa1")
    assert line == "training | step 1 | MEDUSA-1 loss nan"


GOOD = {"score": 2.05, "tokens_per_step": 2.05, "base_loss": 1.7, "reference": 1.75}


def test_the_end_says_what_decoding_will_give():
    (line,) = closing_lines(80, 80, {80: GOOD}, "mc_sim_7b_63")
    assert "2.05 tokens per decoding step" in line
    assert "the tree mc_sim_7b_63 after step 80" in line


def test_the_end_names_a_better_checkpoint_and_how_to_export_it():
    better = GOOD | {"score": 2.113, "tokens_per_step": 2.113}
    lines = closing_lines(80, 60, {80: GOOD, 60: better}, "t")
    assert len(lines) == 2
    assert lines[1].startswith("best checkpoint: step 60, 2.11 tokens per step ")
    assert "train.export --step 60" in lines[1]
    assert "fastest within 0.05 nats" in lines[1]


def test_the_end_says_that_quality_was_lost():
    lost = {"score": 0.05 - 0.175, "tokens_per_step": 2.4, "base_loss": 1.925, "reference": 1.75}
    lines = closing_lines(80, 60, {80: lost, 60: GOOD}, "t")
    assert "has risen by 0.175 nats per token since the start, more than 0.05" in lines[1]
    assert lines[2].startswith("best checkpoint: step 60")
    less = lost | {"score": -0.01, "base_loss": 1.81}
    assert "none is within" in closing_lines(80, 60, {80: lost, 60: less}, "t")[2]


@pytest.mark.parametrize("metrics", [{}, {"reference": 1.0}])
def test_the_end_without_held_out_data(metrics):
    (line,) = closing_lines(80, None, {80: metrics}, "t")
    assert line == "step 80 was not measured on held-out data: see config.held_out"
