"""Losses and gradients of every objective against torch: transformers' Llama, heads and adapters
written as torch modules, and the losses with the shifts of the original trainers."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install 'medusa-jax[parity]'")

import transformers  # noqa: E402

from medusa_jax.config import MedusaConfig  # noqa: E402
from medusa_jax.io.hf.weights import hf_keys  # noqa: E402
from medusa_jax.objectives.labels import count_labels  # noqa: E402
from medusa_jax.objectives.metrics import metrics  # noqa: E402
from medusa_jax.objectives.objective import Objective  # noqa: E402
from tests.medusa_jax.packed import quick_jit, random_heads, random_lora  # noqa: E402
from tests.medusa_jax.running import load_lm  # noqa: E402
from tests.parity import models  # noqa: E402

TOLERANCE = 1e-4
M, S, SCALE, DECAY, COEF = 3, 11, 0.5, 0.8, 0.3
LENGTHS = (11, 7, 3)  # then padding


class ResBlock(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear = torch.nn.Linear(width, width)

    def forward(self, x):
        return x + torch.nn.functional.silu(self.linear(x))


class Head(torch.nn.Module):
    """Blocks and, unless it shares the LM head, a projection."""

    def __init__(self, width, vocab_size, num_layers, own_projection):
        super().__init__()
        self.blocks = torch.nn.Sequential(*(ResBlock(width) for _ in range(num_layers)))
        if own_projection:
            self.projection = torch.nn.Linear(width, vocab_size, bias=False)

    def forward(self, hidden, lm_head):
        return getattr(self, "projection", lm_head)(self.blocks(hidden))


class Lora(torch.nn.Module):
    """A linear map with an adapter that can be off."""

    def __init__(self, base, adapter):
        super().__init__()
        self.base, self.on = base, True
        self.a, self.b = (torch.nn.Parameter(torch.tensor(adapter[name])) for name in "ab")

    def forward(self, x):
        return self.base(x) + (SCALE * (x @ self.a.T) @ self.b.T if self.on else 0)


class Reference:
    """The torch side of one case."""

    def __init__(self, folder, heads_config, params):
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32
        )
        c = heads_config
        shape = c.hidden_size, c.vocab_size, c.num_layers, c.own_projection
        self.heads = torch.nn.ModuleList(Head(*shape) for _ in range(c.num_heads))
        with torch.no_grad():
            for path, parameter in self.head_parameters():
                parameter.copy_(torch.tensor(functools.reduce(lambda x, key: x[key], path, params)))
        self.adapters = {}
        for path, adapter in adapters_of(params.get("lora", {})).items():
            name = ".".join(path)
            parent, _, leaf = name.rpartition(".")
            module = self.model.get_submodule(parent)
            self.adapters[name] = Lora(getattr(module, leaf), adapter)
            setattr(module, leaf, self.adapters[name])

    def head_parameters(self):
        """Where each is in our parameters, and torch's."""
        for k, head in enumerate(self.heads):
            for layer, block in enumerate(head.blocks):
                for name in ("weight", "bias"):
                    yield ("heads", "blocks", name, k, layer), getattr(block.linear, name)
            if hasattr(head, "projection"):
                yield ("heads", "projection", "weight", k), head.projection.weight

    def hidden_and_logits(self, batch):
        mask = torch.tensor((batch["segment"] > 0).astype(np.int64))
        token = torch.tensor(batch["token"]).long()
        hidden = self.model.model(token, attention_mask=mask).last_hidden_state
        return hidden, self.model.lm_head(hidden)

    def loss(self, kind, batch):
        labels = torch.where(
            torch.tensor(batch["is_label"]), torch.tensor(batch["token"]).long(), -100
        )
        with torch.set_grad_enabled(kind != "medusa1"):
            hidden, base = self.hidden_and_logits(batch)
        stacked = [base, *(head(hidden, self.model.lm_head) for head in self.heads)]
        entropies = [
            torch.nn.functional.cross_entropy(
                logits[:, : S - 1 - i].flatten(0, 1), labels[:, 1 + i :].flatten()
            )
            for i, logits in enumerate(stacked)
        ]
        medusa1 = sum(DECAY**k * entropy for k, entropy in enumerate(entropies[1:], 1))
        if kind == "medusa1":
            return medusa1, {}
        if kind == "medusa2":
            return entropies[0] + COEF * medusa1, {"lm_loss": entropies[0]}
        kl = self.divergence(batch, base, labels)
        return kl + COEF * medusa1, {"kl": kl}

    def divergence(self, batch, base, labels):
        """KL(original || model), mean over the positions whose next token is a label."""
        for adapter in self.adapters.values():
            adapter.on = False
        with torch.no_grad():
            original = self.hidden_and_logits(batch)[1]
        for adapter in self.adapters.values():
            adapter.on = True
        kl = torch.nn.functional.kl_div(
            base.log_softmax(-1), original.log_softmax(-1), log_target=True, reduction="none"
        ).sum(-1)
        return kl[:, : S - 1][labels[:, 1:] != -100].mean()


