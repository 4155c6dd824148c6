"""transformers on torch reads what is exported as the network that was trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install 'medusa-jax[parity]'")

import transformers  # noqa: E402

from medusa_jax.config import MedusaConfig  # noqa: E402
from medusa_jax.nn.heads import init_heads  # noqa: E402
from medusa_jax.nn.lora import init_lora  # noqa: E402
from tests.medusa_jax.running import forward, relative_error  # noqa: E402
from train.export_files import export  # noqa: E402
from train.random_model import RANDOM_TINY, load_base, load_lm  # noqa: E402

TOKENS = [72, 101, 108, 108, 111, 256, 3, 199]


@pytest.mark.parametrize("adapted", [False, True])
def test_logits_are_the_same(tmp_path, adapted):
    base = load_base(RANDOM_TINY, np.float32)
    config = MedusaConfig(2, base.config.hidden_size, base.config.vocab_size)
    params = {"heads": init_heads(config, base.params["embed"]["weight"], jnp.float32)}
    lora = init_lora(base.params, 4, jax.random.key(0), jnp.float32)
    if adapted:
        rng = np.random.default_rng(0)
        params["lora"] = jax.tree.map(lambda x: x + rng.normal(size=x.shape) * 0.1, lora)
    options = {"base": base, "base_name": "x", "params": params, "lora_scale": 0.5}
    export(tmp_path / "model", format="B", dtype="float32", **options)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer("Grüße")["input_ids"] == base.tokenizer("Grüße")["input_ids"]
    assert list(model.generation_config.eos_token_id) == list(base.eos_ids)
    with torch.no_grad():
        theirs = model(torch.tensor([TOKENS])).logits[0].numpy()
    ours = load_lm(str(tmp_path / "model"), dtype="float32")
    assert relative_error(forward(ours, TOKENS)[1], theirs) <= 1e-4
    plain = forward(load_lm(RANDOM_TINY, dtype="float32"), TOKENS)[1]
    assert (relative_error(plain, theirs) <= 1e-4) != adapted
