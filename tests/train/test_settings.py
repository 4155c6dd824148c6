"""Configurations that make no sense are refused in one line that names the key."""

import pytest
from ml_collections import ConfigDict

from configs import base
from medusa_jax.errors import UserError
from tests.commands import quick, run_many
from train.recipe import make_settings
from train.settings import MeshSettings


def config_with(**changes) -> ConfigDict:
    """As a recipe may write it: nothing has checked a type yet."""
    return ConfigDict(base.get_config().to_dict() | {"data": "chats.jsonl"} | changes)


def refusal(config: ConfigDict) -> str:
    with pytest.raises(UserError) as error:
        make_settings(config)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_good_configuration_becomes_settings():
    mesh = ConfigDict({"data": 2, "fsdp": -1, "tensor": 1})
    s = make_settings(config_with(lora_alpha=16, model="m", mesh=mesh))
    assert (s.model, s.medusa, s.data, s.steps) == ("m", None, "chats.jsonl", 1000)
    assert s.lora_alpha == 16.0
    assert isinstance(s.lora_alpha, float)
    assert s.mesh == MeshSettings(2, -1, 1)
    assert hash(s) == hash(make_settings(config_with(lora_alpha=16.0, model="m", mesh=mesh)))


def test_derived_values():
    plain = make_settings(config_with(profile="10:15"))
    assert (plain.lora_scale, plain.profile_steps) == (1.0, (10, 15))
    lora = make_settings(config_with(objective="medusa2", lora_rank=32))
    assert (lora.lora_scale, lora.profile_steps) == (0.5, None)


@pytest.mark.parametrize("epochs", [2, 2.0, 0.5])
def test_a_run_may_be_as_long_as_some_epochs(epochs):
    s = make_settings(config_with(steps=None, epochs=epochs, profile="999:1001"))
    assert (s.steps, s.epochs) == (None, float(epochs))


def test_a_run_has_one_length():
    assert refusal(config_with(steps=None)).startswith("config.steps and config.epochs are both N")
    message = refusal(config_with(steps=9, epochs=2.0))
    assert message.startswith("config.steps is 9 and config.epochs is 2: ")
    assert "set one of them to None" in message


def test_unknown_key_gets_a_suggestion():
    assert refusal(config_with(leraning_rate=1.0)) == (
        "config.leraning_rate is unknown: did you mean config.learning_rate?"
    )
    mesh = ConfigDict({"data": 1, "fsdp": 1, "tensor": 1, "tensr": 1})
    assert "config.mesh.tensr is unknown: did you mean config.mesh.tensor?" in refusal(
        config_with(mesh=mesh)
    )
    assert "choose from model, medusa, data" in refusal(config_with(zzz=1))


def test_missing_key_is_named():
    config = config_with()
    del config.warmup_steps
    assert refusal(config).startswith("config.warmup_steps is missing: ")
    assert refusal(config_with(mesh=ConfigDict({"data": 1}))).startswith("config.mesh.fsdp is miss")


@pytest.mark.parametrize(
    ("key", "value", "mend"),
    [
        ("steps", 1.5, "a whole number"),
        ("warmup_steps", 3_000_000_000, "2147483647 or less"),
        ("steps", True, "a whole number"),
        ("learning_rate", "fast", "a number"),
        ("remat", "some", "none, products, nothing, offload"),
        ("own_projection", 1, "True or False"),
        ("model", 3, "text"),
        ("data", None, "text"),
        ("mesh", 8, "ConfigDict"),
        ("objective", "medusa3", "medusa1, medusa2, self_distill"),
        ("hidden_states", "kept", "streamed, cached"),
        ("heads_schedule", "cosine", "constant, linear, sine"),
        ("moments", "8bit", "float32, bfloat16, factored"),
        ("quantize", "int4", "none, int8, nf4"),
        ("dtype", "float16", "float32, bfloat16"),
        ("export_format", "D", "A, B, C, vllm, none"),
        ("data_errors", "ignore", "stop, cut, skip"),
        ("steps", 0, "1 or more"),
        ("save_every", 0, "1 or more"),
        ("seed", -1, "0 or more"),
        ("seed", 2**32, "below 4294967296"),
        ("weight_decay", -0.1, "0 or more"),
        ("epochs", 0.0, "more than 0"),
        ("epochs", float("nan"), "more than 0"),
        ("epochs", "two", "a number"),
        ("heads_coef", float("nan"), "0 or more"),
        ("learning_rate", 0.0, "more than 0"),
        ("learning_rate", float("inf"), "more than 0"),
        ("grad_clip", -1.0, "more than 0"),
        ("grad_clip", 1e-50, "between 1e-30 and 1e+30"),
        ("learning_rate", 1e38, "between 1e-30 and 1e+30"),
        ("held_out", 1.0, "from 0 to below 1"),
        ("head_decay", 0.0, "above 0 to 1"),
        ("heads_ramp", 1.1, "above 0 to 1"),
        ("lora_dropout", 1.0, "from 0 to below 1"),
        ("data", "", "name a"),
        ("profile", "10", "10:15"),
        ("profile", "15:10", "10:15"),
        ("profile", "0:5", "10:15"),
        ("profile", "999:1001", "earlier"),
        ("accumulate", 3, "divisor"),
        ("tree", "mc_sim", "mc_sim_7b_63"),
        ("num_heads", 2, "chain:2"),
    ],
)
def test_wrong_value_is_named_with_what_would_be_right(key, value, mend):
    message = refusal(config_with(**{key: value}))
    assert message.startswith("config.tree" if key == "num_heads" else f"config.{key} is ") or (
        key == "tree" and message.startswith("config.tree")
    )
    assert mend in message


