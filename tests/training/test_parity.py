"""One step against PyTorch's own losses and optimisers, on the same weights and batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training_fixtures import CLASSES, TinyNet, batch

from bridgejax.training import LearningRateSchedule, TrainState, make_optimizer, make_train_step, mixing, mixup
from bridgejax.training.mixing import MixupDraw, draw_mixup

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

SGD = {"momentum": 0.9, "weight_decay": 5e-3}
ADAMW = {"weight_decay": 0.1}


class TorchNet(torch.nn.Module):
    """TinyNet in PyTorch, with its weights."""

    def __init__(self, model: TinyNet) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 6, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(6) if model.bn is not None else torch.nn.Identity()
        self.head = torch.nn.Linear(6, CLASSES)
        tensors = {"conv.weight": np.transpose(model.conv.kernel[...], (3, 2, 0, 1)), "conv.bias": model.conv.bias[...]}
        tensors |= {"head.weight": np.transpose(model.head.kernel[...]), "head.bias": model.head.bias[...]}
        self.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}, strict=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.bn(self.conv(images))).mean((2, 3)))


def close(state: TrainState, reference: TorchNet) -> None:
    """Parameters within 1e-5 of the largest of their tensor; 1e-8 for a bias before batch norm: 0 but for rounding."""
    ours = {
        "conv.weight": np.transpose(state.params["conv.kernel"], (3, 2, 0, 1)),
        "conv.bias": state.params["conv.bias"],
        "head.weight": np.transpose(state.params["head.kernel"]),
        "head.bias": state.params["head.bias"],
    }
    for name, value in ours.items():
        expected = dict(reference.named_parameters())[name].detach().numpy()
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=max(1e-8, 1e-5 * np.abs(expected).max()), err_msg=name)


def images_of(data: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.transpose(data["image"], (0, 3, 1, 2)).copy())


@pytest.mark.parametrize(
    ("name", "options", "smoothing", "steps"),
    [
        ("sgd", {"momentum": 0.0}, 0.0, 1),
        ("sgd", SGD, 0.0, 4),
        ("sgd", {**SGD, "nesterov": True}, 0.1, 4),
        ("adamw", ADAMW, 0.0, 4),
        ("adamw", {**ADAMW, "betas": (0.8, 0.95), "eps": 1e-6}, 0.2, 4),
    ],
)
def test_steps_equal_torchs(name, options, smoothing, steps):
    # Without batch norm in front: a bias before it has gradient 0 but for rounding, which AdamW blows up to full steps.
    model = nnx.jit(lambda: TinyNet(nnx.Rngs(0), batch_norm=False))()
    reference = TorchNet(model)
    rate = 0.1 if name == "sgd" else 1e-2
    maker = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    optimizer = maker(reference.parameters(), lr=rate, **options)
    state = TrainState.create(model, make_optimizer(name, learning_rate=rate, **options))
    step = make_train_step(label_smoothing=smoothing)
    for number in range(steps):
        data = batch(8, number)
        loss = torch.nn.functional.cross_entropy(
            reference(images_of(data)), torch.from_numpy(data["label"]).long(), label_smoothing=smoothing
        )
        optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in reference.parameters()))
        optimizer.step()
        state, metrics = step(state, data)
        np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-5)
        np.testing.assert_allclose(metrics["gradient_norm"], norm.item(), rtol=1e-5)
        close(state, reference)


def test_batch_norm_in_training_equals_torchs():
    model = nnx.jit(lambda: TinyNet(nnx.Rngs(0)))()
    reference = TorchNet(model)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, **SGD)
    state = TrainState.create(model, make_optimizer("sgd", learning_rate=0.1, **SGD))
    data = batch()
    loss = torch.nn.functional.cross_entropy(reference(images_of(data)), torch.from_numpy(data["label"]).long())
    loss.backward()
    optimizer.step()
    state, metrics = make_train_step()(state, data)
    np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-5)
    close(state, reference)
    np.testing.assert_allclose(state.other["bn.mean"], reference.bn.running_mean.numpy(), rtol=1e-4, atol=1e-6)


def test_mixup_step_equals_torchs_with_the_same_draw():
    model = nnx.jit(lambda: TinyNet(nnx.Rngs(0), batch_norm=False))()
    reference = TorchNet(model)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, **SGD)
    state = TrainState.create(model, make_optimizer("sgd", learning_rate=0.1, **SGD), seed=4)
    lam, partners, _ = draw_mixup(jax.random.fold_in(jax.random.key(4), 0), jnp.float32(0.7), 8, None)
    data = batch()
    x, one_hot = images_of(data), torch.nn.functional.one_hot(torch.from_numpy(data["label"]).long(), CLASSES).float()
    order, weight = torch.from_numpy(np.array(partners)).long(), float(lam)
    assert sorted(order.tolist()) == list(range(8))
    mixed_x, mixed_y = weight * x + (1 - weight) * x[order], weight * one_hot + (1 - weight) * one_hot[order]
    ours_x, ours_y = mixup(data["image"], one_hot.numpy(), weight, np.array(partners))
    np.testing.assert_allclose(np.transpose(ours_x, (0, 3, 1, 2)), mixed_x.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours_y, mixed_y.numpy(), rtol=1e-5, atol=1e-7)
    loss = torch.nn.functional.cross_entropy(reference(mixed_x), mixed_y, label_smoothing=0.1)
    loss.backward()
    optimizer.step()
    state, metrics = make_train_step(mixup_alpha=0.7, label_smoothing=0.1)(state, data)
    np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-5)
    close(state, reference)


@pytest.mark.parametrize("lam", [0.3, 0.85])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("name", "options"), [("sgd", SGD), ("sgd", {**SGD, "nesterov": True}), ("adamw", ADAMW)])
def test_steps_with_mixup_at_a_given_lambda_equal_torchs(monkeypatch, name, options, smoothing, lam):
    model = nnx.jit(lambda: TinyNet(nnx.Rngs(0), batch_norm=False))()
    reference = TorchNet(model)
    rate = 0.1 if name == "sgd" else 1e-2
    optimizer = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name](reference.parameters(), lr=rate, **options)
    state = TrainState.create(model, make_optimizer(name, learning_rate=rate, **options))
    step = make_train_step(mixup_alpha=1.0, label_smoothing=smoothing)
    for number in range(4):
        partners = np.random.default_rng(number).permutation(8).astype(np.int32)
        draw = MixupDraw(jnp.float32(lam), jnp.asarray(partners))
        monkeypatch.setattr(mixing, "draw_program", lambda *of, draw=draw: lambda *key: draw)
        data = batch(8, number)
        x, order = images_of(data), torch.from_numpy(partners).long()
        one_hot = torch.nn.functional.one_hot(torch.from_numpy(data["label"]).long(), CLASSES).float()
        targets = lam * one_hot + (1 - lam) * one_hot[order]
        loss = torch.nn.functional.cross_entropy(reference(lam * x + (1 - lam) * x[order]), targets, label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state, metrics = step(state, data)
        np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-5)
        close(state, reference)


def test_soft_target_loss_equals_torchs():
    model = nnx.jit(lambda: TinyNet(nnx.Rngs(0), batch_norm=False))()
    reference = TorchNet(model)
    data = batch()
    teacher = np.random.default_rng(1).normal(size=(8, CLASSES)).astype(np.float32) * 4
    logits = reference(images_of(data))
    soft = torch.nn.functional.cross_entropy(logits, torch.softmax(torch.from_numpy(teacher) / 2.0, -1))
    loss = 0.5 * torch.nn.functional.cross_entropy(logits, torch.from_numpy(data["label"]).long()) + 0.5 * soft
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    loss.backward()
    optimizer.step()
    state = TrainState.create(model, make_optimizer("sgd", learning_rate=0.1, momentum=0.0))
    step = make_train_step(loss="soft_target", soft_weight=0.5, temperature=2.0)
    state, metrics = step(state, {**data, "teacher_logits": teacher})
    np.testing.assert_allclose(metrics["loss"], loss.item(), rtol=1e-5)
    close(state, reference)


def test_the_cosine_schedule_equals_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    ours = LearningRateSchedule.make("cosine", 0.3, total=20)
    for number in range(20):
        np.testing.assert_allclose(ours.rate(jnp.int32(number)), optimizer.param_groups[0]["lr"], rtol=1e-5, atol=1e-7)
        optimizer.step()
        scheduler.step()
