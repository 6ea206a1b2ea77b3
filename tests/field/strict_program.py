"""What test_strict_jax runs under a strict JAX: loads, trains, evaluates, generates and measures once each.

python -W error strict_program.py GENERATOR BACKBONE CLIP FOLDER
"""

from __future__ import annotations

import sys

import jax
import numpy as np

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
STEPS = (({}, "sgd"), ({"loss": "soft_target", "mixup_alpha": 0.2}, "adamw"))


def number(value: jax.Array) -> float:
    return float(jax.device_get(value))


def main(generator: str, backbone: str, clip: str, folder: str) -> None:
    zero_shot = load_classifier(clip, class_names=["cat", "dog", "eel"])
    zero_shot.encode_text(["a cat"])
    model = load_classifier(backbone, num_classes=3)
    images = jax.device_put(RNG.normal(size=(2, 32, 32, 3)).astype(np.float32))
    for each in (model, zero_shot):
        print("logits", jax.device_get(each(images)).sum(), jax.device_get(each.features(images)).sum())
    for options, name in STEPS:
        state = TrainState.create(model, make_optimizer(name, learning_rate=1e-3, weight_decay=0.1), seed=0)
        step = make_train_step(**options)
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
    made = pipe(["a cat", "a dog"], seeds=[1, 2], steps=2, guidance_scale=3.0, scheduler="euler_ancestral", init_images=made)
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


if __name__ == "__main__":
    main(*sys.argv[1:])
