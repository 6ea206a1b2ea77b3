"""One train step beside timm's: forward, backward and SGD, float32, on the CPU.

    python -m benchmarks train_step [--only resnet18 vit_s16 …] [--sizes 64 …] [--peers eager compiled] [--repeats 5]

Ours is `make_train_step` on a model of `bridgejax.models`; the peer is timm's network (for EfficientNet-Lite0 the PyTorch port)
with the same weights, convolutional ones with the channels last, eager and by torch.compile (whose inductor needs a C++
compiler). SGD with momentum 0.9 and weight decay 5e-4. The first losses must agree within 1e-3. Sides run in processes of their
own and take turns; medians and ratios are over turns. Keeps docs/results/train_step.json and .md.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import classifier_cases


def main(arguments: Sequence[str]) -> int:
    """Measures, prints and keeps."""
    return classifier_cases.main("train_step", __doc__, arguments)
