"""The device on which PyTorch's side runs."""

from __future__ import annotations

from typing import Any


def torch_device() -> tuple[Any, str]:
    """Returns PyTorch's GPU and "", or its CPU and a sentence that says why no comparison can be made there."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda"), ""
    return torch.device("cpu"), f"No peer was measured: PyTorch {torch.__version__} finds no GPU here; install its CUDA build."


def synchronise(device: Any) -> None:
    """Waits until the device has done all that was begun."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
