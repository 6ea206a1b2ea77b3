"""Train bridgejax's embedded CLIP: a small text tower that reads the features of EfficientNet-Lite0 (locked-image tuning).

Source: Zhai et al. 2022 (arXiv:2111.07991). The image tower stays as it is; its features of the pictures, in many views, are
taken once and kept in ``--work``. A linear projection of them and the text tower learn to agree: each picture with the names of
its group, of its noun and of its kind, each name with its pictures, against all other names of the batch.

    python tools/build_clipart.py --output clipart.npz
    python tools/train_tiny_clip.py --data clipart.npz --emoji-task emoji_task

Settings were chosen on the emoji task (``build_emoji_task.py``) and on pictures set aside (``--held 0.2``). No photograph takes
part; ``--probe`` measures the finished folder on the photographs of ``tux_photos``, and chooses nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from build_clipart import fetch_emoji, fetch_openclipart
from clipart_captions import COMMON_TEXTS, Tokenizer
from clipart_state import log
from flax import nnx
from tiny_clip_pictures import Pictures, gather, view

from bridgejax.models import load_classifier
from bridgejax.models.clip_text import CLIPTextModel

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parent / "bridgejax/assets"
IMAGE_TOWER = "builtin:efficientnet_lite0"
# (side of the views, views of a labelled picture, views of another): studies here use 96 px, the image tower was made for 224.
VIEWS = ((96, 6, 2), (128, 3, 1), (160, 4, 1), (224, 5, 2))
TOKENS = 20  # of a caption in training
TEXT = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "projection_dim": 96}
TEMPLATES = (
    *("a photo of a {}.", "a photo of a {}", "a picture of a {}", "an image of a {}", "a drawing of a {}", "clip art of a {}"),
    *("a photo of the {}.", "a close up photo of a {}.", "a cropped photo of the {}.", "an icon of a {}", "a painting of a {}"),
    *("{}", "a {}", "the {}", "many {}s", "a {} on a white background"),
)
PREPOSED = 11  # of them, the first ones, which a place can follow
# Said of anything, so that the text tower learns to look past it.
ADJECTIVES = "black white red green blue yellow orange purple pink brown grey bright dark big small large little old new nice"
ADJECTIVES += " round shiny wooden wild fresh ripe beautiful simple colourful young tall long"
SETTINGS = (
    "on a table,in a garden,in the sun,at night,on the street,in a field,in the forest,in the snow,in the sky,in the water"
)
SETTINGS += ",on a branch,on the grass,in a kitchen,in a workshop,by the sea,by the road,on a plate,in a room,on a wall"
SETTINGS += ",in bright light,seen from the side,seen from above,in the background,with green leaves,in the city,in a museum"


class Concepts(NamedTuple):
    """What captions name. ``captions[c]`` are those of concept c; the first ``groups`` concepts are the groups.

    ``of_picture`` int32 [n, 3]: the group, noun and kind of a picture, -1 where it has none beside its group.
    """

    captions: list[list[str]]
    groups: list[str]
    of_picture: np.ndarray


def captions_of(names: Sequence[str], rng: np.random.Generator, count: int) -> list[str]:
    """Captions with one of the names: every plain one of the first, then ``count`` with an adjective, a place or both."""
    plain = [template.format(names[0]) for template in TEMPLATES]
    adjectives, settings = ADJECTIVES.split(), SETTINGS.split(",")
    rich = []
    for _ in range(count):
        name = names[rng.integers(len(names))]
        if rng.random() < 0.7:
            name = f"{adjectives[rng.integers(len(adjectives))]} {name}"
        text = TEMPLATES[rng.integers(PREPOSED)].format(name).rstrip(".")
        rich.append(f"{text} {settings[rng.integers(len(settings))]}" if rng.random() < 0.6 else text)
    return plain + rich


def make_concepts(pictures: Pictures, rules: dict[str, Any], seed: int) -> Concepts:
    """The groups, nouns and kinds of the pictures, with their captions."""
    rng = np.random.default_rng((seed, 1))
    groups, nouns = ([str(name) for name in column] for column in (pictures.groups, pictures.nouns))
    kind_of = {group: kind for kind, members in rules["kinds"].items() for group in members}
    names: dict[tuple[str, ...], int] = {}
    for key in [(group,) for group in groups] + [pair for pair in zip(groups, nouns, strict=True) if pair[0] != pair[1]]:
        names.setdefault(key, len(names))
    for kind in rules["kinds"]:
        names.setdefault(("kind", kind), len(names))
    captions = []
    for key in names:
        if len(key) == 1:
            said = [key[0], key[0], *rules["synonyms"].get(key[0], [])]
        else:
            said = [key[1]] if key[0] == "kind" else [key[1], key[1], f"{key[1]}, a {key[0]}", f"{key[1]}, a kind of {key[0]}"]
        captions.append(captions_of(said, rng, 32))
    of_picture = [
        (names[group,], names.get((group, noun), -1), names.get(("kind", kind_of.get(group, "")), -1))
        for group, noun in zip(groups, nouns, strict=True)
    ]
    return Concepts(captions, list(dict.fromkeys(groups)), np.array(of_picture, np.int32))


def take_features(images: np.ndarray, batch: int = 64) -> np.ndarray:
    """Features of the image tower, float32 [n, 1280], of uint8 [n, s, s, 3]."""
    model = load_classifier(IMAGE_TOWER)
    graph, state = nnx.split(model)
    mean, std = (np.asarray(value, np.float32) for value in (model.preprocessing.mean, model.preprocessing.std))
    program = jax.jit(lambda state, x: nnx.merge(graph, state).features((x.astype(jnp.float32) / 255 - mean) / std))
    padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % batch, axis=0)])
    parts = [np.asarray(program(state, padded[i : i + batch])) for i in range(0, len(padded), batch)]
    return np.concatenate(parts)[: len(images)]


def cached_features(pictures: Pictures, labelled: int, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features of the views and the picture of each: float16 [m, 1280], int32 [m]; kept in ``work/features.npz``."""
    path = work / "features.npz"
    if not path.is_file():
        features, owners = [], []
        for size, often, seldom in VIEWS:
            for round_ in range(often):
                count = len(pictures.images) if round_ < seldom else labelled
                rows = range(count)
                views = [view(pictures.images[i], size, np.random.default_rng((size, round_, i))) for i in rows]
                features.append(take_features(np.stack(views)).astype(np.float16))
                owners.append(np.arange(count, dtype=np.int32))
            log(f"features at {size} px")
        temporary = path.with_name("features.part.npz")
        np.savez(temporary, features=np.concatenate(features), owners=np.concatenate(owners))
        temporary.replace(path)
    with np.load(path) as stored:
        return stored["features"], stored["owners"]


