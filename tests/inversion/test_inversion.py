"""Learning a token: only its rows move, the loss falls, a stop changes nothing, and the gradient is PyTorch's."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks.reduced import families
from bridgejax.diffusion import load_pipeline
from bridgejax.diffusion.schedulers import make_scheduler
from bridgejax.diffusion.textual_inversion import save_embedding
from bridgejax.errors import UserError
from bridgejax.inversion.token_loop import TokenExamples, TokenSettings, evaluate, learn_token
from bridgejax.inversion.token_step import (
    AdamWSettings,
    Draws,
    Inversion,
    InversionState,
    adamw_update,
    denoising_loss,
    first_ids,
    prediction_target,
)
from bridgejax.models.clip_text import Words

START = np.random.default_rng(3).normal(0, 0.3, (2, 32)).astype(np.float32)  # a word of two vectors


@pytest.fixture(scope="module")
def styled(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny generator with the word <s>."""
    file = tmp_path_factory.mktemp("word") / "s.safetensors"
    save_embedding(file, "<s>", START)
    return load_pipeline(tiny_folder, embeddings={"<s>": file})


@pytest.fixture(scope="module")
def inversion(styled: Any) -> Inversion:
    return Inversion(styled, batch_size=2)


@pytest.fixture(scope="module")
def examples(styled: Any, inversion: Inversion) -> TokenExamples:
    """Three plain pictures and their mirror images, two prompts each."""
    images = np.linspace(0, 1, 3 * 16 * 16 * 3).reshape(3, 16, 16, 3).astype(np.float32)
    moments = np.stack([inversion.moments(images), inversion.moments(images[:, :, ::-1])])
    ids = np.stack([styled.tokenizers[0]([text] * 3) for text in ("a <s>", "one in the style of <s>")])
    return TokenExamples(moments, (ids,))


def _settings(styled: Any, **changes: Any) -> TokenSettings:
    plain = TokenSettings("<s>", tuple(first_ids(styled, "<s>")), 24, 0.02, 0.01, 5, 4, 10, "this")
    return dataclasses.replace(plain, **changes)


def test_given_rows_stand_for_those_of_the_table(styled: Any, pipe: Any) -> None:
    rows = np.random.default_rng(4).normal(size=(2, 32)).astype(np.float32)
    ids = styled.tokenizers[0](["a <s> cat", "no word"])
    given, _ = styled.networks.encode_text([jnp.asarray(ids)], [Words(jnp.int32(514), jnp.asarray(rows))])
    table = styled.networks.text_encoders[0].embeddings.token_embedding.embedding
    kept = np.asarray(table[...])
    styled.set_words([Words(np.int32(514), rows)])
    try:
        np.testing.assert_allclose(styled.encode_prompts(["a <s> cat", "no word"])[0], given, atol=1e-5)
        now = np.asarray(table[...])
        np.testing.assert_array_equal(now[514:516], rows)
        np.testing.assert_array_equal(now[:514], kept[:514])
    finally:
        styled.set_words([Words(np.int32(514), kept[514:516])])
    np.testing.assert_allclose(given[1], pipe.encode_prompts(["no word"])[0][0], atol=1e-5)
    with pytest.raises(UserError, match="do not fit a token table"):
        styled.set_words([Words(np.int32(515), rows)])


def test_the_loss_falls_and_nothing_but_the_rows_changes(
    styled: Any, inversion: Inversion, examples: TokenExamples, tmp_path: Path
) -> None:
    before = jax.tree.map(np.array, styled.split[1])
    settings = _settings(styled, steps=60, evaluations=2)
    learned = learn_token(inversion, examples, settings, [START], tmp_path / "c.npz")
    losses = dict(learned.evaluations)
    assert list(losses) == [0, 30, 60]
    assert losses[60] < losses[30] < losses[0]
    assert losses[0] == evaluate(inversion, examples, settings.first_ids, [jnp.asarray(START)])
    assert len(learned.losses) == 60
    assert (np.abs(learned.rows[0] - START) > 1e-3).all()  # both vectors
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, styled.split[1]))


def test_a_word_of_sdxl_is_learned_for_both_text_encoders(tmp_path: Path) -> None:
    folder = families.write_family_by_numpy("sdxl", tmp_path / "sdxl")
    start = tuple(0.3 * families.normal(i, 1, width) for i, width in enumerate((32, 24)))
    save_embedding(tmp_path / "start.safetensors", "<s>", start)
    styled = load_pipeline(folder, embeddings={"<s>": tmp_path / "start.safetensors"})
    inversion = Inversion(styled, batch_size=2)
    moments = inversion.moments(np.linspace(0, 1, 2 * 16 * 16 * 3).reshape(2, 16, 16, 3).astype(np.float32))[None]
    ids = tuple(np.stack([tokenizer(["a <s>"] * 2)]) for tokenizer in styled.tokenizers)
    settings = _settings(styled, steps=40, evaluations=1)
    learned = learn_token(inversion, TokenExamples(moments, ids), settings, list(start), tmp_path / "c.npz")
    losses = dict(learned.evaluations)
    assert losses[40] < losses[0]
    assert [rows.shape for rows in learned.rows] == [(1, 32), (1, 24)]
    for rows, before in zip(learned.rows, start, strict=True):
        assert (np.abs(rows - before) > 1e-3).mean() > 0.9
    save_embedding(tmp_path / "learned.safetensors", "<s>", learned.rows)
    taught = load_pipeline(folder, embeddings={"<s>": tmp_path / "learned.safetensors"})
    images = [pipe("a <s>", seeds=1, steps=2, height=16, width=16) for pipe in (styled, taught)]
    assert np.abs(np.asarray(images[0]) - np.asarray(images[1])).max() > 1e-3


