"""From a configuration and a file of conversations to heads that decode."""

import subprocess
import sys
from pathlib import Path

import jax
import pytest

import medusa_jax
from configs import smollm2_medusa1
from train import medusa1

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("root_conditioned", "draft_vocab"), [(True, 20), (False, 0)])
def test_trained_heads_speed_up_and_change_nothing(
    chat_model, conversations, tmp_path, root_conditioned, draft_vocab
):
    config = smollm2_medusa1.get_config()
    config.update(
        model=str(chat_model),
        data=str(conversations),
        steps=60,
        batch_size=64,
        draft_vocab=draft_vocab,
        root_conditioned=root_conditioned,
        num_layers=1,
        warmup_steps=5,
        learning_rate=1e-2,
    )
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        medusa1.train(config, tmp_path)
    lm = medusa_jax.load(str(chat_model), str(tmp_path / "export"), tree="mc_sim_7b_63")
    assert lm.heads_config.root_conditioned == root_conditioned
    assert lm.heads_config.vocab_size == (draft_vocab or 512)
    assert lm.heads_config.draft_vocab == bool(draft_vocab)
    prompt = "Tell me of Tim, number 3."
    (medusa,) = medusa_jax.generate(lm, [prompt], max_new_tokens=48)
    (plain,) = medusa_jax.generate(lm.with_tree("chain:0"), [prompt], max_new_tokens=48)
    assert medusa.token_ids == plain.token_ids
    assert medusa.num_steps < plain.num_steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=x"], "--config and --workdir"),
        (["--config=configs/smollm2_medusa1.py", "--config.stepz=3", "--workdir=x"], "stepz"),
        (["--config=nowhere.py", "--workdir=x"], "nowhere.py"),
    ],
)
def test_bad_command_lines_end_in_one_line(arguments, message):
    command = [sys.executable, "-m", "train.main", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