def agreement(images: jax.Array, texts: jax.Array, scale: jax.Array, right: jax.Array) -> jax.Array:
    """The loss of unit embeddings [n, d] and [t, d], where right [n, t] says which texts are true of which image.

    For each true pair, softmax cross-entropy against all that is not true; mean over the images, and half of that over texts.
    """
    logits = scale * images @ texts.T

    def one_way(logits: jax.Array, right: jax.Array) -> jax.Array:
        others = jax.nn.logsumexp(jnp.where(right, -1e9, logits), axis=1, keepdims=True)
        each = jnp.where(right, jnp.logaddexp(others, logits) - logits, 0).sum(1)
        return (each / jnp.maximum(right.sum(1), 1)).sum() / jnp.maximum(right.any(1).sum(), 1)

    return one_way(logits, right) + 0.5 * one_way(logits.T, right.T)


def unit(vectors: Any) -> Any:
    """Vectors of length 1."""
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)


class Trained(NamedTuple):
    """The parameters: ``text`` the text tower's state, ``kernel`` [1280, d], ``bias`` [d], ``scale`` the logarithm."""

    text: Any
    kernel: jax.Array
    bias: jax.Array
    scale: jax.Array


def train(
    features: np.ndarray,
    owners: np.ndarray,
    learned: np.ndarray,
    classes: Sequence[str],
    concepts: Concepts,
    tokenizer: Tokenizer,
    config: dict[str, Any],
    options: argparse.Namespace,
) -> Trained:
    """Trains on the pictures that are ``learned`` (bool [n]); half and more of each batch are of the eleven classes."""
    graph, text = nnx.split(CLIPTextModel(config, projection=True, rngs=nnx.Rngs(options.seed)))
    tokens = [np.array([tokenizer.encode(t)[:TOKENS] for t in row], np.int32) for row in concepts.captions]
    mean = features[np.isin(concepts.of_picture[owners, 0], np.arange(len(classes)))].mean(0, dtype=np.float32)
    everything = jnp.asarray(features.astype(np.float32) - mean)
    views_of = [np.flatnonzero(owners == picture) for picture in range(len(learned))]
    members = [np.flatnonzero((concepts.of_picture[:, 0] == g) & learned) for g in range(len(concepts.groups))]
    is_class = np.array([group in classes for group in concepts.groups])
    weights = [is_class / is_class.sum(), ~is_class * np.sqrt([len(rows) for rows in members])]
    weights[1] = weights[1] / weights[1].sum()
    key = jax.random.key(options.seed)
    width = config["projection_dim"]
    start = Trained(text, 0.03 * jax.random.normal(key, (features.shape[1], width)), jnp.zeros(width), jnp.log(10.0))
    rate = optax.warmup_cosine_decay_schedule(0.0, options.learning_rate, 50, options.steps)
    decays = Trained(jax.tree.map(lambda _: True, text), True, False, False)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=options.weight_decay, mask=decays)
    )

    @jax.jit
    def step(params: Trained, state: Any, everything: jax.Array, rows: Any, ids: Any, right: Any, key: jax.Array) -> Any:
        def loss_of(params: Trained) -> jax.Array:
            seen = everything[rows]
            kept = jax.random.bernoulli(key, 1 - options.dropout, seen.shape)
            images = unit(jnp.where(kept, seen / (1 - options.dropout), 0) @ params.kernel + params.bias)
            texts = unit(nnx.merge(graph, params.text)(ids).pooled)
            return agreement(images, texts, jnp.exp(params.scale), right)

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    params, state = start, optimizer.init(start)
    for number in range(options.steps):
        rng = np.random.default_rng((options.seed, 2, number))
        half = round(options.share * options.batch_size)
        groups = [rng.choice(len(members), n, p=w) for n, w in zip((half, options.batch_size - half), weights, strict=True)]
        chosen = np.array([rng.choice(members[g]) for g in np.concatenate(groups)])
        rows = np.array([rng.choice(views_of[picture]) for picture in chosen])
        named = concepts.of_picture[chosen]
        which = np.array([named[i, 1] if rng.random() < 0.8 else named[i, 2] for i in range(len(named))])
        others = list(dict.fromkeys(which[which >= 0]))[: options.names]
        texts = np.array([*range(len(members)), *others, *[0] * (options.names - len(others))])
        ids = np.stack([tokens[c][rng.integers(len(tokens[c]))] for c in texts])
        right = (named[:, :, None] == texts).any(1)
        params, state, loss = step(params, state, everything, rows, ids, right, jax.random.fold_in(key, number))
        if (number + 1) % 50 == 0:
            log(f"step {number + 1}/{options.steps} loss {float(loss):.3f} scale {float(jnp.exp(params.scale)):.1f}")
    # The mean that was taken from the features becomes part of the bias.
    return params._replace(bias=params.bias - mean @ params.kernel)


