"""What test_strict_jax runs under a strict JAX: loads, trains, evaluates, generates and measures once each.

python -W error strict_program.py GENERATOR BACKBONE CLIP FOLDER
"""

from __future__ import annotations

import sys

import jax
import numpy as np
import optax
from flax import nnx

from bridgejax.data.examples import Examples
from bridgejax.data.images import encode_png
from bridgejax.diffusion import load_pipeline
from bridgejax.evaluation import frechet_distance
from bridgejax.evaluation.features import image_features
from bridgejax.identity import image_seeds
from bridgejax.models import load_classifier, reset_blocks, save_classifier
from bridgejax.synthesis import generate_set
from bridgejax.training import TrainState, evaluate, make_eval_step, make_optimizer, make_train_step, mixup

RNG = np.random.default_rng(0)
BATCH = {
    "image": RNG.integers(0, 256, (4, 32, 32, 3), np.uint8),
    "label": np.asarray([0, 1, 2, 0], np.int32),
    "mask": np.asarray([1, 1, 1, 0], np.float32),
    "teacher_logits": RNG.normal(size=(4, 3)).astype(np.float32),
}
STEPS = ({}, {"mixup_alpha": 0.2}, {"loss": "soft_target", "label_smoothing": 0.1}, {"batch_norm": "frozen", "remat": True})


def number(value: jax.Array) -> float:
    return float(jax.device_get(value))


def main(generator: str, backbone: str, clip: str, folder: str) -> None:
    zero_shot = load_classifier(clip, class_names=["cat", "dog", "eel"])
    zero_shot.encode_text(["a cat"])
    for model in (load_classifier(backbone, num_classes=3), load_classifier(clip, num_classes=3), zero_shot):
        images = jax.device_put(RNG.normal(size=(2, 32, 32, 3)).astype(np.float32))
        print("logits", jax.device_get(model(images)).sum(), jax.device_get(model.features(images)).sum())
        for number_of, options in enumerate(STEPS if model is not zero_shot else STEPS[:1]):
            adam = make_optimizer("adamw", learning_rate=1e-3, weight_decay=0.1)
            optimizer = (make_optimizer("sgd", learning_rate=0.1, momentum=0.9), adam, optax.adamw(1e-3), adam)[number_of]
            state, step = TrainState.create(model, optimizer, seed=0), make_train_step(**options)
            for _ in range(2):
                state, metrics = step(state, BATCH)
            print("train", options, number(metrics["loss"]))
        print("eval", number(make_eval_step()(state, BATCH)["loss"]), evaluate(state.model, [BATCH]))
        print("features", image_features(model, [{"image": BATCH["image"]}]).sum())
    save_classifier(reset_blocks(load_classifier(backbone), 1, 0), f"{folder}/saved")
    half = jax.device_put(np.float32(0.5))
    mixup(images, jax.device_put(np.eye(2, dtype=np.float32)), half, jax.device_put(np.asarray([1, 0])))
    pipe = load_pipeline(generator)
    made = pipe(["a cat", "a dog"], seeds=[1, 2], steps=2, guidance_scale=3.0)
    for scheduler in ("euler_ancestral", "dpmpp_2m", "lcm"):
        made = pipe(["a cat", "a dog"], seeds=[1, 2], steps=2, guidance_scale=3.0, scheduler=scheduler)
    pipe(["a cat", "a dog"], seeds=[1, 2], steps=2, guidance_scale=3.0, init_images=made, strength=0.5)
    hidden, pooled = pipe.encode_prompts(["a cat", "a dog"])
    latents = pipe.encode(made)
    pipe.decode(pipe.predict(latents, 10, hidden, pooled))
    names = ["cat", "dog"]
    generate_set(f"{folder}/set", pipeline=pipe, class_names=names, per_class=2, batch_size=2, steps=1, guidance_scale=1.0)
    print(
        "generated",
        made.shape,
        image_seeds(0, "cat", range(2)),
        frechet_distance(RNG.normal(size=(9, 4)), RNG.normal(size=(9, 4))),
    )
    assert len(Examples((encode_png(BATCH["image"][0]),), np.zeros(1, np.int32), ("x",))) == 1
    assert isinstance(zero_shot, nnx.Module)


if __name__ == "__main__":
    main(*sys.argv[1:])
