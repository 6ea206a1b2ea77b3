"""Train bridgejax's embedded text-to-image model and write it as a diffusers folder.

Parts, in order; each resumes where a killed run stopped, and a finished part is not done again:

  vae      a small autoencoder, 64×64×3 → 8×8×4, on all colour clip art
  decoder  the autoencoder's decoder again, on the labelled pictures alone (the encoder rests, so the latents stay)
  text     the text encoder alone, until its mean output tells class and noun
  unet     the UNet, on cached latents of the labelled clip art
  export   the diffusers folder with moving-average weights in float16, provenance and checksums
  probe    figures of generated images: what a classifier learns from them, recall of the clip art, copies (a report only)

    python tools/build_clipart.py --output clipart.npz
    python tools/train_tiny_diffusion.py --data clipart.npz --work ckpt --minutes 60

On an accelerator ``--steps 30000 --batch-size 256`` takes minutes. The probe chooses nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import clipart_choice
import clipart_figures
import clipart_text
import clipart_unet as parts
import clipart_vae
import jax
import jax.numpy as jnp
import numpy as np
from clipart_captions import Tokenizer, training_texts
from clipart_state import load_state, log, save_state
from flax import nnx
from PIL import Image, ImageDraw

from bridgejax.models.vae import AutoencoderKL

HERE = Path(__file__).resolve().parent
CLASSES = (
    "bird",
    "mammal",
    "insect",
    "fish",
    "flower",
    "fruit",
    "vegetable",
    "tool",
    "road sign",
    "musical instrument",
    "vehicle",
)
ASSET = HERE.parent / "bridgejax/assets/tiny_diffusion"


def load_data(path: Path) -> dict[str, np.ndarray]:
    """The arrays that ``build_clipart.py`` wrote; ends the program with a sentence if they are not there."""
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; make it with tools/build_clipart.py --output {path}")
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def make_tokenizer(data: dict[str, np.ndarray]) -> Tokenizer:
    """The vocabulary of this data's captions."""
    return Tokenizer.train(training_texts([str(c) for c in data["classes"]], [str(n) for n in data["nouns"]]))


def cached_latents(
    data: dict[str, np.ndarray], tokenizer: Tokenizer, work: Path, options: argparse.Namespace
) -> tuple[parts.TrainingSet, float]:
    """The training set of the UNet, kept in ``work/latents.npz`` so that a resumed run draws from the same arrays."""
    path = work / "latents.npz"
    if path.is_file():
        with np.load(path) as stored:
            arrays = {name: jnp.asarray(stored[name]) for name in stored.files}
        scale = float(arrays.pop("scale"))
        return parts.TrainingSet(**arrays), scale
    built, scale = parts.make_training_set(
        data, clipart_vae.load_vae(work), tokenizer, mirror=options.mirror, copies=options.copies, seed=options.seed
    )
    fields: dict[str, Any] = {name: np.asarray(getattr(built, name)) for name in parts.TrainingSet.__dataclass_fields__}
    temporary = path.with_name("latents.part.npz")
    np.savez(temporary, scale=np.float32(scale), **fields)
    temporary.replace(path)
    return built, scale