def mean_per_class(truth: np.ndarray, said: np.ndarray) -> float:
    """The mean of the classes' accuracies, in [0, 1]."""
    return float(np.mean([(said[truth == name] == name).mean() for name in np.unique(truth)]))


def check(
    trained: Trained, config: dict[str, Any], tokenizer: Tokenizer, features: np.ndarray, truth: np.ndarray, what: str
) -> float:
    """Logs and returns the zero-shot accuracy of features [n, 1280] whose classes are ``truth`` (str [n])."""
    graph = nnx.split(nnx.eval_shape(lambda: CLIPTextModel(config, projection=True, rngs=nnx.Rngs(0))))[0]
    names = np.unique(truth)
    ids = jnp.asarray([tokenizer.encode(f"a photo of a {name}.") for name in names])
    texts = unit(nnx.merge(graph, trained.text)(ids).pooled)
    said = names[np.asarray((unit(features.astype(np.float32) @ trained.kernel + trained.bias) @ texts.T).argmax(1))]
    accuracy = mean_per_class(truth, said)
    log(f"{what}: {accuracy:.4f} mean per class")
    return accuracy


def emoji_features(folder: Path, size: int, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features [n, 1280] of the emoji task's pictures, cropped as in evaluation to one side, and their classes; kept."""
    from bridgejax.data import eval_batches, load_task

    path = work / f"emoji_{size}.npz"
    if not path.is_file():
        task = load_task(f"folder:{folder}")
        images = [
            batch["image"][batch["mask"] > 0]
            for part in (task.train, task.test)
            for batch in eval_batches(part, batch_size=64, image_size=size, crop=0.875)
        ]
        labels = np.concatenate([task.train.labels, task.test.labels])
        np.savez(path, features=take_features(np.concatenate(images)), classes=np.array(task.class_names)[labels])
    with np.load(path) as stored:
        return stored["features"], stored["classes"]


def export(trained: Trained, config: dict[str, Any], tokenizer: Tokenizer, folder: Path, notes: dict[str, Any]) -> None:
    """Writes the folder: configuration, tokenizer, float16 weights in PyTorch's layout, licence, provenance, checksums."""
    from bridgejax.files import write_json
    from bridgejax.identity import file_digest
    from bridgejax.models.clip import TEXT_RULES
    from bridgejax.models.safetensors_files import save_tensors
    from bridgejax.models.weights import export as export_tensors

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(folder)
    lite0 = json.loads((ASSETS / "efficientnet_lite0/config.json").read_text(encoding="utf-8"))
    tower = {"weights": IMAGE_TOWER, "sha256": file_digest(ASSETS / "efficientnet_lite0/model.safetensors")}
    whole = {"model_type": "lit", "image_tower": tower, "projection_dim": config["projection_dim"]}
    write_json(folder / "config.json", {**whole, "preprocessing": lite0["preprocessing"], "text_config": config})
    graph = nnx.split(nnx.eval_shape(lambda: CLIPTextModel(config, projection=True, rngs=nnx.Rngs(0))))[0]
    tensors = {
        **export_tensors(nnx.merge(graph, trained.text), TEXT_RULES),
        "visual_projection.weight": np.ascontiguousarray(np.asarray(trained.kernel).T),
        "visual_projection.bias": np.asarray(trained.bias),
        "logit_scale": np.asarray(trained.scale),
    }
    save_tensors(folder / "model.safetensors", {name: array.astype(np.float16) for name, array in tensors.items()})
    write_documents(folder, notes)


def write_documents(folder: Path, notes: dict[str, Any]) -> None:
    """Writes LICENSE, PROVENANCE.md and SHA256SUMS of the folder."""
    (folder / "LICENSE").write_text(LICENSE, encoding="utf-8")
    lines = "\n".join(f"- {key}: {value}" for key, value in notes.items())
    (folder / "PROVENANCE.md").write_text(PROVENANCE + lines + "\n", encoding="utf-8")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}" for p in files]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n", encoding="utf-8")


