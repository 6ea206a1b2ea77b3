"""`bridgejax invert`: words learned from the shots that training sees, and nothing else of the task.

What is learned for one count of shots and one seed of the study lies in `inversion/shots-S_seed-K/`: the words' files, which
PyTorch diffusers' `load_textual_inversion` reads too, `inversion.json` (what was learned from what, losses, times), `sheets/`.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageOps

from bridgejax.config import set_config
from bridgejax.data.images import decode_rgb
from bridgejax.diffusion.inversion import Inversion, first_ids
from bridgejax.diffusion.textual_inversion import save_embedding
from bridgejax.errors import UserError
from bridgejax.identity import derive_seed, digest, file_digest, image_seeds, remove_temporary_files, write_json
from bridgejax.mesh import barrier
from bridgejax.models.clip_text import Words
from bridgejax.progress import progress, stage_heading
from bridgejax.runtime import is_first
from bridgejax.studies.generator import load_generator
from bridgejax.studies.sheets import write_sheet
from bridgejax.studies.word_plan import WordPlan
from bridgejax.studies.wording import LEARNED, Word
from bridgejax.training.inversion import Examples, Learned, Lesson, learn_word

RECORD = "inversion.json"
SHEET_COLUMNS, SHEET_ROWS = 4, 24
_CURVE = 100  # means of the loss that the record keeps


class Inverter:
    """Learns the words of a plan into a folder."""

    def __init__(self, plan: WordPlan, folder: Path, mesh: Any):
        """Prepares; writes nothing.

        Args:
          plan: what to learn.
          folder: where the words go.
          mesh: devices to use.
        """
        self.plan, self.folder, self.mesh = plan, folder, mesh

    @property
    def files(self) -> dict[str, Path]:
        """Word → file."""
        return {word.token: self.folder / word.file for word in self.plan.wording.words}

    def finished(self) -> bool:
        """Tells whether the words are there, whole, and learned as the config says."""
        try:
            record = json.loads((self.folder / RECORD).read_text())
            whole = all(file_digest(self.folder / one["file"]) == one["sha256"] for one in record["words"])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return whole and record.get("identity") == self.plan.identity

    def learn(self) -> None:
        """Learns the words, or goes on where an earlier call stopped; a finished folder is left alone.

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
            for word in self.plan.wording.words:
                self._checkpoint(word).unlink(missing_ok=True)
        barrier("bridgejax: inversion done")

    def _learn(self) -> None:
        plan, config = self.plan, self.plan.config
        words = plan.wording.words
        what = "a word" if len(words) == 1 else f"{len(words)} words"
        shots = "all" if plan.shots is None else plan.shots
        stage_heading(
            f"invert: {what} from {len(plan.train)} images ({shots} shots, seed {plan.study_seed}), {plan.steps} steps each"
            if plan.steps
            else f"invert: {what}, untrained"
        )
        starts = {word.token: plan.start(word) for word in words}
        with tempfile.TemporaryDirectory() as aside:
            files = {word.token: Path(aside) / word.file for word in words}
            for token, rows in starts.items():
                save_embedding(files[token], token, rows[0] if len(rows) == 1 else rows)
            pipe = load_generator(config, self.mesh, files)
        inversion = Inversion(pipe, config.inversion.batch_size, self.mesh)
        moments = self._moments(inversion) if plan.steps else np.zeros((1, len(plan.train), 1, 1, 1), np.float32)
        entries = []
        for word in words:
            entries.append(self._learn_one(word, starts[word.token], pipe, inversion, moments))
        if is_first():
            record = {"identity": plan.identity, **plan.settings, "words": entries, **_sources(plan), **_machine()}
            write_json(self.folder / RECORD, record)

    def _learn_one(self, word: Word, start: Any, pipe: Any, inversion: Inversion, moments: np.ndarray) -> dict[str, Any]:
        """Learns one word and writes its file; returns what the record says of it."""
        plan, options = self.plan, self.plan.config.inversion
        chosen = plan.images_of(word)
        names = [plan.class_names[label] for label in plan.train.labels[chosen]]
        prompts = [plan.wording.prompts(name) for name in names]
        ids = tuple(
            np.stack([tokenizer([texts[k] for texts in prompts]) for k in range(len(plan.wording.templates))])
            for tokenizer in pipe.tokenizers
        )
        firsts = first_ids(pipe, word.token)
        lesson = Lesson(
            token=word.token,
            firsts=tuple(firsts),
            steps=plan.steps,
            learning_rate=float(options.learning_rate),
            weight_decay=float(options.weight_decay),
            seed=derive_seed(plan.seed, word.token),
            evaluations=options.evaluations if plan.steps else 0,
            checkpoint_every=options.checkpoint_every,
            identity=digest([plan.identity, word.token]),
            longest=plan.longest,
        )

        def show(step: int, rows: Sequence[Any]) -> None:
            pipe.set_words([Words(jnp.int32(first), row) for first, row in zip(firsts, rows, strict=True)])
            self._sheet(word, pipe, step)

        examples = Examples(moments[:, chosen], ids)
        learned = learn_word(inversion, examples, lesson, start, self._checkpoint(word), show)
        file = self.folder / word.file
        if is_first():
            save_embedding(file, word.token, learned.rows[0] if len(learned.rows) == 1 else learned.rows)
        return _entry(word, file, learned, plan.steps, len(examples)) if is_first() else {}

    def _moments(self, inversion: Inversion) -> np.ndarray:
        """Returns the posterior of every image (and mirror image): float32 [m, n, h, w, c]."""
        generator = self.plan.config.generator
        pipe, size, count = inversion.pipeline, inversion.batch_size, len(self.plan.train)
        side = (generator.width or pipe.default_width, generator.height or pipe.default_height)
        parts = []
        with progress(count, "encode", "img") as bar:
            for start in range(0, count, size):
                images = np.stack([_fitted(self._pixels(i), side) for i in range(start, min(start + size, count))])
                views = [images, images[:, :, ::-1]] if self.plan.config.inversion.flip else [images]
                parts.append(np.stack([inversion.moments(view) for view in views]))
                bar.update(len(images))
        return np.concatenate(parts, axis=1)

    def _pixels(self, position: int) -> np.ndarray:
        try:
            return decode_rgb(self.plan.train.images[position])
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"image {self.plan.train.ids[position]!r} could not be decoded ({error}); replace or remove it."
            ) from error

    def _sheet(self, word: Word, pipe: Any, step: int) -> None:
        plan, generator = self.plan, self.plan.config.generator
        labels = range(len(plan.class_names)) if word.label is None else [word.label]
        shown = [labels[round(i)] for i in np.linspace(0, len(labels) - 1, min(len(labels), SHEET_ROWS))]
        prompts, seeds = [], []
        for name in (plan.class_names[label] for label in shown):
            texts = plan.wording.prompts(name)
            prompts += [texts[i % len(texts)] for i in range(SHEET_COLUMNS)]
            seeds += list(image_seeds(plan.seed, name, range(SHEET_COLUMNS)))
        images, size = [], generator.batch_size
        for start in range(0, len(prompts), size):
            rows = np.minimum(np.arange(start, start + size), len(prompts) - 1)
            made = pipe(
                [prompts[row] for row in rows],
                seeds=[int(seeds[row]) for row in rows],
                steps=generator.steps,
                guidance_scale=float(generator.guidance_scale),
                negative_prompt=plan.config.prompts.negative,
                height=generator.height,
                width=generator.width,
                scheduler=generator.scheduler,
            )
            images.append(np.asarray(made, np.float32))
        grid = np.concatenate(images)[: len(prompts)]
        if is_first():
            (self.folder / "sheets").mkdir(exist_ok=True)
            real = [self._pixels(int(np.flatnonzero(plan.train.labels == label)[0])) for label in shown]
            file = self.folder / "sheets" / f"{Path(word.file).stem}-step-{step:06d}.png"
            write_sheet(file, [plan.class_names[k] for k in shown], real, grid.reshape(len(shown), -1, *grid.shape[1:]))

    def _checkpoint(self, word: Word) -> Path:
        return self.folder / f"{Path(word.file).stem}.checkpoint.npz"


