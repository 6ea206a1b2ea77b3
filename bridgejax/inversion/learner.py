"""Tokens learned into a folder, from the shots that training sees and nothing else of the task.

The folder holds the tokens' files, which PyTorch diffusers' `load_textual_inversion` reads too, `inversion.json` (what was
learned from what, losses, times) and `sheets/`.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image, ImageOps

from bridgejax.data.pixels import decode_example
from bridgejax.diffusion.from_config import SamplingOptions, load_generator
from bridgejax.diffusion.textual_inversion import save_embedding
from bridgejax.files import remove_temporary_files, write_json
from bridgejax.identity import derive_seed, digest, file_digest, image_seeds
from bridgejax.inversion.sample_sheets import write_sheet
from bridgejax.inversion.token_loop import TokenExamples, TokenResult, TokenSettings, learn_token
from bridgejax.inversion.token_plan import TokenPlan
from bridgejax.inversion.token_step import Inversion, first_ids
from bridgejax.inversion.tokens import LearnedToken
from bridgejax.mesh import barrier
from bridgejax.models.clip_text import Words
from bridgejax.progress import progress, stage_heading
from bridgejax.runtime import is_first

if TYPE_CHECKING:
    from bridgejax.diffusion.pipeline import Pipeline

RECORD = "inversion.json"
SHEETS_FOLDER = "sheets"
SHEET_COLUMNS, SHEET_ROWS = 4, 24
_CURVE = 100  # means of the loss that the record holds


class TokenLearner:
    """Learns the tokens of a plan into a folder."""

    def __init__(self, plan: TokenPlan, folder: Path, mesh: Mesh | None) -> None:
        """Prepares to learn the tokens into a folder; writes nothing."""
        self.plan, self.folder, self.mesh = plan, folder, mesh
        self._sampling = SamplingOptions.from_config(plan.settings)

    @property
    def files(self) -> dict[str, Path]:
        """Token → file."""
        return {learned.token: self.folder / learned.file for learned in self.plan.prompts.tokens}

    def finished(self) -> bool:
        """Returns whether the tokens are there, whole, and learned as the config says."""
        try:
            record = json.loads((self.folder / RECORD).read_text())
            whole = all(file_digest(self.folder / entry["file"]) == entry["sha256"] for entry in record["words"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return whole and record.get("identity") == self.plan.identity

    def learn(self) -> None:
        """Learns the tokens, or goes on where an earlier call stopped; a finished folder is left alone.

        With several processes each learns on its own devices and the first one writes.

        Raises:
          UserError: the loss is not finite, or a file cannot be written.
        """
        if not self.finished():
            if is_first():
                self.folder.mkdir(parents=True, exist_ok=True)
                remove_temporary_files(self.folder)
            barrier("bridgejax: inversion begins")
            self._learn()
        if is_first():
            for learned in self.plan.prompts.tokens:
                self._checkpoint(learned).unlink(missing_ok=True)
        barrier("bridgejax: inversion done")

    def _learn(self) -> None:
        plan = self.plan
        tokens = plan.prompts.tokens
        count = "one token" if len(tokens) == 1 else f"{len(tokens)} tokens"
        shots = "all" if plan.shots is None else plan.shots
        stage_heading(
            f"invert: {count} from {len(plan.train)} images ({shots} shots, seed {plan.study_seed}), {plan.steps} steps each"
            if plan.steps
            else f"invert: {count}, untrained"
        )
        starts = {learned.token: plan.start(learned) for learned in tokens}
        with tempfile.TemporaryDirectory() as aside:
            files = {learned.token: Path(aside) / learned.file for learned in tokens}
            for token, rows in starts.items():
                _save(files[token], token, rows)
            pipeline = load_generator(plan.settings, self.mesh, files)
        inversion = Inversion(pipeline, plan.settings.inversion.batch_size, self.mesh)
        moments = self._moments(inversion) if plan.steps else np.zeros((1, len(plan.train), 1, 1, 1), np.float32)
        entries = [self._learn_token(learned, starts[learned.token], inversion, moments) for learned in tokens]
        if is_first():
            record = {"identity": plan.identity, **plan.determinants, "words": entries, **_sources(plan), **_machine()}
            write_json(self.folder / RECORD, record)

    def _learn_token(
        self, learned: LearnedToken, start: Sequence[np.ndarray], inversion: Inversion, moments: np.ndarray
    ) -> dict[str, object]:
        """Learns one token and, in the first process, writes its file; returns its entry in the record."""
        plan, options, pipeline = self.plan, self.plan.settings.inversion, inversion.pipeline
        images = plan.images_of(learned)
        prompts = [plan.prompts.of_class(plan.class_names[label]) for label in plan.train.labels[images]]
        ids = tuple(
            np.stack([tokenizer(list(texts)) for texts in zip(*prompts, strict=True)]) for tokenizer in pipeline.tokenizers
        )
        firsts = first_ids(pipeline, learned.token)
        settings = TokenSettings(
            token=learned.token,
            first_ids=tuple(firsts),
            steps=plan.steps,
            learning_rate=float(options.learning_rate),
            weight_decay=float(options.weight_decay),
            seed=derive_seed(plan.seed, learned.token),
            evaluations=options.evaluations if plan.steps else 0,
            checkpoint_every=options.checkpoint_every,
            identity=digest([plan.identity, learned.token]),
            max_norms=plan.max_norms,
        )

        def show(step: int, rows: Sequence[jax.Array]) -> None:
            pipeline.set_words([Words(jnp.int32(first), row) for first, row in zip(firsts, rows, strict=True)])
            self._sheet(learned, pipeline, step)

        examples = TokenExamples(moments[:, images], ids)
        result = learn_token(inversion, examples, settings, start, self._checkpoint(learned), show)
        if not is_first():
            return {}
        file = self.folder / learned.file
        _save(file, learned.token, result.rows)
        return {"token": learned.token, "file": learned.file, "sha256": file_digest(file), **_figures(result, len(examples))}

    def _moments(self, inversion: Inversion) -> np.ndarray:
        """Returns the posterior of every image (and mirror image): float32 [m, n, h, w, c]."""
        pipeline, size, count = inversion.pipeline, inversion.batch_size, len(self.plan.train)
        side = (self._sampling.width or pipeline.default_width, self._sampling.height or pipeline.default_height)
        parts = []
        with progress(count, "encode", "img") as bar:
            for start in range(0, count, size):
                rows = range(start, min(start + size, count))
                images = np.stack([_fitted(decode_example(self.plan.train, row), side) for row in rows])
                views = [images, images[:, :, ::-1]] if self.plan.settings.inversion.flip else [images]
                parts.append(np.stack([inversion.moments(view) for view in views]))
                bar.update(len(images))
        return np.concatenate(parts, axis=1)

    def _sheet(self, learned: LearnedToken, pipeline: Pipeline, step: int) -> None:
        """Writes the sample sheet of a step: a row per class (of many classes, `SHEET_ROWS` spread evenly)."""
        plan = self.plan
        labels = plan.classes_of(learned)
        shown = [labels[round(i)] for i in np.linspace(0, len(labels) - 1, min(len(labels), SHEET_ROWS))]
        names = [plan.class_names[label] for label in shown]
        prompts: list[str] = []
        seeds: list[int] = []
        for name in names:
            texts = plan.prompts.of_class(name)
            prompts += [texts[i % len(texts)] for i in range(SHEET_COLUMNS)]
            seeds += [int(seed) for seed in image_seeds(plan.seed, name, range(SHEET_COLUMNS))]
        images, size = [], plan.settings.generator.batch_size
        for start in range(0, len(prompts), size):
            rows = np.minimum(np.arange(start, start + size), len(prompts) - 1)
            batch = pipeline(
                [prompts[row] for row in rows], seeds=[seeds[row] for row in rows], **dataclasses.asdict(self._sampling)
            )
            images.append(np.asarray(batch, np.float32))
        generated = np.concatenate(images)[: len(prompts)]
        if is_first():
            (self.folder / SHEETS_FOLDER).mkdir(exist_ok=True)
            real = [decode_example(self.plan.train, int(np.flatnonzero(plan.train.labels == label)[0])) for label in shown]
            file = self.folder / SHEETS_FOLDER / f"{Path(learned.file).stem}-step-{step:06d}.png"
            write_sheet(file, names, real, generated.reshape(len(shown), -1, *generated.shape[1:]))

    def _checkpoint(self, learned: LearnedToken) -> Path:
        return self.folder / f"{Path(learned.file).stem}.checkpoint.npz"


def _save(file: Path, token: str, rows: Sequence[np.ndarray]) -> None:
    save_embedding(file, token, rows[0] if len(rows) == 1 else tuple(rows))


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns float32 [h, w, 3] in [0, 1]: the image resized so that it fills (width, height), cut in the middle."""
    fitted = ImageOps.fit(Image.fromarray(image), size, Image.Resampling.BICUBIC)
    return np.asarray(fitted, np.float32) / 255.0


