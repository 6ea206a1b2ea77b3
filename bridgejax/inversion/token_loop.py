"""The loop that learns one token from images: resumable at any step, bit for bit."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from bridgejax.errors import UserError
from bridgejax.files import write_atomic
from bridgejax.identity import derive_seed
from bridgejax.inversion.token_step import Inversion, InversionState, TokenBatch
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.progress import progress
from bridgejax.runtime import is_first

# Losses are fetched in blocks of so many steps: a fetch waits for the device.
_BLOCK = 20
EVALUATION_DRAWS = 256


@dataclasses.dataclass(frozen=True)
class TokenExamples:
    """What a token is learned from."""

    # float32 [m, n, h, w, c or 2c], the autoencoder's posterior of n images, and with m = 2 of their mirror images.
    moments: np.ndarray
    ids: tuple[np.ndarray, ...]  # int32 [p, n, tokens] for each text encoder: p prompts for each image

    def __len__(self) -> int:
        return int(self.moments.shape[1])

    def places(self, seed: int, start: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns (mirror, image, prompt) of places start … start + count - 1 of the endless stream, int64 [count] each.

        Every image comes once per epoch, in a new order, mirrored (if that is wanted) and put by chance; a closed form of
        the seed and the place.
        """
        positions = np.arange(start, start + count)
        epochs, within = positions // len(self), positions % len(self)
        out = np.zeros((3, count), np.int64)
        for epoch in np.unique(epochs):
            rng = np.random.Generator(np.random.Philox(key=derive_seed(seed, "inversion order", int(epoch))))
            order = rng.permutation(len(self))
            mirrors = rng.integers(len(self.moments), size=len(self))
            prompts = rng.integers(len(self.ids[0]), size=len(self))
            mine = epochs == epoch
            out[:, mine] = np.stack([mirrors, order, prompts])[:, within[mine]]
        return out[0], out[1], out[2]

    def batch(self, inversion: Inversion, mirrors: np.ndarray, images: np.ndarray, prompts: np.ndarray) -> TokenBatch:
        """Puts a batch on the devices."""
        return inversion.place(self.moments[mirrors, images], [part[prompts, images] for part in self.ids])


@dataclasses.dataclass(frozen=True)
class TokenSettings:
    """How a token is learned."""

    token: str  # which
    first_ids: tuple[int, ...]  # the id of its first vector, for each text encoder
    steps: int  # updates
    learning_rate: float  # constant, of AdamW
    weight_decay: float  # decoupled
    seed: int  # decides the order of images, timesteps and noise
    evaluations: int  # after how many equal parts of the steps the loss of all images is taken, besides step 0
    checkpoint_every: int  # steps between checkpoints
    identity: str  # digest of all that decides the result; a checkpoint of another one is not continued
    max_norms: tuple[float, ...] | None = None  # the greatest length of a vector, for each text encoder; None means no bound

    @property
    def milestones(self) -> tuple[int, ...]:
        """The steps after which all images are evaluated, 0 and the last one among them if there are any."""
        parts = self.evaluations
        return tuple(sorted({round(part * self.steps / parts) for part in range(parts + 1)})) if parts else ()


@dataclasses.dataclass(frozen=True)
class TokenResult:
    """A learned token."""

    rows: tuple[np.ndarray, ...]  # float32 [k, width] for each text encoder
    losses: np.ndarray  # float32 [steps], before each update
    evaluations: tuple[tuple[int, float], ...]  # (step, loss of all images under fixed draws) at each milestone
    seconds: float  # spent on updates, over every call that worked on it, compilation included
    seconds_per_step: float | None  # of this call's updates but the first, which compiles; None where it made fewer than two


@dataclasses.dataclass
class _Progress:
    state: InversionState
    step: int
    losses: list[float]
    evaluations: list[tuple[int, float]]
    seconds: float


