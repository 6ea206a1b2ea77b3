"""Diffusion: `load_pipeline` gives a text-to-image model in JAX from a folder in the diffusers layout."""

from bridgejax.diffusion.pipeline import Pipeline, load_pipeline

__all__ = ["Pipeline", "load_pipeline"]
