"""`bridgejax import-weights`: any published generator → a local folder in the diffusers layout, checked tensor by tensor."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np

from bridgejax.diffusion.decisions import check_parts, decisions, dtype_of
from bridgejax.diffusion.find import find_generator
from bridgejax.diffusion.folder import read_folder, save_folder
from bridgejax.diffusion.load import load_networks, parse_dtype
from bridgejax.diffusion.lora import LoraFiles
from bridgejax.diffusion.single_file import ModelConfig
from bridgejax.diffusion.spec import TEXT_ENCODERS, GeneratorSpec, content_digest
from bridgejax.errors import UserError
from bridgejax.files import TEMPORARY_PREFIX, expanded, write_atomic
from bridgejax.identity import file_digest
from bridgejax.jax_defaults import under_jax_defaults
from bridgejax.known_names import GENERATOR_DTYPES

DIGESTS_FILE = "SHA256SUMS"


@under_jax_defaults
def import_weights(
    source: str | Path,
    output: str | Path,
    *,
    dtype: str | None = None,
    tokenizer: str | Path | None = None,
    prediction_type: str | None = None,
    model_config: ModelConfig | None = None,
    loras: LoraFiles = (),
    embeddings: Mapping[str, str | Path] | None = None,
    vae: str | Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> str:
    """Writes a generator as a folder that `load_pipeline` and PyTorch diffusers open, whole or not at all.

    What was written is read again and compared with the source, tensor by tensor and bit by bit, before the folder gets its
    name; `SHA256SUMS` in it lists the SHA-256 of every file.

    Args:
      source: a folder, a single file, a hub name or `builtin:…`, as for `load_pipeline`; likewise the options but these.
      output: a folder that does not exist yet, or is empty.
      dtype: "float32", "bfloat16" or "float16" of what is written; None means that of most of the source's UNet.
      tell: gets what was decided about the source (`bridgejax.diffusion.decisions`) before anything is written.

    Returns:
      The folder's digest, which is `load_pipeline(output).digest`.

    Raises:
      UserError: the source does not fit or is damaged, the output holds files or cannot be written, or a tensor read again
        differs.
    """
    if dtype is not None:
        parse_dtype(dtype)
    target = expanded(output)
    _check_target(target)
    spec = find_generator(
        source,
        tokenizer=tokenizer,
        prediction_type=prediction_type,
        model_config=model_config,
        loras=loras,
        embeddings=embeddings,
        vae=vae,
    )
    check_parts(spec)
    tell(decisions(spec))
    own = dtype_of(spec, "unet")
    exact = "float16" if own.startswith("float8") else "float32"  # float16 holds every number of 8 bits
    kind = parse_dtype((own if own in GENERATOR_DTYPES else exact) if dtype is None else dtype)
    # An interrupted import of the same name leaves such a folder behind; it is of no use to anyone.
    for leftover in target.parent.glob(f"{TEMPORARY_PREFIX}{target.name}.import.*"):
        shutil.rmtree(leftover, ignore_errors=True)
    aside = target.with_name(f"{TEMPORARY_PREFIX}{target.name}.import.{secrets.token_hex(4)}")
    # Weights are only cast and copied here, so an accelerator would be a detour.
    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        networks = load_networks(spec, kind, None)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            save_folder(
                aside,
                networks,
                unet=spec.unet,
                vae=spec.vae,
                text_encoders=spec.text_encoders,
                scheduler=spec.scheduler,
                tokenizers=spec.tokenizers,
                index=spec.index,
            )
            written = read_folder(aside)
            verify(spec, written, kind)
            names = sorted(path.relative_to(aside).as_posix() for path in aside.rglob("*") if path.is_file())
            lines = [f"{file_digest(aside / name)}  {name}\n" for name in names]
            write_atomic(aside / DIGESTS_FILE, "".join(lines))
            result = content_digest(written)
            if target.exists():
                target.rmdir()
            aside.rename(target)
        except OSError as error:
            raise UserError(
                f"{target} could not be written ({error.strerror}); free space or choose another --output."
            ) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return result


def verify(source: GeneratorSpec, written: GeneratorSpec, dtype: np.dtype) -> int:
    """Compares each tensor of a written folder with its source, in `dtype` or float32, bit by bit; returns their number.

    Raises:
      UserError: a tensor is missing, surplus or different; it is named.
    """
    compared = 0
    for part in ("unet", "vae", *TEXT_ENCODERS[: len(source.text_encoders)]):
        expected, actual = source.tensors(part), written.tensors(part)
        names = {name for name in expected if not name.endswith(("position_ids", "num_batches_tracked"))}
        if names != set(actual):
            raise UserError(
                f"{written.where(part)}: tensor {min(names ^ set(actual))} is not in both the source and what was written; "
                "the import was given up."
            )
        for name in sorted(names):
            # A part that overflows in half precision (SDXL's autoencoder) may be kept in float32.
            with np.errstate(over="ignore"):
                wanted = np.asarray(expected[name]).astype(np.float32 if actual[name].dtype == np.float32 else dtype)
            if not np.isfinite(wanted.astype(np.float32)).all():
                raise UserError(f"{source.where(part)}: tensor {name} does not fit in {wanted.dtype}; choose another --dtype.")
            if actual[name].dtype != wanted.dtype or actual[name].shape != wanted.shape:
                raise UserError(
                    f"{written.where(part)}: tensor {name} was written with another shape or dtype; the import was given up."
                )
            if np.ascontiguousarray(wanted).tobytes() != np.ascontiguousarray(actual[name]).tobytes():
                raise UserError(
                    f"{written.where(part)}: tensor {name} differs from its source; check the disk and import again."
                )
            compared += 1
    return compared


def _check_target(target: Path) -> None:
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} exists already; choose another --output for the generator.")