def published(folder: Path, text: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a folder that ``export`` wrote, by network: "text_encoder", "unet" and "vae"."""
    from bridgejax.models.clip_text import CLIP_TEXT_RULES, CLIPTextModel
    from bridgejax.models.safetensors_files import read_tensors
    from bridgejax.models.unet import UNET_LINEAR_RULES, UNet2DCondition
    from bridgejax.models.vae import VAE_RULES
    from bridgejax.models.weights import assign

    builders = {
        "text_encoder": (lambda: CLIPTextModel(text, rngs=nnx.Rngs(0)), CLIP_TEXT_RULES),
        "unet": (lambda: UNet2DCondition(parts.UNET_CONFIG, rngs=nnx.Rngs(0)), UNET_LINEAR_RULES),
        "vae": (lambda: AutoencoderKL(clipart_vae.CONFIG, rngs=nnx.Rngs(0)), VAE_RULES),
    }
    found = {}
    for name, (build, rules) in builders.items():
        tensors = {key.removeprefix("text_model."): value for key, value in read_tensors(folder / name).items()}
        model = assign(nnx.eval_shape(build), tensors, rules, str(folder / name), dtype=jnp.float32)
        found[name] = nnx.split(model)[1]
    return found


class Sampler:
    """DDIM sampling with the networks under training, for sheets and the probe."""

    def __init__(
        self, text: dict[str, Any], tokenizer: Tokenizer, vae: AutoencoderKL, scale: float, steps: int, guidance: float
    ):
        graph = nnx.split(nnx.eval_shape(lambda: parts.Denoiser(parts.UNET_CONFIG, text, nnx.Rngs(0))))[0]
        vae_graph, self.vae_params = nnx.split(vae)
        alphas = np.concatenate([parts.alphas_cumulative(), [1.0]]).astype(np.float32)
        times = np.round(np.arange(parts.TRAIN_TIMESTEPS, 0, -parts.TRAIN_TIMESTEPS / steps)).astype(np.int32) - 1
        following = np.append(times[1:], -1)
        table = (jnp.asarray(times), jnp.asarray(alphas[times]), jnp.asarray(alphas[following]))
        self.tokenizer = tokenizer

        def sample(params: Any, vae_params: Any, tokens: jax.Array, key: jax.Array) -> jax.Array:
            denoiser = nnx.merge(graph, params)
            n = tokens.shape[0]
            context = denoiser.text_encoder(jnp.concatenate([jnp.broadcast_to(empty, tokens.shape), tokens])).last_hidden_state

            def body(latents: jax.Array, row: Any) -> tuple[jax.Array, None]:
                t, alpha, after = row
                out = denoiser.unet(jnp.concatenate([latents, latents]), jnp.broadcast_to(t, (2 * n,)), context)
                velocity = out[:n] + guidance * (out[n:] - out[:n])
                clean = jnp.sqrt(alpha) * latents - jnp.sqrt(1 - alpha) * velocity
                noise = jnp.sqrt(alpha) * velocity + jnp.sqrt(1 - alpha) * latents
                return jnp.sqrt(after) * clean + jnp.sqrt(1 - after) * noise, None

            latents = jax.lax.scan(body, jax.random.normal(key, (n, 8, 8, 4)), table)[0]
            images = nnx.merge(vae_graph, vae_params).decode(latents / scale)
            return jnp.clip(images * 127.5 + 128.0, 0, 255).astype(jnp.uint8)

        empty = jnp.asarray(tokenizer.encode(""))[None]
        self.sample = jax.jit(sample)

    def __call__(self, params: Any, prompts: list[str], seed: int, batch: int = 44) -> np.ndarray:
        """Images uint8 [n, 64, 64, 3] of the prompts."""
        out = []
        for start in range(0, len(prompts), batch):
            chunk = prompts[start : start + batch]
            tokens = jnp.asarray([self.tokenizer.encode(p) for p in chunk + [""] * (batch - len(chunk))], jnp.int32)
            images = self.sample(params, self.vae_params, tokens, jax.random.fold_in(jax.random.key(seed), start))
            out.append(np.asarray(images)[: len(chunk)])
        return np.concatenate(out)


def draw_sheet(images: np.ndarray, labels: list[str], columns: int, path: Path) -> None:
    """Writes images uint8 [n, 64, 64, 3] row by row, each row under its label."""
    rows = len(images) // columns
    sheet = Image.new("RGB", (columns * 66 + 110, rows * 66), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for row in range(rows):
        draw.text((2, row * 66 + 26), labels[row][:20], fill=(0, 0, 0))
        for column in range(columns):
            sheet.paste(Image.fromarray(images[row * columns + column]), (110 + column * 66, row * 66))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def noun_prompts(data: dict[str, np.ndarray], per_class: int) -> list[tuple[str, str]]:
    """(class, prompt with a noun) for the sheets and the probe: the classes' nouns in turn."""
    out = []
    for name in CLASSES:
        nouns = sorted({str(n) for n, c in zip(data["nouns"], data["classes"], strict=True) if c == name})
        out += [(name, f"a photo of a {nouns[i * 7 % len(nouns)]}, a {name}") for i in range(per_class)]
    return out


def export(
    params: Any,
    vae: nnx.Module,
    scale: float,
    text: dict[str, Any],
    tokenizer: Tokenizer,
    folder: Path,
    note: dict[str, Any],
) -> None:
    """Writes the diffusers folder: configurations, float16 weights in PyTorch's layout, licence, provenance, checksums."""
    from bridgejax.files import write_json
    from bridgejax.models.clip_text import CLIP_TEXT_RULES
    from bridgejax.models.safetensors_files import save_tensors
    from bridgejax.models.unet import UNET_LINEAR_RULES
    from bridgejax.models.vae import VAE_RULES
    from bridgejax.models.weights import export as export_tensors

    folder.mkdir(parents=True, exist_ok=True)
    graph = nnx.split(nnx.eval_shape(lambda: parts.Denoiser(parts.UNET_CONFIG, text, nnx.Rngs(0))))[0]
    denoiser = nnx.merge(graph, params)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    for name in ("scheduler", "text_encoder", "unet", "vae"):
        (folder / name).mkdir(exist_ok=True)
    write_json(folder / "model_index.json", index)
    write_json(folder / "scheduler/scheduler_config.json", parts.SCHEDULER_CONFIG)
    write_json(folder / "text_encoder/config.json", text)
    write_json(folder / "unet/config.json", parts.UNET_CONFIG)
    write_json(folder / "vae/config.json", {**clipart_vae.CONFIG, "scaling_factor": scale})
    tokenizer.save(folder / "tokenizer")
    text_tensors = {f"text_model.{k}": v for k, v in export_tensors(denoiser.text_encoder, CLIP_TEXT_RULES).items()}
    for file, tensors in (
        ("text_encoder/model.safetensors", text_tensors),
        ("unet/diffusion_pytorch_model.safetensors", export_tensors(denoiser.unet, UNET_LINEAR_RULES)),
        ("vae/diffusion_pytorch_model.safetensors", export_tensors(vae, VAE_RULES)),
    ):
        # transformers takes a text encoder's type from its file while diffusers loads the rest as float32: they must meet.
        kind = np.float32 if file.startswith("text_encoder") else np.float16
        save_tensors(folder / file, {k: v.astype(kind) for k, v in tensors.items()})
    write_documents(folder, note)


def write_documents(folder: Path, note: dict[str, Any]) -> None:
    """Writes README.md, LICENSE, PROVENANCE.md and SHA256SUMS of the folder."""
    (folder / "README.md").write_text(README, encoding="utf-8")
    (folder / "LICENSE").write_text(LICENSE, encoding="utf-8")
    figures = "\n".join(f"- {key}: {value}" for key, value in note.items())
    (folder / "PROVENANCE.md").write_text(PROVENANCE + figures + "\n", encoding="utf-8")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}" for p in files]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")


