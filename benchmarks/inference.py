"""A forward pass beside timm's, in evaluation mode, float32, on the CPU.

    python -m benchmarks inference [--only resnet18 vit_s16 …] [--sizes 64 …] [--peers eager compiled] [--repeats 5]

Ours is `make_eval_step`; the peer is timm's network (for EfficientNet-Lite0 the PyTorch port) with the same weights under
`torch.inference_mode`, convolutional ones with the channels last, eager and by torch.compile (whose inductor needs a C++
compiler). Logits must agree within 1e-3 of the largest. Sides run in processes of their own and take turns; medians and ratios
are over turns. Keeps docs/results/inference.json and .md.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks import classifier_cases


def main(arguments: Sequence[str]) -> int:
    """Measures, prints and keeps."""
    return classifier_cases.main("inference", __doc__, arguments)