def test_a_stopped_run_ends_with_the_same_bits(
    styled: Any, inversion: Inversion, examples: TokenExamples, tmp_path: Path
) -> None:
    whole = learn_token(inversion, examples, _settings(styled), [START], tmp_path / "whole.npz")

    def stop(step: int, rows: Any) -> None:
        if step == 18:  # eight steps after the last checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_token(inversion, examples, _settings(styled), [START], tmp_path / "c.npz", stop)
    # Other checkpoints and milestones from here on: neither decides anything.
    rest = learn_token(inversion, examples, _settings(styled, checkpoint_every=7), [START], tmp_path / "c.npz")
    np.testing.assert_array_equal(rest.rows[0], whole.rows[0])
    np.testing.assert_array_equal(rest.losses, whole.losses)
    assert rest.evaluations == whole.evaluations
    done = learn_token(inversion, examples, _settings(styled), [START], tmp_path / "c.npz")
    np.testing.assert_array_equal(done.rows[0], whole.rows[0])
    assert done.seconds_per_step is None  # nothing was done again
    other = learn_token(inversion, examples, _settings(styled, identity="other", steps=1), [START], tmp_path / "c.npz")
    assert len(other.losses) == 1
    (tmp_path / "c.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-50])
    with pytest.raises(UserError, match=r"c.npz cannot be read .* remove it"):
        learn_token(inversion, examples, _settings(styled), [START], tmp_path / "c.npz")


def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    styled: Any, inversion: Inversion, examples: TokenExamples, tmp_path: Path
) -> None:
    file = tmp_path / "c.npz"
    learn_token(inversion, examples, _settings(styled, steps=10), [START], file)
    kept = file.read_bytes()
    with pytest.raises(
        UserError, match=r"the loss is nan at step 1[1-3] with learning rate 1e\+30 .*the checkpoint of step 10 stays"
    ):
        learn_token(inversion, examples, _settings(styled, learning_rate=1e30), [START], file)
    assert file.read_bytes() == kept
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]
    # Rows after which no loss is finite are no checkpoint to go on from.
    with pytest.raises(UserError, match=r"the loss is nan at step 1 .*no checkpoint yet"):
        learn_token(inversion, examples, _settings(styled, learning_rate=1e38, checkpoint_every=1), [START], tmp_path / "d.npz")
    assert not (tmp_path / "d.npz").exists()


def test_a_bound_holds_from_the_first_step_that_passes_it(styled: Any, inversion: Inversion, examples: TokenExamples) -> None:
    settings = _settings(styled)
    batch = examples.batch(inversion, *examples.places(0, 0, 2))
    lengths = np.linalg.norm(START, axis=1)
    bound = float(lengths.mean())  # one vector is longer, the other is not

    def after(max_norms: Any) -> np.ndarray:
        state, _ = inversion.step(InversionState.create([START], 0), batch, settings.first_ids, 0.001, 0.0, max_norms)
        return np.asarray(state.rows[0])

    free, bounded = after(None), after([bound])
    long = lengths > bound
    assert long.sum() == 1
    np.testing.assert_array_equal(bounded[~long], free[~long])
    np.testing.assert_allclose(bounded[long], free[long] * bound / np.linalg.norm(free[long]), rtol=1e-5)


def test_every_image_comes_once_per_epoch(examples: TokenExamples) -> None:
    mirrors, images, prompts = examples.places(7, 0, 300)
    assert [sorted(images[start : start + 3]) for start in range(0, 300, 3)] == [[0, 1, 2]] * 100
    for chance in (mirrors, prompts):
        assert 100 < chance.sum() < 200
    part = examples.places(7, 100, 50)
    np.testing.assert_array_equal(np.stack(part), np.stack([mirrors, images, prompts])[:, 100:150])
    assert (examples.places(8, 0, 300)[1] != images).any()


