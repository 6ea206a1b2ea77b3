"""The same training steps by timm and PyTorch: compiled, channels last, under autocast to bfloat16."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from benchmarks.accelerator_parts.context import Context
from benchmarks.accelerator_parts.measure import halving
from benchmarks.accelerator_parts.record import Row
from benchmarks.accelerator_parts.training import RATE, ROUNDS, Work, plan


def rows(context: Context) -> Iterator[Row]:
    """Yields the part's rows; a single note where PyTorch or timm is missing."""
    from benchmarks.peers import import_timm

    try:
        import torch

        timm = import_timm()
    except ImportError as error:
        yield {"case": "how", "note": f"No peer was measured ({error}): `pip install torch timm`."}
        return
    from benchmarks.accelerator_parts.torch_device import torch_device

    device, missing = torch_device()
    if missing and not context.smoke:
        yield {"case": "how", "note": missing}
        return
    works, steps = plan(context)
    how = "eager (smoke run)" if context.smoke else "torch.compile"
    yield {"case": "how", "note": f"PyTorch {torch.__version__}, timm {timm.__version__}, {how}, on {device}."}
    for work in works:
        batch, found = halving(work.batch, lambda batch, work=work: measure(work, batch, steps, device, not context.smoke))
        yield {"case": work.title, "batch": batch, "images/s": 1e3 * batch / found["step, ms"], **found}


def measure(work: Work, batch: int, steps: int, device: Any, compiled: bool) -> Row:
    """Returns the time of a step, and what its first call took."""
    import torch

    from benchmarks.accelerator_parts.torch_device import synchronise
    from benchmarks.peers import import_timm

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    arguments = work.arguments | ({"img_size": work.side} if work.name.startswith("vit") else {})
    model = import_timm().create_model(work.name, num_classes=1000, **arguments)
    model = model.to(device, memory_format=torch.channels_last).train()
    kind = torch.optim.SGD if work.optimizer == "sgd" else torch.optim.AdamW
    options = {"lr": RATE, "momentum": 0.9} if work.optimizer == "sgd" else {"lr": 0.01 * RATE, "weight_decay": 0.0}
    if device.type == "cuda":
        options["fused"] = True
    optimizer = kind(model.parameters(), **options)
    call = torch.compile(model, dynamic=False) if compiled else model
    pixels = torch.randint(0, 256, (batch, 3, work.side, work.side), dtype=torch.uint8, device=device)
    pixels = pixels.to(memory_format=torch.channels_last)
    label = torch.randint(0, 1000, (batch,), device=device)

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16):
            logits = call((pixels.float() / 255 - 0.5) / 0.5)
            loss = torch.nn.functional.cross_entropy(logits, label)
        loss.backward()
        optimizer.step()
        return loss.detach()

    began = time.perf_counter()
    step()
    synchronise(device)
    first = time.perf_counter() - began
    step()
    best = float("inf")
    for _ in range(ROUNDS):
        synchronise(device)
        began = time.perf_counter()
        for _ in range(steps):
            loss = step()
        synchronise(device)
        best = min(best, (time.perf_counter() - began) / steps)
    return {"step, ms": 1e3 * best, "first step, s": first, "loss": float(loss)}