@pytest.mark.parametrize(("key", "value"), [("held_out", 0.0), ("head_decay", 1.0), ("keep", 1)])
def test_ends_of_ranges_are_allowed(key, value):
    assert getattr(make_settings(config_with(**{key: value})), key) == value


@pytest.mark.parametrize(
    ("mesh", "axis"),
    [({"data": 0}, "data"), ({"tensor": -2}, "tensor"), ({"data": -1, "tensor": -1}, "tensor")],
)
def test_impossible_mesh(mesh, axis):
    sizes = ConfigDict({"data": 1, "fsdp": 1, "tensor": 1} | mesh)
    assert refusal(config_with(mesh=sizes)).startswith(f"config.mesh.{axis} is ")


@pytest.mark.parametrize(
    ("changes", "named", "mend"),
    [
        ({"objective": "medusa2", "hidden_states": "cached"}, "hidden_states", "streamed"),
        ({"hidden_states": "cached", "quantize": "int8"}, "quantize", "quantize=none"),
        ({"objective": "self_distill"}, "lora_rank", "config.lora_rank=32"),
        ({"lora_rank": 8}, "lora_rank", "config.objective=medusa2"),
        ({"objective": "medusa2", "quantize": "nf4"}, "quantize", "config.lora_rank=32"),
        ({"stop_lm_head": True}, "stop_lm_head", "medusa1 leaves it as it is"),
        (
            {"stop_lm_head": True, "objective": "medusa2"},
            "stop_lm_head",
            "projections of their own leave it as it is: set config.stop_lm_head=False",
        ),
        ({"conditioning": "root", "export_format": "vllm"}, "export_format", "only A can"),
        ({"conditioning": "markov", "draft_vocab": 9}, "export_format", "no format can hold"),
        ({"conditioning": "branch"}, "own_projection", "set config.own_projection=False"),
        ({"num_layers": 0}, "num_layers", "it must be 1 or more"),
        ({"draft_vocab": 100}, "export_format", "save as vllm"),
        ({"export_format": "C"}, "export_format", "save as vllm or A"),
        (
            {"own_projection": False, "draft_vocab": 9, "export_format": "B"},
            "export_format",
            "save as vllm or C",
        ),
    ],
)
def test_contradictions_are_refused_before_hours_are_spent(changes, named, mend):
    message = refusal(config_with(**changes))
    assert message.startswith(f"config.{named}")
    assert mend in message


def test_the_heads_learning_rate_is_a_number_of_float32():
    with pytest.raises(UserError, match=r"times config.head_lr_multiplier is 1e\+50"):
        make_settings(config_with(learning_rate=1e25, head_lr_multiplier=1e25))


@pytest.mark.parametrize(
    "changes",
    [
        {"quantize": "nf4"},
        {"objective": "medusa2", "quantize": "int8", "lora_rank": 4},
        {"objective": "self_distill", "lora_rank": 4},
        {"hidden_states": "cached"},
        {"conditioning": "root", "export_format": "none"},
        {"conditioning": "gated_markov", "export_format": "A"},
        {"conditioning": "root", "own_projection": False, "export_format": "C"},
        {"draft_vocab": 100, "export_format": "vllm"},
    ],
)
def test_what_does_go_together(changes):
    make_settings(config_with(**changes))


RECIPE = """
from ml_collections import ConfigDict
def get_config(kind=""):
    if kind == "other":
        raise ValueError("'other' is no kind: choose none")
    c = ConfigDict()
    c.steps = 3
    c.mesh = ConfigDict({"data": 1})
    return c
"""
BY_EPOCHS = """
from configs import base
def get_config():
    c = base.get_config()
    c.steps, c.epochs, c.data, c.objective = None, 2.0, "x", "self_distill"
    return c
"""
CASES = {
    "--config=FILE --config.stpes=4": "config.stpes is unknown: did you mean config.steps?",
    "--config=FILE --config.mesh.dat=4": "unknown: did you mean config.mesh.data?",
    "--config FILE --config.steps 1.5": "config.steps is '1.5': it must be a whole number",
    "--config=FILE --config.steps": "Missing value for flag --config.steps",
    "--config.steps=4 --config=FILE": "Found --config.steps=4 in argv before a value for --config",
    "--config=FILE:other": "'other' is no kind: choose none",
    "--config=nowhere.py": "cannot load --config",
    "--config=nowhere.py --config.steps=4": "cannot load --config=nowhere.py",
    "--config=FILE --confg.steps=4": "Unknown command line flag 'confg.steps'",
    "--config=FILE": "config.mesh.fsdp is missing: let the recipe start from configs.base",
    "--config=BROKEN": "cannot load --config=BROKEN: name 'nothing' is not defined",
    "--config=EPOCHS --config.steps=3 --config.epochs=1": "steps is 3 and config.epochs is 1",
    # One of them replaces the recipe's other; what is wrong then is checked later.
    "--config=EPOCHS --config.steps=3": "config.lora_rank is 0",
    "--config=EPOCHS --config.epochs=3": "config.lora_rank is 0",
    "--config=EPOCHS --config.epochs=two": "config.epochs is 'two': it must be a number",
    "": "--config and --workdir are both needed",
}


def test_command_line_errors_are_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "FILE").write_text(RECIPE)
    (tmp_path / "EPOCHS").write_text(BY_EPOCHS)
    (tmp_path / "BROKEN").write_text("def get_config():\n    return nothing\n")
    commands = [["--workdir=run", *case.split()] if case else [] for case in CASES]
    results = run_many("train.main", commands, quick(), cwd=tmp_path)
    for (case, wanted), result in zip(CASES.items(), results, strict=True):
        assert result.code == 2, (case, result)
        assert wanted in result.err, (case, result)
        assert result.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