def test_devices_change_rounding_alone(tiny_folder: Path, tmp_path: Path) -> None:
    """Batches of six on four devices are padded to eight, which nobody should see."""
    save_embedding(tmp_path / "s.safetensors", "<s>", START)
    program = Path(__file__).with_name("inversion_program.py")
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, str(program), str(tiny_folder), str(tmp_path / "s.safetensors")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    split, plain = (np.asarray(json.loads(line)) for line in done.stdout.splitlines()[-2:])
    np.testing.assert_allclose(split, plain, atol=2e-5)  # Adam's sign-like first steps of 0.01 magnify rounding


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("source", ["tiny", "builtin"])
@pytest.mark.parity
def test_the_gradient_is_that_of_pytorch(kind: str, source: str, tiny_folder: Path, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from diffusers import DDPMScheduler, StableDiffusionPipeline

    folder = tiny_folder if source == "tiny" else Path(load_pipeline("builtin:tiny_diffusion").folder)
    theirs = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None).to(torch.float32)
    width = theirs.text_encoder.config.hidden_size
    rng = np.random.default_rng(6)
    start = rng.normal(0, 0.1, (2, width)).astype(np.float32)
    save_embedding(tmp_path / "s.safetensors", "<s>", start)
    theirs.load_textual_inversion(str(tmp_path / "s.safetensors"))
    pipe = load_pipeline(folder, prediction_type=kind, embeddings={"<s>": tmp_path / "s.safetensors"})
    prompts = ["a photo in the style of <s>", "<s> bird"]
    side = pipe.default_height // pipe.vae_factor
    latents, noise = rng.normal(size=(2, 2, side, side, 4)).astype(np.float32)
    timesteps = np.array([37, 811])

    # PyTorch: the same prompts, noise and timesteps; the row's gradient out of the whole table's.
    scheduler = DDPMScheduler.from_config(theirs.scheduler.config, prediction_type=kind)
    texts = theirs.maybe_convert_prompt(prompts, theirs.tokenizer)
    ids = theirs.tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    chw = [torch.from_numpy(array.transpose(0, 3, 1, 2).copy()) for array in (latents, noise)]
    times = torch.from_numpy(timesteps)
    noisy = scheduler.add_noise(*chw, times)
    target = chw[1] if kind == "epsilon" else scheduler.get_velocity(*chw, times)
    table = theirs.text_encoder.get_input_embeddings().weight
    table.requires_grad_(True)
    output = theirs.unet(noisy, times, theirs.text_encoder(ids)[0]).sample
    expected_loss = torch.nn.functional.mse_loss(output, target)
    (gradient,) = torch.autograd.grad(expected_loss, table)
    first = len(theirs.tokenizer) - 2

    settings = make_scheduler(None, pipe.spec.scheduler, "").settings
    assert settings.prediction_type == kind
    alphas = jnp.asarray(settings.alphas_cumulative(), jnp.float32)
    draws = Draws(jnp.asarray(latents), jnp.asarray(timesteps), jnp.asarray(noise))
    tokens = pipe.tokenizers[0](prompts)
    graph, state = pipe.split

    @jax.jit
    def loss(rows: jax.Array, state: Any) -> jax.Array:
        words = [Words(jnp.int32(first_ids(pipe, "<s>")[0]), rows)]
        return jnp.mean(denoising_loss(nnx.merge(graph, state), words, [tokens], draws, alphas, kind))

    value, ours = jax.value_and_grad(loss)(jnp.asarray(start), state)
    assert float(value) == pytest.approx(expected_loss.item(), rel=1e-5)
    expected = gradient[first : first + 2].numpy()
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(ours, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parity
@pytest.mark.parametrize("weight_decay", [0.0, 1e-2])
def test_updates_are_those_of_pytorchs_adamw(weight_decay: float) -> None:
    """Over many steps, so that the moments and their bias correction count, and with gradients near epsilon."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(9)
    start = rng.normal(0, 0.1, (2, 32)).astype(np.float32)
    theirs = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = torch.optim.AdamW([theirs], lr=5e-3, betas=(0.9, 0.999), weight_decay=weight_decay, eps=1e-8)
    state = InversionState.create([start], 0)
    rows, moments = state.rows, state.moments
    adamw = AdamWSettings(np.float32(5e-3), np.float32(weight_decay), np.asarray([np.inf], np.float32))
    for scale in np.geomspace(1e-8, 1, 50):
        gradient = (scale * rng.normal(size=start.shape)).astype(np.float32)
        theirs.grad = torch.from_numpy(gradient)
        optimizer.step()
        rows, moments = adamw_update(rows, (jnp.asarray(gradient),), moments, adamw)
    expected = theirs.detach().numpy()
    assert np.abs(expected - start).max() > 0.05
    np.testing.assert_allclose(rows[0], expected, atol=1e-6)


def test_targets_undo_the_noise() -> None:
    """From x = √ᾱ·z + √(1-ᾱ)·ε, each target gives z back."""
    z, noise = np.random.default_rng(8).normal(size=(2, 1, 2, 2, 4))
    alpha = np.full((1, 1, 1, 1), 0.3)
    x = np.sqrt(alpha) * z + np.sqrt(1 - alpha) * noise
    found = {kind: np.asarray(prediction_target(kind, z, noise, alpha)) for kind in ("epsilon", "v_prediction", "sample")}
    np.testing.assert_allclose((x - np.sqrt(1 - alpha) * found["epsilon"]) / np.sqrt(alpha), z, atol=1e-5)
    np.testing.assert_allclose(np.sqrt(alpha) * x - np.sqrt(1 - alpha) * found["v_prediction"], z, atol=1e-5)
    np.testing.assert_allclose(found["sample"], z)
