"""CutMix, random erasing, RandAugment and stochastic depth: what they draw, and that devices change none of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from training_fixtures import TinyNet, batch, printed_by

from bridgejax.errors import UserError
from bridgejax.models import load_classifier, reinitialise
from bridgejax.models.classifier import Preprocessing
from bridgejax.models.resnet import ResNet, ResNetConfig
from bridgejax.models.vit import VisionTransformer, ViTConfig
from bridgejax.recipes import Stage, recipe_from_config
from bridgejax.training import TrainState, make_eval_step, make_optimizer, make_train_step
from bridgejax.training.augmentation import AREAS, ASPECT, Augmentation, augmented, erased, row_keys
from bridgejax.training.batches import normalise
from bridgejax.training.feature_cache import caches_features
from bridgejax.training.mixing import MixRule, draw_mix, mixed
from bridgejax.training.randaugment import randaugment
from bridgejax.training.stacked import StackedStep, stack
from bridgejax.training.stages import check_model
from bridgejax.training.traced import skipping_branches

SIZE = (12, 20)
MIXUP, CUTMIX = MixRule(0.8, 1.0, 0.0), MixRule(0.8, 1.0, 1.0)


def draws(rule, count=400, rows=6, mask=None):
    """As many draws, stacked, for images of `SIZE`."""
    keys = jax.random.split(jax.random.key(3), count)
    return jax.jit(jax.vmap(lambda key: draw_mix(key, rule, rows, mask, SIZE)))(keys)


def areas(boxes):
    top, bottom, left, right = np.asarray(boxes).T
    assert ((top >= 0) & (top <= bottom) & (bottom <= SIZE[0]) & (left >= 0) & (left <= right) & (right <= SIZE[1])).all()
    return (bottom - top) * (right - left)


def test_a_batch_is_cut_or_mixed_as_the_share_says():
    both, alone = draws(MixRule(0.8, 1.0, 0.3)), draws(MixRule(0.0, 1.0, 0.0))
    whole = areas(both.box) == SIZE[0] * SIZE[1]
    assert 0.62 < whole.mean() < 0.78  # 0.7 within three deviations; hardly any cut takes the whole image
    np.testing.assert_array_equal(np.sort(both.partners, 1), np.tile(np.arange(6), (400, 1)))
    assert (areas(alone.box) == SIZE[0] * SIZE[1]).mean() < 0.02  # without Mixup every batch is cut, whatever the share
    assert len({tuple(box) for box in np.asarray(alone.box).tolist()}) > 200


def test_targets_are_mixed_by_the_exact_area_of_the_box():
    drawn = draws(CUTMIX)
    np.testing.assert_allclose(drawn.lam, 1 - areas(drawn.box) / (SIZE[0] * SIZE[1]), atol=1e-6)
    images = jnp.broadcast_to(jnp.arange(6.0)[:, None, None, None], (6, *SIZE, 3))
    mix = jax.jit(mixed)
    for number in range(12):
        one = jax.tree.map(lambda x, number=number: x[number], drawn)
        seen, targets = np.asarray(mix(images, one)), np.asarray(mix(jnp.eye(6), one))
        for row in range(6):
            held = [(seen[row] == label).mean() for label in range(6)]
            np.testing.assert_allclose(targets[row], held, atol=1e-6)


def test_a_mixed_batch_has_the_same_lambda_everywhere():
    drawn = draws(MIXUP)
    assert abs(float(drawn.lam.mean()) - 0.5) < 0.05
    assert abs(float(drawn.lam.var()) - 1 / (4 * (2 * 0.8 + 1))) < 0.02  # of Beta(0.8, 0.8)
    one = jax.tree.map(lambda x: x[0], drawn)
    images = jax.random.normal(jax.random.key(0), (6, *SIZE, 3))
    np.testing.assert_allclose(mixed(images, one), one.lam * images + (1 - one.lam) * images[one.partners], rtol=1e-6)


def test_padding_is_never_cut_into_a_row_that_counts():
    mask = jnp.asarray([1, 0, 1, 1, 0, 1.0])
    partners = np.asarray(draws(CUTMIX, mask=mask).partners)
    assert set(partners[:, [0, 2, 3, 5]].ravel().tolist()) == {0, 2, 3, 5}


def test_erased_boxes_have_the_stated_sizes_and_noise():
    image = jnp.full((48, 40, 3), 9.0)
    keys = jax.random.split(jax.random.key(1), 600)
    seen = np.asarray(jax.jit(jax.vmap(lambda key: erased(key, image, 0.25, "zero")))(keys)) != 9.0
    hit = seen.any((1, 2, 3))
    assert 0.2 < hit.mean() < 0.3
    for box in seen[hit][..., 0]:
        rows, columns = np.flatnonzero(box.any(1)), np.flatnonzero(box.any(0))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert box.sum() == height * width  # one whole box
        # Sides are rounded to pixels.
        assert (height + 0.5) * (width + 0.5) >= AREAS[0] * 48 * 40
        assert (height - 0.5) * (width - 0.5) <= AREAS[1] * 48 * 40
        assert ASPECT * (width - 0.5) <= height + 0.5
        assert height - 0.5 <= (width + 0.5) / ASPECT
    noise = np.asarray(jax.vmap(lambda key: erased(key, image, 1.0, "pixel"))(keys[:40]))
    noise = noise[noise != 9.0]
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05


def test_randaugment_does_half_of_its_operations():
    image = jax.random.randint(jax.random.key(0), (16, 16, 3), 30, 220).astype(jnp.uint8)
    keys = jax.random.split(jax.random.key(1), 300)

    def changed(magnitude, layers):
        program = jax.jit(jax.vmap(lambda key: randaugment(key, image, magnitude, layers, jnp.full(3, 128.0))))
        return (np.asarray(program(keys)) != np.asarray(image)).any((1, 2, 3)).mean()

    once, twice = changed(9.0, 1), changed(9.0, 2)
    assert 0.38 < once < 0.6
    assert 0.62 < twice < 0.85


def test_a_step_draws_from_seed_and_step_alone():
    how, data = Augmentation(erasing=1.0, randaugment=9.0), batch(6, size=16)
    model, rows = TinyNet(nnx.Rngs(0)), jnp.arange(6)
    program = jax.jit(lambda key, rows, images: augmented(key, rows, images, model, how))
    first = program(jax.random.key(0), rows, data["image"])
    np.testing.assert_array_equal(program(jax.random.key(0), rows[::-1], data["image"][::-1]), first[::-1])
    assert not np.array_equal(program(jax.random.key(1), rows, data["image"]), first)

    def losses(accumulate=1, seed=0):
        state = TrainState.create(TinyNet(nnx.Rngs(0), batch_norm=False), make_optimizer("sgd", 0.1), seed=seed)
        step = make_train_step(augmentation=how, accumulate=accumulate)
        found = []
        for _ in range(2):
            state, metrics = step(state, data)
            found.append(float(metrics["loss"]))
        return found

    np.testing.assert_allclose(losses(accumulate=2), losses(), rtol=1e-5)
    assert losses(seed=1) != losses()


def test_seeds_that_train_as_one_program_draw_as_alone():
    step = make_train_step(mixup_alpha=0.8, cutmix_alpha=1.0, augmentation=Augmentation(erasing=1.0), shares_program=True)
    optimizer, given = make_optimizer("sgd", 0.1), [batch(6, seed) for seed in range(2)]
    states = [TrainState.create(TinyNet(nnx.Rngs(0), batch_norm=False), optimizer, seed=seed) for seed in range(2)]
    together = StackedStep(step)
    together.prepare(states, given)
    _, metrics = together(stack(states), given)
    alone = [float(step(state, data)[1]["loss"]) for state, data in zip(states, given, strict=True)]
    np.testing.assert_allclose(metrics["loss"], alone, rtol=1e-5)


def test_one_two_and_four_devices_see_the_same_images():
    one, *more = printed_by("augmentation_program.py", 4)
    assert more == [one, one]  # digests: bit for bit


def tiny_vit():
    """Of three blocks."""
    config, told = ViTConfig("timm", "vit", 16, 8, 8, 3, 2, 16), Preprocessing(16, (0.5,) * 3, (0.5,) * 3, 1.0)
    model = nnx.jit(lambda: VisionTransformer(config, 3, told, rngs=nnx.Rngs(0)))()
    reinitialise(model, jax.random.key(0))
    return model


def test_stochastic_depth_skips_branches_of_later_blocks():
    model, keys = tiny_vit(), jax.random.split(jax.random.key(0), 2000)
    images = jnp.ones((1, 16, 16, 3))
    factors = []
    with skipping_branches(model, 0.5, keys):
        for block in model.blocks:
            factors += [np.asarray(branch.rows[...]) for branch in (block.self_attn, block.mlp)]
    for number, factor in enumerate(factors):
        rate = 0.25 * (number // 2)
        assert abs((factor == 0).mean() - rate) < 0.04
        np.testing.assert_allclose(np.unique(factor[factor > 0]), 1 / (1 - rate))
        assert abs(factor.mean() - 1) < 0.08  # on average nothing changes
    assert not np.array_equal(factors[-1], factors[-2])
    assert type(model.blocks[0].mlp).__name__ == "Mlp"  # the model is as it was
    assert model(images).shape == (1, 3)


def tiny_resnet(bottleneck):
    """Of two stages of two blocks; the first of each projects its input."""
    config = ResNetConfig("timm", "resnet", (2, 2), (16, 24), 8, bottleneck)
    return nnx.jit(lambda: ResNet(config, 3, Preprocessing(16, (0.5,) * 3, (0.5,) * 3, 1.0), rngs=nnx.Rngs(0)))()


def tiny_inverted():
    """A wide EfficientNet has more blocks than a test needs: the first four, of which the third has a residual."""
    model = load_classifier("builtin:efficientnet_lite0", num_classes=3)
    model.blocks = nnx.List(list(model.blocks)[:4])
    return model


@pytest.mark.parametrize("make", [lambda: tiny_resnet(False), lambda: tiny_resnet(True), tiny_inverted], ids=["2", "3", "lite"])
def test_convolutional_blocks_skip_their_residual(make):
    model = make()
    model.eval()
    number, block = max((n, block) for n, block in enumerate(model.blocks) if block.branches)
    norm = getattr(block, block.branches[0])
    channels_in = (block.conv1 if hasattr(block, "conv1") else block.expand_conv).kernel.shape[-2]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(400, 4, 4, channels_in)).astype(np.float32))
    whole = np.asarray(block(x))
    with skipping_branches(model, 0.5, jax.random.split(jax.random.key(0), 400)):
        factor, left = np.asarray(getattr(block, block.branches[0]).rows[...]), np.asarray(block(x))
    assert abs((factor == 0).mean() - 0.5 * number / (len(model.blocks) - 1)) < 0.08
    np.testing.assert_array_equal(np.asarray(block(x)), whole)  # the model is as it was
    scale, bias = norm.scale[...], norm.bias[...]
    norm.scale[...], norm.bias[...] = 0 * scale, 0 * bias  # a residual of nothing
    nothing = np.asarray(block(x))
    np.testing.assert_allclose(left[factor == 0], nothing[factor == 0], rtol=1e-5, atol=1e-5)
    norm.scale[...], norm.bias[...] = factor.max() * scale, factor.max() * bias
    np.testing.assert_allclose(left[factor > 0], np.asarray(block(x))[factor > 0], rtol=1e-4, atol=1e-4)


def test_a_step_trains_what_stochastic_depth_left_and_evaluation_has_it_all():
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    data, model = {"image": images, "label": np.arange(4) % 3}, tiny_vit()
    state = TrainState.create(model, make_optimizer("sgd", 0.1), seed=2)
    whole = np.asarray(make_eval_step()(state, data)["logits"])
    np.testing.assert_allclose(whole, model(normalise(jnp.asarray(images), model)), rtol=1e-5, atol=1e-6)
    with skipping_branches(model, 0.9, row_keys(jax.random.fold_in(state.key, state.step), jnp.arange(4), 2)):
        left = model(normalise(jnp.asarray(images), model))
    assert not np.allclose(left, whole)
    expected = optax.softmax_cross_entropy_with_integer_labels(left, data["label"]).mean()
    _, metrics = make_train_step(stochastic_depth=0.9, remat=True)(state, data)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_batch_norms_behind_a_skipped_residual_take_statistics_of_all_rows():
    """A row skips what the last norm of a block gives, not the norm."""
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    data = {"image": images, "label": np.arange(4) % 3, "mask": np.ones(4, np.float32)}

    def statistics(most):
        state = TrainState.create(tiny_resnet(False), make_optimizer("sgd", 0.1), seed=2)
        after, _ = make_train_step(stochastic_depth=most, batch_norm="train")(state, data)
        return {name: np.asarray(value) for name, value in after.other.items() if name.startswith("blocks.1.bn")}

    with_depth, without = statistics(0.9), statistics(0.0)
    assert without.keys() == with_depth.keys()
    assert len(without) >= 4
    for name, value in without.items():
        np.testing.assert_allclose(with_depth[name], value, rtol=1e-5, atol=1e-6)


def test_stages_state_them_and_refuse_what_does_not_fit():
    stated = {"cutmix_alpha": 1.0, "erasing": 0.25, "randaugment": 9, "stochastic_depth": 0.1}
    (stage,) = recipe_from_config("own", [{"data": "real", **stated}]).stages
    assert (stage.cutmix_share, stage.erasing_fill, stage.randaugment_layers) == (0.5, "pixel", 2)
    assert set(stated) <= set(stage.to_dict())
    assert not {*stated, "erasing_fill"} & set(Stage().to_dict())  # what was made before them stays valid
    for key, wrong, words in (
        ("erasing", 1.5, "at most 1"),
        ("randaugment", 11, "at most 10"),
        ("stochastic_depth", 1.0, "below 1"),
        ("erasing_fill", "noise", "pixel"),
    ):
        with pytest.raises(UserError, match=rf"{key} is .*{words}"):
            recipe_from_config("own", [{"data": "real", key: wrong}])
    for key, value in stated.items():
        moco = {"data": "real", "loss": "moco", key: value}
        with pytest.raises(UserError, match=f"{key} is .* does not go with loss='moco'"):
            recipe_from_config("own", [moco, {"data": "real", "reset": "head"}])


def test_what_changes_at_every_step_is_not_cached():
    still = {"trainable": ("head",), "batch_norm": "frozen", "augment": False}
    assert caches_features(Stage(**still), tiny_vit())
    for change in ({"cutmix_alpha": 1.0}, {"erasing": 0.1}, {"randaugment": 9.0}, {"stochastic_depth": 0.1}):
        assert not caches_features(Stage(**still, **change), tiny_vit())


def test_a_step_says_what_it_cannot_change():
    state = TrainState.create(TinyNet(nnx.Rngs(0)), make_optimizer("sgd", 0.1))
    with pytest.raises(UserError, match="TinyNet has no `blocks` that name their residual `branches`"):
        make_train_step(stochastic_depth=0.1)(state, batch())
    recipe = recipe_from_config("own", [{"data": "real", "stochastic_depth": 0.1}])
    with pytest.raises(UserError, match="stochastic_depth is above 0"):
        check_model(recipe, state.model)
    check_model(recipe, tiny_vit())
    flat = {"image": np.ones((4, 6), np.float32), "label": np.zeros(4, np.int32)}
    for options, words in (({"cutmix_alpha": 1.0}, "CutMix takes images"), ({"augmentation": Augmentation(0.5)}, "erasing")):
        with pytest.raises(UserError, match=words):
            make_train_step(**options)(state, flat)
    for options in ({"erasing": 2.0}, {"randaugment": -1.0}, {"randaugment_layers": 0}, {"erasing_fill": "grey"}):
        with pytest.raises(UserError, match=next(iter(options))):
            Augmentation(**options)
