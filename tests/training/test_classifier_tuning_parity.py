"""Classifier tuning against an independent computation in PyTorch, from the images to the weights after a step."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tuning_fixtures import CROP, NAMES, SIDE, SOFT, TEMPLATES, TUNING, CountingStreams, clip, pictures, task

from bridgejax import data
from bridgejax.recipes import recipe_from_config
from bridgejax.training import RunInputs, RunOptions, train_recipe
from bridgejax.training.teachers import ClassifierTeacher

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

COUNT, SHOTS = 12, 4


class Original:
    """CLIP by transformers, with the head and the loss of He et al. 2023 written down from their formulas."""

    def __init__(self, folder):
        from transformers import CLIPModel

        self.clip = CLIPModel.from_pretrained(folder).eval().double()
        self.folder = folder

    def head(self, ids):
        """The zero-shot head of prompts [classes, templates]: unit means of unit embeddings, times exp(logit_scale)."""
        with torch.no_grad():
            each = [self.clip.get_text_features(input_ids=torch.from_numpy(row)).pooler_output for row in ids]
            unit = torch.stack([(row / row.norm(dim=-1, keepdim=True)).mean(0) for row in each])
            weight = unit / unit.norm(dim=-1, keepdim=True) * self.clip.logit_scale.exp()
        linear = torch.nn.Linear(weight.shape[1], len(weight)).double()
        linear.weight.data, linear.bias.data = weight.clone(), torch.zeros(len(weight)).double()
        return linear

    def features(self, images):
        with torch.no_grad():
            found = self.clip.get_image_features(pixel_values=torch.from_numpy(images).double()).pooler_output
        return found / found.norm(dim=-1, keepdim=True)


def pixels(model, examples):
    """What the encoder gets, [n, 3, h, w], of the middle of each image."""
    (batch,) = data.eval_batches(examples, batch_size=len(examples), image_size=SIDE, crop=CROP)
    values = (batch["image"] / 255.0 - model.preprocessing.mean) / np.asarray(model.preprocessing.std)
    return values.transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    from bridgejax.models.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("clip")
    model = clip(folder)
    original = Original(folder)
    prompts = [[template.replace("{}", name) for template in TEMPLATES] for name in NAMES]
    tokenizer = Tokenizer(folder, 77)
    return model, original, np.stack([np.asarray(tokenizer(row), np.int64) for row in prompts])


def close(found, expected, most=1e-5):
    """Within `most` of the tensor's largest value."""
    expected = np.asarray(expected)
    assert np.abs(np.asarray(found) - expected).max() <= most * np.abs(expected).max()


def test_zero_shot_logits(both):
    model, original, ids = both
    images = pixels(model, pictures(COUNT, 5))
    with torch.no_grad():
        expected = original.head(ids)(original.features(images))
    close(model(images.transpose(0, 2, 3, 1).astype(np.float32)), expected)


def soft_loss(head, teacher, features, labels):
    logits = head(features)
    with torch.no_grad():
        soft = torch.softmax(teacher(features) / 2, -1)
    soft_loss = -(soft * torch.log_softmax(logits, -1)).sum(-1).mean()
    return 0.5 * torch.nn.functional.cross_entropy(logits, labels) + 0.5 * soft_loss


def step(head, loss, rate):
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=0.1)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
    optimizer.step()


def run(model, stage, synthetic, count, **inputs):
    recipe = recipe_from_config("mine", [{**stage, "steps": 1}])
    options = RunOptions(batch_size=count, eval_batch_size=count, image_size=SIDE)
    return train_recipe(recipe, RunInputs(model, task(SHOTS), 0, synthetic, **inputs), options, streams=CountingStreams())


def compare(result, head, loss, before, rate):
    assert result.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    kernel, bias = (np.asarray(result.state.params[f"head.{name}"]) for name in ("kernel", "bias"))
    close(kernel.T, head.weight.detach())
    close(bias, head.bias.detach())
    # The change itself, which is all of the step: Adam's first is the rate in each weight but for those of tiny gradients.
    close(kernel.T - before, head.weight.detach().numpy() - before, most=1e-3)
    assert np.abs(bias).max() == pytest.approx(rate, rel=1e-3)


def test_one_step_of_classifier_tuning(both):
    model, original, ids = both
    synthetic = pictures(COUNT, 5)  # one batch holds them all, so their order does not matter
    head, teacher = original.head(ids), original.head(ids)
    head.weight.data += 0.01 * torch.arange(head.weight.numel()).reshape(head.weight.shape).double().sin()
    features, labels = original.features(pixels(model, synthetic)), torch.from_numpy(synthetic.labels.astype(np.int64))
    loss = soft_loss(head, teacher, features, labels)
    before = head.weight.detach().numpy().copy()
    step(head, loss, 0.002)
    moved = nnx.clone(model)  # away from the teacher, so that the soft part has a gradient
    moved.head.kernel.set_value(jnp.asarray(before.T, jnp.float32))
    result = run(
        moved, {"data": "synthetic", **TUNING, **SOFT}, synthetic, COUNT, teachers={"pretrained": ClassifierTeacher(model)}
    )
    compare(result, head, loss, before, 0.002)


def test_one_step_of_mix_training(both):
    """The paper adds the losses of both batches; half of that sum with half the bound is the same step of Adam."""
    model, original, ids = both
    synthetic, real = pictures(COUNT, 5), task(SHOTS).train
    head, teacher = original.head(ids), original.head(ids)
    before = head.weight.detach().numpy().copy()
    parts = [
        (original.features(pixels(model, each)), torch.from_numpy(each.labels.astype(np.int64))) for each in (real, synthetic)
    ]
    loss = torch.nn.functional.cross_entropy(head(parts[0][0]), parts[0][1]) + soft_loss(head, teacher, *parts[1])
    step(head, loss, 0.001)
    mix = {"data": "mixed", "batch_size": COUNT + SHOTS, "synthetic_share": COUNT / (COUNT + SHOTS), "synthetic_loss": 0.5}
    stage = {**mix, **TUNING, **SOFT, "soft_images": "synthetic", "learning_rate": 0.001, "clip_norm": 0.5}
    compare(run(model, stage, synthetic, COUNT + SHOTS), head, loss / 2, before, 0.001)
