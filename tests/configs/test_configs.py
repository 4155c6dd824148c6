"""Every recipe builds, passes the checks, and has the paper's numbers where it claims them."""

import importlib
import json
from pathlib import Path

import pytest

import configs
from configs import base
from train.recipe import make_settings

FOLDER = Path(configs.__file__).parent
ARGUMENTS = {
    "vicuna_7b_medusa2": ("stage1", "stage2"),
    "vicuna_13b_medusa2": ("stage1", "stage2"),
    "smollm2_medusa2": (
        *("two_stage", "one_stage", "naive", "naive_own", "naive_stopped"),
        *("lora_only", "heads_only"),
    ),
}
RECIPES = sorted(
    (file.stem, argument)
    for file in FOLDER.glob("*.py")
    if file.stem not in ("__init__", "base")
    for argument in ARGUMENTS.get(file.stem, ("",))
)
WANTED = {
    *("tiny", "vicuna_7b_medusa1", "vicuna_7b_medusa2", "vicuna_13b_medusa1", "vicuna_13b_medusa2"),
    *("vicuna_33b_selfdistill", "zephyr_7b_selfdistill", "llama3_8b_medusa1"),
    *("smollm2_medusa1", "smollm2_medusa2", "smollm2_selfdistill"),
}


def settings_of(name: str, argument: str = ""):
    module = importlib.import_module(f"configs.{name}")
    return make_settings(module.get_config(*([argument] if argument else [])))


def test_no_recipe_is_missing():
    assert {name for name, _ in RECIPES} == WANTED


@pytest.mark.parametrize(("name", "argument"), RECIPES)
def test_recipe_is_complete_and_consistent(name, argument):
    module = importlib.import_module(f"configs.{name}")
    config = module.get_config(*([argument] if argument else []))
    assert set(config) == set(base.get_config())
    assert make_settings(config).data
    docs = module.__doc__
    assert f"--config=configs/{name}.py{':' if argument else ''}{argument}" in docs
    assert "Hardware" in docs
    assert "ours: " in docs or "4 minutes" in docs
    assert "xpected: " in docs or "Result, held out" in docs


@pytest.mark.parametrize("name", ARGUMENTS)
def test_unknown_argument_is_refused(name):
    with pytest.raises(ValueError, match=r"'stage9' is no (stage|variant): choose"):
        importlib.import_module(f"configs.{name}").get_config("stage9")


def check_heads_and_adapters(s, *, lora: bool):
    assert (s.num_heads, s.num_layers, s.head_decay, s.own_projection) == (5, 1, 0.8, True)
    assert (s.conditioning, s.head_labels, s.draft_vocab) == ("none", "tokens", 0)
    assert s.head_lr_multiplier == 4.0
    assert s.weight_decay == 0.0
    assert (s.lora_rank, s.lora_alpha, s.lora_dropout) == (32 if lora else 0, 16.0, 0.05)


@pytest.mark.parametrize("size", ["7b", "13b"])
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_two_stage_vicuna_is_the_papers(size, stage):
    s = settings_of(f"vicuna_{size}_medusa2", stage)
    check_heads_and_adapters(s, lora=stage == "stage2")
    assert s.model == f"lmsys/vicuna-{size}-v1.5"
    assert s.quantize == "nf4"
    assert s.objective == {"stage1": "medusa1", "stage2": "medusa2"}[stage]
    assert s.medusa == (None if stage == "stage1" else f"runs/vicuna_{size}_medusa2/stage1/export")
    assert (s.heads_coef, s.heads_schedule) == (0.2, "constant")
    assert (s.learning_rate, s.warmup_steps, s.batch_size, s.seq_len) == (5e-4, 40, 64, 4096)
    assert (s.epochs, s.steps) == (2.0, None)


@pytest.mark.parametrize("size", ["7b", "13b"])
def test_heads_of_vicuna_alone_are_the_first_stage_unquantised(size):
    alone = settings_of(f"vicuna_{size}_medusa1")
    assert alone.quantize == "none"
    stage1 = settings_of(f"vicuna_{size}_medusa2", "stage1")
    different = {k for k, v in vars(alone).items() if v != getattr(stage1, k)}
    assert different == {"quantize"}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("vicuna_33b_selfdistill", "lmsys/vicuna-33b-v1.3"),
        ("zephyr_7b_selfdistill", "HuggingFaceH4/zephyr-7b-beta"),
    ],
)
def test_self_distillation_is_the_papers(name, model):
    s = settings_of(name)
    check_heads_and_adapters(s, lora=True)
    assert (s.model, s.objective, s.quantize) == (model, "self_distill", "none")
    assert (s.heads_coef, s.heads_schedule, s.heads_ramp) == (0.01, "sine", 1.0)
    assert (s.learning_rate, s.warmup_steps, s.batch_size, s.seq_len) == (1e-4, 20, 128, 2048)
    assert (s.epochs, s.steps) == (2.0, None)


def test_shipped_heads_recipe_is_kept():
    """What trained the heads in the package."""
    s = settings_of("smollm2_medusa1")
    assert (s.num_heads, s.num_layers, s.conditioning, s.draft_vocab) == (4, 4, "recurrent", 8192)
    assert s.learning_rate * s.head_lr_multiplier == 2e-3
    assert (s.steps, s.batch_size * s.seq_len, s.warmup_steps) == (2098, 8192, 50)
    assert (s.weight_decay, s.head_labels, s.export_format) == (0.01, "distribution", "C")


@pytest.mark.parametrize(
    ("variant", "control", "keys"),
    [
        ("two_stage", "naive", {"medusa"}),
        ("one_stage", "naive", {"heads_schedule"}),
        ("naive_own", "naive", {"own_projection", "conditioning", "export_format"}),
        ("naive_stopped", "naive", {"stop_lm_head"}),
        ("lora_only", "two_stage", {"heads_coef"}),
        ("heads_only", "two_stage", {"objective", "lora_rank"}),
    ],
)
def test_variants_of_smollm2_differ_in_what_they_are_named_after(variant, control, keys):
    """They are compared with each other, so nothing else may differ."""
    one, other = (vars(settings_of("smollm2_medusa2", name)) for name in (variant, control))
    assert {k for k in one if one[k] != other[k]} == keys


def test_controls_leave_out_what_they_say():
    assert settings_of("smollm2_medusa2", "naive_stopped").stop_lm_head
    assert settings_of("smollm2_medusa2", "lora_only").heads_coef == 0
    heads_only = settings_of("smollm2_medusa2", "heads_only")
    assert (heads_only.objective, heads_only.lora_rank) == ("medusa1", 0)


def test_tiny_data_are_varied():
    file = Path(settings_of("tiny").data)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert len({row["id"] for row in rows}) == len(rows) == 60
    replies = [t["value"] for row in rows for t in row["conversations"] if t["from"] == "gpt"]
    assert len(set(replies)) > 70
    for row in rows:
        speakers = [turn["from"] for turn in row["conversations"]]
        assert speakers == ["human", "gpt"] * (len(speakers) // 2)