README = """# tiny_diffusion

A small latent text-to-image model in the diffusers folder layout: clip art of 64×64 px in the 11 classes of `tux_photos`
(bird, mammal, insect, fish, flower, fruit, vegetable, tool, road sign, musical instrument, vehicle), by class or by noun
("a photo of a bird", "a drawing of a parrot, a bird"). It is trained from scratch on public-domain and Apache-2.0 clip art
and has never seen a photograph of `tux_photos`; the gap between its style and photographs is intended.

Open it with `bridgejax.diffusion.load_pipeline("builtin:tiny_diffusion")` or with PyTorch diffusers'
`StableDiffusionPipeline.from_pretrained(folder)`. Rebuild it with `tools/build_clipart.py` and `tools/train_tiny_diffusion.py`.
"""
LICENSE = """The weights, the vocabulary and the configuration files in this folder are part of bridgejax and are licensed
under the Apache License, Version 2.0 (http://www.apache.org/licenses/LICENSE-2.0).

They were trained on pictures of two collections, neither of which is contained in this folder:
- openclipart (Debian package openclipart-png): dedicated to the public domain by its authors.
- the Google emoji of the npm package emoji-datasource-google: Noto emoji, Apache License 2.0; the package's data: MIT.
"""
PROVENANCE = """# Where tiny_diffusion comes from

Trained from random initial values by `tools/train_tiny_diffusion.py` on the pictures that `tools/build_clipart.py` selects
from Debian's `openclipart-png` (1:0.18+dfsg-19, public domain) and npm's `emoji-datasource-google` 16.0.0 (art Apache-2.0).
The autoencoder saw all colour pictures of both; UNet and text encoder saw the labelled ones. No photograph and no picture of
`tuxpaint-stamps` was used. Weights are moving averages, stored in float16 (the text encoder in float32).

"""


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the .npz of build_clipart.py")
    parser.add_argument("--work", type=Path, required=True, help="folder of checkpoints, sheets and cached latents")
    parser.add_argument("--output", type=Path, default=ASSET, help="the diffusers folder to write")
    parser.add_argument("--parts", default="vae,decoder,text,unet,probe,export", help="which parts to do, separated by commas")
    parser.add_argument("--vae-steps", type=int, default=2000)
    parser.add_argument("--decoder-steps", type=int, default=1500)
    parser.add_argument("--text-steps", type=int, default=500)
    parser.add_argument("--vae-batch-size", type=int, default=8)
    parser.add_argument("--vae-learning-rate", type=float, default=2e-3)
    parser.add_argument("--steps", type=int, default=20000, help="steps of the UNet part")
    parser.add_argument("--minutes", type=float, default=0.0, help="train the UNet this long instead of --steps")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--copies", type=int, default=0, help="scaled and shifted copies of each picture")
    parser.add_argument("--mirror", action="store_true", help="mirror images too (augmentation makes them anyway)")
    parser.add_argument("--per-class", type=int, default=1000, help="most pictures of a class that the UNet learns")
    parser.add_argument("--class-only", type=float, default=0.2, help="share of captions that name the class alone")
    parser.add_argument("--timestep-power", type=float, default=0.7, help="below 1: more of the noisy timesteps")
    parser.add_argument("--sheet-every", type=float, default=8.0, help="minutes between sample sheets")
    parser.add_argument("--sample-steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument(
        "--probe-every", type=float, default=0.0, help="minutes between probes while training; 0: only at the end"
    )
    parser.add_argument("--emoji", type=Path, metavar="FOLDER", help="the folder of build_emoji_task.py, tested on too")
    parser.add_argument("--probe-images", type=int, default=32, help="generated images per class for the probe")
    parser.add_argument("--probe-nouns", action="store_true", help="probe noun prompts too")
    parser.add_argument("--note", action="append", default=[], metavar="KEY=VALUE", help="a line for PROVENANCE.md")
    parser.add_argument(
        "--start", type=Path, metavar="FOLDER", help="go on from an exported folder's weights (parts unet,probe,export)"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    wanted = options.parts.split(",")
    options.work.mkdir(parents=True, exist_ok=True)
    data = load_data(options.data)
    tokenizer = Tokenizer.load(options.start / "tokenizer") if options.start else make_tokenizer(data)
    text = parts.text_config(tokenizer)
    first = published(options.start, text) if options.start else {}
    if first and "vae" not in wanted and not (options.work / "vae.npz").is_file():
        save_state(options.work / "vae.npz", {"ema": first["vae"]})
    if "vae" in wanted:
        clipart_vae.train_vae(
            data,
            options.work,
            steps=options.vae_steps,
            batch_size=options.vae_batch_size,
            learning_rate=options.vae_learning_rate,
            seed=options.seed,
            first=first.get("vae"),
        )
    if "decoder" in wanted:
        clipart_vae.train_decoder(
            data,
            options.work,
            steps=options.decoder_steps,
            batch_size=options.vae_batch_size,
            learning_rate=options.vae_learning_rate / 2,
            seed=options.seed,
        )
    classes, nouns = ([str(x) for x in data[key]] for key in ("classes", "nouns"))
    first_text, first_unet = first.get("text_encoder"), first.get("unet")
    if "text" in wanted:
        first_text = clipart_text.train_text(
            classes,
            nouns,
            tokenizer,
            text,
            options.work,
            steps=options.text_steps,
            batch_size=32,
            learning_rate=2 * options.learning_rate,
            seed=options.seed,
        )
    if not {"unet", "export", "probe", "sheet"} & set(wanted):
        return 0
    kept = clipart_choice.typical_pictures(data["images"], classes, options.per_class)
    data = {**data, **{key: data[key][kept] for key in ("images", "classes", "nouns", "sources")}}
    training_set, scale = cached_latents(data, tokenizer, options.work, options)
    vae = clipart_vae.load_vae(options.work)
    sampler = Sampler(text, tokenizer, vae, scale, options.sample_steps, options.guidance)
    last_probe = [0.0]

    def sheet(params: Any, step: int) -> None:
        columns = 8
        prompts = [f"a photo of a {name}" for name in CLASSES for _ in range(columns // 2)]
        nouns = noun_prompts(data, columns // 2)
        images = sampler(params, prompts + [p for _, p in nouns], seed=1)
        half = columns // 2
        ordered = np.concatenate(
            [np.concatenate([images[i * half : i * half + half], images[(11 + i) * half : (12 + i) * half]]) for i in range(11)]
        )
        draw_sheet(ordered, list(CLASSES), columns, options.work / f"sheet_{step:06d}.png")
        log(f"sheet_{step:06d}.png")

    judges: list[clipart_figures.Judge] = []  # made when first needed

    def run_probe(params: Any, step: int, nouns: bool) -> dict[str, Any]:
        if not judges:
            judges.append(clipart_figures.Judge(data["images"], options.emoji))
        pairs = (
            noun_prompts(data, options.probe_images)
            if nouns
            else [(c, f"a photo of a {c}") for c in CLASSES for _ in range(options.probe_images)]
        )
        images = sampler(params, [p for _, p in pairs], seed=2)
        result = judges[0](images, [c for c, _ in pairs])
        log(f"probe step {step} {'noun' if nouns else 'class'} prompts {json.dumps(result)}")
        return result

    def report(params: Any, step: int) -> None:
        import time

        sheet(params, step)
        if options.probe_every and time.time() - last_probe[0] > 60 * options.probe_every:
            run_probe(params, step, nouns=False)
            last_probe[0] = time.time()

    if "unet" in wanted:
        train_options = parts.UNetOptions(
            steps=options.steps,
            minutes=options.minutes,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            seed=options.seed,
            sheet_every=options.sheet_every,
            class_only=options.class_only,
            timestep_power=options.timestep_power,
        )
        parts.train_unet(training_set, text, options.work, train_options, report, first_text=first_text, first_unet=first_unet)
    abstract = nnx.split(nnx.eval_shape(lambda: parts.Denoiser(parts.UNET_CONFIG, text, nnx.Rngs(0))))[1]
    state = load_state(options.work / "unet.npz", {"ema": abstract, "step": jax.ShapeDtypeStruct((), jnp.int32)}, partial=True)
    if state is None:
        raise SystemExit(f"{options.work / 'unet.npz'}: no trained UNet; run the unet part first")
    params, step = state["ema"], int(state["step"])
    if "sheet" in wanted:
        sheet(params, step)
    note: dict[str, Any] = dict(line.split("=", 1) for line in options.note)
    if "probe" in wanted:
        for with_nouns in (False, True) if options.probe_nouns else (False,):
            kind = "noun prompts" if with_nouns else "class prompts"
            note[f"figures of {options.probe_images} images per class, {kind}"] = json.dumps(
                run_probe(params, step, with_nouns)
            )
    if "export" in wanted:
        note = {
            "UNet steps": f"{step} of batch {options.batch_size}",
            "labelled pictures that the UNet learned": len(data["images"]),
            "pool": len(data["pool"]),
            **note,
        }
        export(params, vae, scale, text, tokenizer, options.output, note)
        log(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
