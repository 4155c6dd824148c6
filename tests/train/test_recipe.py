"""The settings that a command line asks for, by what a command says of them."""

from tests.commands import quick, run_many

RECIPE = ["--config=configs/vicuna_7b_medusa1.py", "--topology=nowhere:1"]  # two epochs
STEPS, EPOCHS = "--config.steps=100", "--config.epochs=1.0"


def test_a_length_on_the_command_line_replaces_the_recipes():
    commands = [[*RECIPE, STEPS], [*RECIPE, EPOCHS], [*RECIPE, STEPS, EPOCHS]]
    one, other, both = (result.err for result in run_many("train.plan", commands, quick()))
    assert "nowhere" in one
    assert one == other
    assert "config.steps is 100 and config.epochs is 1: a run has one length" in both
