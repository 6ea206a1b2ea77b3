"""A stand-in for a pipeline: pixels from prompt and seed alone, at once; optionally slow, to be killed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import numpy as np


class FakePipeline:
    digest = "f" * 64
    default_height = 8
    default_width = 12
    dtype = "float32"

    def __init__(self, pause: float = 0.0):
        self.pause = pause
        self.batches: list[int] = []

    def __call__(self, prompts: Sequence[str], *, seeds, steps, guidance_scale, negative_prompt, height, width, scheduler):
        self.batches.append(len(prompts))
        time.sleep(self.pause)
        images = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            word = int.from_bytes(hashlib.sha256(f"{prompt}/{seed}/{steps}".encode()).digest()[:8], "big")
            images.append(np.random.default_rng(word).random((height, width, 3), np.float32))
        return np.stack(images)