@under_jax_defaults
def learn_token(
    inversion: Inversion,
    examples: TokenExamples,
    settings: TokenSettings,
    rows: Sequence[np.ndarray],
    checkpoint: Path,
    show: Callable[[int, Sequence[jax.Array]], None] | None = None,
) -> TokenResult:
    """Learns a token, or goes on where a checkpoint of the same settings stands.

    Args:
      inversion: the programs.
      examples: what it is learned from.
      settings: how.
      rows: float32 [k, width] for each text encoder, the vectors to start from.
      checkpoint: the file in which it keeps its state; whole or absent. The caller removes it.
      show: called with the step and the rows at each milestone, for sample sheets.

    Raises:
      UserError: the loss is not finite (the last good checkpoint stays), or the file cannot be written.
    """
    at = _restore(checkpoint, settings, InversionState.create(rows, settings.seed))
    at.state = inversion.put(at.state)
    made, before, first_seconds, saved = 0, at.seconds, 0.0, at.step
    unproven: tuple[int, bytes] | None = None  # a checkpoint is written once the loss of its own rows is seen to be finite
    with progress(settings.steps, f"invert {settings.token}", "step", initial=at.step) as bar:
        while True:
            if at.step in settings.milestones and at.step not in [step for step, _ in at.evaluations]:
                at.evaluations.append((at.step, evaluate(inversion, examples, settings.first_ids, at.state.rows)))
                if show is not None:
                    show(at.step, at.state.rows)
            if at.step >= settings.steps:
                break
            if at.step > saved and at.step % settings.checkpoint_every == 0:
                unproven = (at.step, _packed(settings, at))
            began = time.monotonic()
            stops = [at.step + _BLOCK, settings.steps, *(stop for stop in settings.milestones if stop > at.step)]
            stop = min(*stops, (at.step // settings.checkpoint_every + 1) * settings.checkpoint_every)
            block = []
            for step in range(at.step, stop):
                places = examples.places(settings.seed, step * inversion.batch_size, inversion.batch_size)
                batch = examples.batch(inversion, *places)
                adamw = (settings.learning_rate, settings.weight_decay, settings.max_norms)
                at.state, loss = inversion.step(at.state, batch, settings.first_ids, *adamw)
                block.append(loss)
                if made + len(block) == 1:
                    loss.block_until_ready()
                    first_seconds = time.monotonic() - began
            values = [float(loss) for loss in jax.device_get(block)]
            if unproven is not None and math.isfinite(values[0]):
                saved = _save(checkpoint, *unproven)
                unproven = None
            _check(values, at.step, saved, settings, checkpoint)
            made += len(values)
            at.seconds += time.monotonic() - began
            at.losses += values
            at.step = stop
            bar.update(len(values))
            bar.set_postfix(loss=f"{np.mean(values):.4f}", refresh=False)
    final = tuple(np.asarray(array, np.float32) for array in at.state.rows)
    if not all(np.isfinite(array).all() for array in final):
        raise UserError(
            f"inversion of {settings.token}: the last update left a vector that is not finite; lower inversion.learning_rate "
            f"(now {settings.learning_rate:g})."
        )
    _save(checkpoint, at.step, _packed(settings, at))
    each = (at.seconds - before - first_seconds) / (made - 1) if made > 1 else None
    return TokenResult(final, np.asarray(at.losses, np.float32), tuple(at.evaluations), at.seconds, each)


def evaluate(inversion: Inversion, examples: TokenExamples, first_ids: Sequence[int], rows: Sequence[jax.Array]) -> float:
    """Returns the loss over the examples under fixed draws of timesteps and noise, so that two tokens can be compared.

    Of at least `EVALUATION_DRAWS` random draws, spread evenly over the images, or over as many of them where there are more.
    """
    size, count = inversion.batch_size, len(examples)
    stride = max(1, count // EVALUATION_DRAWS)
    losses = []
    for number in range(-(-EVALUATION_DRAWS // size)):
        places = np.arange(number * size, (number + 1) * size)
        images = places * stride % count
        prompts = places * stride // count % len(examples.ids[0])
        batch = examples.batch(inversion, np.zeros(size, np.int64), images, prompts)
        losses.append(inversion.loss(rows, batch, first_ids, derive_seed(0, "inversion evaluation", number)))
    return float(np.mean([float(loss) for loss in jax.device_get(losses)]))


def _check(values: Sequence[float], step: int, saved: int, settings: TokenSettings, checkpoint: Path) -> None:
    for number, value in enumerate(values):
        if not math.isfinite(value):
            left = f"the checkpoint of step {saved} stays in {checkpoint}" if saved else "there is no checkpoint yet"
            raise UserError(
                f"inversion of {settings.token}: the loss is {value} at step {step + number} with learning rate "
                f"{settings.learning_rate:g} ({left}); lower inversion.learning_rate, or use generator.dtype='float32', in a "
                "new --workdir."
            )


def _packed(settings: TokenSettings, at: _Progress) -> bytes:
    arrays = {f"state_{name}": array for name, array in at.state.to_arrays().items()}
    notes = {"identity": settings.identity, "step": at.step, "evaluations": at.evaluations, "seconds": at.seconds}
    buffer = io.BytesIO()
    np.savez(buffer, losses=np.asarray(at.losses, np.float32), notes=json.dumps(notes), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _save(file: Path, step: int, packed: bytes) -> int:
    if is_first():
        write_atomic(file, packed)
    return step


def _restore(file: Path, settings: TokenSettings, fresh: InversionState) -> _Progress:
    """Returns the progress in a checkpoint of these settings, or the start."""
    start = _Progress(fresh, 0, [], [], 0.0)
    if not file.is_file():
        return start
    try:
        with np.load(file, allow_pickle=False) as content:
            notes = json.loads(str(content["notes"]))
            arrays = {name.removeprefix("state_"): content[name] for name in content.files if name.startswith("state_")}
            losses = [float(loss) for loss in content["losses"]]
        if notes["identity"] != settings.identity:
            return start
        state = fresh.from_arrays(arrays)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"the checkpoint {file} cannot be read ({error}); remove it to learn from the start.") from error
    return _Progress(state, notes["step"], losses, [(step, value) for step, value in notes["evaluations"]], notes["seconds"])
