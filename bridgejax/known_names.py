"""The names that users write for schedulers, dtypes and predictions: plain tuples, so that configs are checked without JAX."""

from __future__ import annotations

# Implemented in `bridgejax.diffusion.schedulers`.
SCHEDULERS = ("ddim", "pndm", "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_karras", "lcm")
# What a diffusion model predicts.
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
# Dtypes that generators run in, and that classifiers are trained in: float16's narrow range would need scaled losses.
GENERATOR_DTYPES = ("float32", "bfloat16", "float16")
TRAINING_DTYPES = ("float32", "bfloat16")
# Weights and tasks that come with the package.
BUILTIN_GENERATORS = ("builtin:tiny_diffusion",)
BUILTIN_CLASSIFIERS = ("builtin:efficientnet_lite0", "builtin:tiny_clip")
BUILTIN_TASKS = ("builtin:tux_photos",)
ERASING_FILLS = ("pixel", "zero")  # what random erasing puts into its boxes