def adapters_of(lora):
    """Our adapters by the name that transformers has for their module."""
    flat = {}
    for layer, groups in lora.items():
        if layer == "lm_head":
            flat["lm_head",] = groups
            continue
        for group, names in groups.items():
            block = "self_attn" if group == "attn" else "mlp"
            for name, adapter in names.items():
                number = layer.removeprefix("layers_")
                flat["model", "layers", number, block, f"{name}_proj"] = adapter
    return flat


def padded_batch(vocab_size):
    rng = np.random.default_rng(0)
    segment = (np.arange(S) < np.array(LENGTHS)[:, None]).astype(np.int32)
    position = np.broadcast_to(np.arange(S, dtype=np.int32), segment.shape)
    return {
        "token": rng.integers(0, vocab_size, segment.shape).astype(np.int32),
        "is_label": (rng.random(segment.shape) < 0.7) & (segment > 0),
        "segment": segment,
        "position": position,
    }


def relative_error(got, wanted):
    return np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max()


@dataclasses.dataclass(frozen=True)
class Case:
    kind: str
    model: str
    own_projection: bool
    num_layers: int
    lora: bool


CASES = [
    Case("medusa1", "llama_mha", own_projection=True, num_layers=2, lora=False),
    Case("medusa1", "llama_gqa_tied", own_projection=False, num_layers=1, lora=False),
    Case("medusa2", "llama_mha", own_projection=True, num_layers=1, lora=False),
    Case("medusa2", "llama_gqa_tied", own_projection=False, num_layers=1, lora=False),
    Case("medusa2", "llama_mha", own_projection=False, num_layers=1, lora=True),
    Case("self_distill", "llama_mha", own_projection=True, num_layers=1, lora=True),
    Case("self_distill", "llama_gqa_tied", own_projection=False, num_layers=1, lora=True),
]


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "-".join(map(str, dataclasses.astuple(case)))
)
def test_losses_and_gradients(case, tmp_path):
    models.save_model(case.model, models.SMALL, tmp_path)
    lm = load_lm(tmp_path)
    V, D = lm.config.vocab_size, lm.config.hidden_size
    heads = MedusaConfig(M, D, V, num_layers=case.num_layers, own_projection=case.own_projection)
    params = {"backbone": lm.params, "heads": random_heads(heads)}
    if case.lora:
        params["lora"] = random_lora(lm.params)
    batch = padded_batch(V)

    objective = Objective(
        lm.config, heads, case.kind, head_decay=DECAY, lora_scale=SCALE, time_block=4
    )

    def loss(params):
        labels = objective.labels(params, batch)
        count = count_labels(labels)
        value, sums = objective.loss(params, batch, labels, count, heads_coef=jnp.float32(COEF))
        return value, metrics(sums, count)

    (value, report), gradient = quick_jit(jax.value_and_grad(loss, has_aux=True))(params)
    reference = Reference(tmp_path, heads, params)
    wanted, parts = reference.loss(case.kind, batch)
    wanted.backward()
    assert relative_error(value, wanted.item()) < 1e-5
    for name, part in parts.items():
        assert relative_error(report[name], part.item()) < TOLERANCE

    for path, parameter in reference.head_parameters():
        got = functools.reduce(lambda x, key: x[key], path, gradient)
        assert relative_error(got, parameter.grad.numpy()) < TOLERANCE, path
    mine = {".".join(path): x for path, x in adapters_of(gradient.get("lora", {})).items()}
    assert mine.keys() == reference.adapters.keys()
    for name, adapter in reference.adapters.items():
        for factor in "ab":
            error = relative_error(mine[name][factor], getattr(adapter, factor).grad.numpy())
            assert error < TOLERANCE, (name, factor)
    if case.kind == "medusa1":
        return
    named = dict(reference.model.named_parameters())
    for path, key in hf_keys(lm.config).items():
        got = functools.reduce(lambda x, name: x[name], path, gradient["backbone"])
        parameter = named.get(key, named.get(key.replace(".weight", ".base.weight")))
        assert relative_error(got, parameter.grad.numpy()) < TOLERANCE, key
