"""Both sides of the comparisons of classifiers, and their cases: a train step, and a forward pass.

Our side starts a network from random weights and writes its folder; PyTorch's side reads the same folder, so that both compute
the same function.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import flops
from benchmarks.harness import Case, Side
from benchmarks.networks import NETWORKS, write_config
from benchmarks.peers import import_timm
from benchmarks.worker import Prepared

PEERS = ("eager", "compiled")
WORK = ("train_step", "inference")
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
TOLERANCE = 1e-3  # of the first loss, and of logits
_SHOWN = 64  # logits that are compared


def case(work: str, name: str, size: int, peers: Sequence[str], folder: Path) -> Case:
    """Returns a network's case; `work` is one of `WORK`, `peers` some of `PEERS`, and the weights come to lie in `folder`."""
    network = NETWORKS[name]
    given = {"work": work, "network": name, "size": size, "folder": str(folder)}
    per_image, counted = (flops.training, flops.TRAINING) if work == "train_step" else (flops.forward, flops.FORWARD)
    return Case(
        key=f"{name} {size}",
        what=f"{network.title}, {size} px",
        batch=network.batches[size],
        ours=Side("bridgejax", "benchmarks.classifiers:ours", given, caches=True),
        peers=[Side(f"{network.peer}, {peer}", "benchmarks.classifiers:theirs", {**given, "how": peer}) for peer in peers],
        tolerance=TOLERANCE,
        flops=lambda batch: batch * per_image(name, size),
        flops_by=counted,
    )


def images_and_labels(size: int, batch: int) -> tuple[Any, Any]:
    """Returns the same normalised images, float32 [batch, size, size, 3], and labels, int32 [batch], for every side."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.standard_normal((batch, size, size, 3), np.float32), rng.integers(0, flops.CLASSES, batch, np.int32)


def ours(work: str, network: str, size: int, folder: str, batch: int) -> Prepared:
    """Prepares bridgejax's train step or evaluation step, and writes the weights if they are not there."""
    import jax
    import numpy as np

    from bridgejax import runtime
    from bridgejax.models import load_classifier, save_classifier
    from bridgejax.training import TrainState, make_eval_step, make_optimizer, make_train_step

    runtime.start()
    place = Path(folder)
    if (place / "model.safetensors").is_file():
        model = load_classifier(place)
    else:
        write_config(network, size, place)
        model = load_classifier(place, pretrained=False)
        save_classifier(model, place)
    images, labels = (jax.device_put(array) for array in images_and_labels(size, batch))
    optimizer = make_optimizer("sgd", learning_rate=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    state = TrainState.create(model, optimizer, seed=0)
    del model  # the state holds a copy
    if work == "inference":
        evaluate = make_eval_step()
        return Prepared(
            lambda: evaluate(state, {"image": images})["logits"].block_until_ready(),
            lambda logits: np.asarray(logits).ravel()[:_SHOWN],
        )
    step = make_train_step()

    def train() -> Any:
        nonlocal state
        state, metrics = step(state, {"image": images, "label": labels})
        jax.block_until_ready(state)
        return metrics["loss"]

    return Prepared(train, lambda loss: [float(loss)])


def theirs(work: str, network: str, size: int, folder: str, batch: int, how: str) -> Prepared:
    """Prepares PyTorch's; `how` is one of `PEERS`."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    model = _torch_model(network, size, folder)
    order = torch.channels_last if NETWORKS[network].convolutional else torch.contiguous_format
    model = model.to(memory_format=order)
    arrays = images_and_labels(size, batch)
    images = torch.from_numpy(arrays[0]).permute(0, 3, 1, 2).contiguous(memory_format=order)
    labels = torch.from_numpy(arrays[1]).long()
    call = torch.compile(model) if how == "compiled" else model
    if work == "inference":
        model.eval()

        def infer() -> Any:
            with torch.inference_mode():
                return call(images)

        return Prepared(infer, lambda logits: logits.flatten()[:_SHOWN].tolist())
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)

    def train() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(call(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return Prepared(train, lambda loss: [loss])


def _torch_model(network: str, size: int, folder: str) -> Any:
    """Returns PyTorch's network with the weights of a folder; the port's two random regularisers are off, as they are here."""
    if NETWORKS[network].peer == "timm":
        return import_timm().create_model(f"local-dir:{folder}", pretrained=True)
    from efficientnet_lite_pytorch import EfficientNet
    from safetensors.torch import load_file

    model = EfficientNet.from_name("efficientnet-lite0", image_size=size, drop_connect_rate=0.0, dropout_rate=0.0)
    model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
    return model