def invert(config: Any, workdir: Path, seed: int = 0) -> Path:
    """Learns the config's words from the shots of one seed (for every count of shots that the study has).

    Args:
      config: a checked config; `inversion.mode` None is taken as "dataset" where no synthetic set learns a word.
      workdir: the folder to work in.
      seed: of the study.

    Returns:
      The folder with the words.
    """
    from bridgejax.studies import run as studies
    from bridgejax.studies.sets import StudySet

    if seed < 0:
        raise UserError(f"--seed is {seed}; it should be a whole number of at least 0.")
    mode = config.inversion.mode
    if mode is not None and mode not in LEARNED:
        raise UserError(f"inversion.mode={mode!r} has no new word, so nothing is learned; choose 'dataset' or 'class'.")
    named = any(set_config(config, name).inversion.mode in LEARNED for name in config.synthetic_sets)
    with config.unlocked():
        config.inversion.mode = mode if mode or named else "dataset"
        config.study.seeds = max(config.study.seeds, seed + 1)
    studies.check_workdir(workdir, config)
    study = studies.Study(config, load_generators=False)
    sets = [one for one in study.sets.values() if one.learns] or [
        StudySet(config, "", study.class_names, study.generation_mesh)
    ]
    shots = dict.fromkeys(one.shots for one in study.runs)
    inverters = [one.inverter(workdir, study.task(count, seed), count, seed) for one in sets for count in shots]
    with studies.opened(workdir, study.plain):
        for inverter in inverters:
            inverter.learn()
    return inverters[0].folder


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns float32 [h, w, 3] in [0, 1]: the image resized so that it fills (width, height), cut in the middle."""
    fitted = ImageOps.fit(Image.fromarray(image), size, Image.Resampling.BICUBIC)
    return np.asarray(fitted, np.float32) / 255.0


def _entry(word: Word, file: Path, learned: Learned, steps: int, images: int) -> dict[str, Any]:
    window = max(1, -(-steps // _CURVE))
    means = [float(np.mean(learned.losses[start : start + window])) for start in range(0, len(learned.losses), window)]
    each = learned.seconds_per_step
    return {
        "token": word.token,
        "file": word.file,
        "sha256": file_digest(file),
        "images": images,
        "steps": steps,
        "loss_window": window,
        "losses": means,
        "shots_loss": [[step, value] for step, value in learned.evaluations],
        "row_norms": [[float(np.linalg.norm(row)) for row in rows] for rows in learned.rows],
        "seconds": round(learned.seconds, 3),
        "seconds_per_1000_steps": None if each is None else round(1000 * each, 3),
    }


def _machine() -> dict[str, Any]:
    """Returns the greatest memory that this process held, in bytes, on the host and on its first device."""
    import resource
    import sys

    import jax

    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    return {"device": device.device_kind, "peak_bytes": {"host": host, "device": stats.get("peak_bytes_in_use")}}


def _sources(plan: WordPlan) -> dict[str, Any]:
    """Returns what the record says of the images."""
    return {
        "classes": list(plan.class_names),
        "shots": plan.shots,
        "study_seed": plan.study_seed,
        "images": list(plan.train.ids),
        "labels": [int(label) for label in plan.train.labels],
    }