def photographs(folder: Path, size: int) -> dict[str, Any]:
    """Zero-shot accuracy of a finished folder on every photograph of tux_photos at one side, for the report alone."""
    from bridgejax.data import eval_batches, load_task

    task = load_task("builtin:tux_photos")
    model = load_classifier(folder, class_names=[name.replace("_", " ") for name in task.class_names])
    mean, std = (np.asarray(value, np.float32) for value in (model.preprocessing.mean, model.preprocessing.std))
    run, truth, said = nnx.jit(lambda model, x: model((x / 255 - mean) / std)), [], []
    for part in (task.train, task.test):
        for batch in eval_batches(part, batch_size=64, image_size=size, crop=model.preprocessing.crop):
            kept = batch["mask"] > 0
            truth.append(batch["label"][kept])
            said.append(np.asarray(run(model, batch["image"].astype(np.float32)).argmax(1))[kept])
    names = np.array(task.class_names)
    true, guess = names[np.concatenate(truth)], names[np.concatenate(said)]
    each = {str(name): round(float((guess[true == name] == name).mean()), 3) for name in names}
    return {"top1": round(float((true == guess).mean()), 4), "mean_per_class": round(mean_per_class(true, guess), 4), **each}


LICENSE = """The weights, the vocabulary and the configuration files in this folder are part of bridgejax and are licensed
under the Apache License, Version 2.0 (http://www.apache.org/licenses/LICENSE-2.0).

They were trained on pictures of two collections, neither of which is contained in this folder:
- openclipart (Debian package openclipart-png): dedicated to the public domain by its authors.
- the Google emoji of the npm package emoji-datasource-google: Noto emoji, Apache License 2.0; the package's data: MIT.

The image tower is not in this folder: it is the embedded EfficientNet-Lite0 (Apache License 2.0).
"""
PROVENANCE = """# Where tiny_clip comes from

A text tower and a linear projection, trained from random initial values by `tools/train_tiny_clip.py` against the frozen
features of the embedded EfficientNet-Lite0 (locked-image tuning, Zhai et al. 2022, arXiv:2111.07991). The pictures: those that
`tools/build_clipart.py` labels with the eleven classes, and others by folder, subgroup and name
(`tools/tiny_clip_groups.json`), of Debian's `openclipart-png` (1:0.18+dfsg-19, public domain) and npm's
`emoji-datasource-google` 16.0.0 (art Apache-2.0).

No photograph was used in training, and none in any choice: settings were chosen on drawings, the emoji task of
`tools/build_emoji_task.py` and pictures set aside. The photographs of `tux_photos` were evaluated once, for the figures below.
Weights are stored in float16.

"""


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the .npz of build_clipart.py")
    parser.add_argument("--packages", type=Path, default=Path("clipart_work"), help="where the packages lie, or are fetched to")
    parser.add_argument("--work", type=Path, default=Path("tiny_clip_work"), help="where pictures and features are kept")
    parser.add_argument("--output", type=Path, default=ASSETS / "tiny_clip", help="the folder to write")
    parser.add_argument("--emoji-task", type=Path, help="folder of build_emoji_task.py: prints the accuracy on it")
    parser.add_argument("--held", type=float, default=0.0, help="share of the labelled pictures to set aside, for choosing")
    parser.add_argument("--probe", action="store_true", help="measure the finished folder on the photographs")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--names", type=int, default=96, help="nouns and kinds of a batch, beside every group")
    parser.add_argument("--share", type=float, default=0.7, help="of a batch that is of the eleven classes")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--dropout", type=float, default=0.1, help="of the features")
    parser.add_argument("--merges", type=int, default=1300, help="of the vocabulary")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    if not options.data.is_file():
        raise SystemExit(f"{options.data}: no such file; make it with tools/build_clipart.py --output {options.data}")
    with np.load(options.data) as stored:
        data = {name: stored[name] for name in stored.files if name != "pool"}
    path = options.work / "pictures.npz"
    if not path.is_file():
        found = gather(data, fetch_openclipart(options.packages), fetch_emoji(options.packages))
        np.savez(path, **found._asdict())
    with np.load(path) as stored:
        pictures = Pictures(**{name: stored[name] for name in Pictures._fields})
    labelled, classes = len(data["classes"]), [str(name) for name in data["class_names"]]
    log(f"{len(pictures.images)} pictures, {labelled} of them of the {len(classes)} classes")
    features, owners = cached_features(pictures, labelled, options.work)
    rules = json.loads((HERE / "tiny_clip_groups.json").read_text(encoding="utf-8"))
    concepts = make_concepts(pictures, rules, options.seed)
    log(f"{len(concepts.captions)} names")
    tokenizer = Tokenizer.train([t for row in concepts.captions for t in row] + list(COMMON_TEXTS) * 3, options.merges)
    size = len(tokenizer.vocabulary)
    special = {"vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1, "pad_token_id": size - 1}
    config = {**TEXT, **special, "max_position_embeddings": 77, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    held = np.zeros(len(pictures.images), bool)
    held[:labelled] = np.random.default_rng(7).random(labelled) < options.held
    trained = train(features, owners, ~held, classes, concepts, tokenizer, config, options)
    if options.held:
        rows = held[owners]
        check(trained, config, tokenizer, features[rows], pictures.groups[owners[rows]].astype(str), "pictures set aside")
    notes: dict[str, Any] = {
        "pictures": f"{len(pictures.images)}, {labelled} of them of the eleven classes, {len(owners)} views",
        "names": f"{len(concepts.groups)} groups, {len(concepts.captions)} names in all, {size} tokens",
        "training": f"{options.steps} steps of batch {options.batch_size}, seed {options.seed}",
    }
    if options.emoji_task:
        for side in (96, 160, 224):
            check(
                trained, config, tokenizer, *emoji_features(options.emoji_task, side, options.work), f"emoji task at {side} px"
            )
    if options.held:
        return 0
    export(trained, config, tokenizer, options.output, notes)
    if options.probe:
        for side in (224, 96):
            notes[f"zero-shot on the photographs at {side} px"] = json.dumps(photographs(options.output, side))
            log(f"photographs at {side} px {notes[f'zero-shot on the photographs at {side} px']}")
        write_documents(options.output, notes)
    log(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
