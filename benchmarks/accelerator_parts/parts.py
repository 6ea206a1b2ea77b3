"""The parts of a run, in the order of their worth."""

from __future__ import annotations

from benchmarks.accelerator_parts.budget import Part

PARTS = (
    Part("facts", "The device and its matrix rate", "facts", 30, 10),
    Part("correctness", "Values against the CPU's float32", "correctness", 105, 30),
    Part("sd15", "Stable Diffusion 1.5, 512 pixels", "generation", 150, 60),
    Part("training", "Training steps", "training", 90, 30),
    Part("training_peer", "Training steps of PyTorch and timm", "training_peer", 140, 60),
    Part("generation_peer", "Denoising steps of PyTorch", "generation_peer", 50, 20),
    Part("sdxl", "Stable Diffusion XL, 1024 pixels", "generation", 95, 50),
    Part("attention", "Attention kernels", "attention_kernels", 60, 15),
    Part("cold_start", "First and second start", "starts", 35, 20),
)
NAMES = tuple(part.name for part in PARTS)