def _figures(result: TokenResult, images: int) -> dict[str, object]:
    """Returns what the record says of how a token was learned."""
    steps, each = len(result.losses), result.seconds_per_step
    window = max(1, -(-steps // _CURVE))
    return {
        "images": images,
        "steps": steps,
        "loss_window": window,
        "losses": [float(np.mean(result.losses[start : start + window])) for start in range(0, steps, window)],
        "shots_loss": [[step, value] for step, value in result.evaluations],
        "row_norms": [[float(np.linalg.norm(row)) for row in rows] for rows in result.rows],
        "seconds": round(result.seconds, 3),
        "seconds_per_1000_steps": None if each is None else round(1000 * each, 3),
    }


def _machine() -> dict[str, object]:
    """Returns the greatest memory that this process held, in bytes, on the host and on its first device."""
    import resource
    import sys

    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    return {"device": device.device_kind, "peak_bytes": {"host": host, "device": stats.get("peak_bytes_in_use")}}


def _sources(plan: TokenPlan) -> dict[str, object]:
    """Returns what the record says of the images."""
    return {
        "classes": list(plan.class_names),
        "shots": plan.shots,
        "study_seed": plan.study_seed,
        "images": list(plan.train.ids),
        "labels": [int(label) for label in plan.train.labels],
    }
