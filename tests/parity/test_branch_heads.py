"""Losses and gradients of heads that see their branch, against the same written in torch."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="pip install 'medusa-jax[parity]'")

from medusa_jax.config import MedusaConfig  # noqa: E402
from medusa_jax.objectives.labels import count_labels  # noqa: E402
from medusa_jax.objectives.objective import Objective  # noqa: E402
from tests.medusa_jax.branch_heads import KINDS  # noqa: E402
from tests.medusa_jax.packed import (  # noqa: E402
    SMALL,
    quick_jit,
    random_backbone,
    random_heads,
)

M, T, DECAY = 3, 40, 0.8
V, D = SMALL.vocab_size, SMALL.hidden_size


def torch_head(kind, p, k, hidden_TD, branch_TJD, lm_head_VD):
    """Logits of head k from 0, teacher-forced; `branch_TJD` holds the tokens from t + 1 on."""
    e_TJD = branch_TJD / branch_TJD.pow(2).mean(-1, keepdim=True).sqrt()
    linear = torch.nn.functional.linear
    if kind == "branch":
        first = k * (k + 1) // 2
        seen_TD = sum(linear(e_TJD[:, j], p["branch.weight"][first + j]) for j in range(k + 1))
    elif kind == "recurrent":
        state_TD = torch.zeros_like(hidden_TD)
        for j in range(k + 1):
            new_TD = linear(e_TJD[:, j], p["cell_token.weight"], p["cell_token.bias"])
            state_TD = torch.nn.functional.silu(linear(state_TD, p["cell_state.weight"]) + new_TD)
        seen_TD = linear(state_TD, p["cell_out.weight"])
    else:
        seen_TD = linear(e_TJD[:, 0], p["root.weight"][k])
    x_TD = hidden_TD
    for layer in range(2):
        weight_DD = p["blocks.weight"][0 if kind == "recurrent" else k, layer]
        y_TD = linear(x_TD, weight_DD, p["blocks.bias"][k, layer])
        x_TD = x_TD + torch.nn.functional.silu(y_TD + (seen_TD if layer == 0 else 0))
    logits_TV = linear(x_TD, lm_head_VD)
    if "markov" not in kind:
        return logits_TV
    z_Tr = linear(e_TJD[:, k], p["markov_in.weight"])
    if kind == "gated_markov":
        z_Tr = z_Tr * linear(torch.cat([x_TD, z_Tr], -1), p["markov_gate.weight"]).sigmoid()
    return logits_TV + linear(z_Tr, p["markov_out.weight"])


@pytest.mark.parametrize(
    ("kind", "own", "head_labels"),
    [
        *((kind, False, labels) for kind in KINDS for labels in ("tokens", "l1", "distribution")),
        ("markov", True, "tokens"),
        ("gated_markov", True, "distribution"),
    ],
)
def test_losses_and_gradients(kind, own, head_labels):
    more = {"own_projection": own, "markov_rank": 4 if "markov" in kind else 0}
    heads = MedusaConfig(M, D, V, num_layers=2, conditioning=kind, **more)
    params = {"backbone": random_backbone(SMALL), "heads": random_heads(heads)}
    rng = np.random.default_rng(0)
    following = 0 if head_labels == "tokens" else M
    batch = {
        "hidden": rng.normal(size=(1, T, 1 + following, D)).astype(np.float32),
        "next": rng.integers(0, V, (1, T, M)).astype(np.int32),
        "labels": np.where(
            rng.random((1, T, M + 1)) < 0.8, rng.integers(0, V, (1, T, M + 1)), -100
        ),
    }
    objective = Objective(SMALL, heads, head_decay=DECAY, head_labels=head_labels, time_block=16)

    def loss(params):
        labels = objective.labels(params, batch)
        return objective.loss(params, batch, labels, count_labels(labels))[0]

    value, gradient = quick_jit(jax.value_and_grad(loss))(params)
    tensors = {
        f"{module}.{name}": torch.tensor(np.asarray(x), requires_grad=True)
        for module, leaves in params["heads"].items()
        for name, x in leaves.items()
    }
    lm_head_VD = torch.tensor(params["backbone"]["lm_head"]["weight"])
    table_VD = torch.tensor(params["backbone"]["embed"]["weight"])
    hidden_TSD = torch.tensor(batch["hidden"][0])
    branch_TJD = table_VD[torch.tensor(batch["next"][0]).long()]
    labels_TJ = torch.tensor(batch["labels"][0]).long()
    wanted = torch.tensor(0.0)
    for k in range(M):
        label_T = labels_TJ[:, k + 1]
        weight_VD = tensors["projection.weight"][k] if own else lm_head_VD
        logits_TV = torch_head(kind, tensors, k, hidden_TSD[:, 0], branch_TJD, weight_VD)
        loss_k = torch.nn.functional.cross_entropy(logits_TV, label_T, ignore_index=-100)
        if head_labels != "tokens":
            teacher_TV = (hidden_TSD[:, k + 1] @ lm_head_VD.T).softmax(-1)
        if head_labels == "l1":
            distance_T = (logits_TV.softmax(-1) - teacher_TV).abs().sum(-1)
            loss_k = 0.1 * loss_k + 0.9 * distance_T[label_T >= 0].mean()
        if head_labels == "distribution":
            loss_T = -(teacher_TV * logits_TV.log_softmax(-1)).sum(-1)
            loss_k = loss_T[label_T >= 0].mean()
        wanted = wanted + DECAY ** (k + 1) * loss_k
    wanted.backward()
    np.testing.assert_allclose(value, wanted.item(), rtol=1e-5)
    for name, tensor in tensors.items():
        module, leaf = name.split(".")
        theirs = tensor.grad.numpy()
        error = np.abs(np.asarray(gradient["heads"][module][leaf]) - theirs).max()
        assert error < 1e-4 * np.abs(theirs).max(), name
