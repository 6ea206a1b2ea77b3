"""bridgejax: better image classifiers from class names and generated images, in JAX.

Import from the rooms: `bridgejax.diffusion`, `bridgejax.synthesis`, `bridgejax.training`, `bridgejax.models`,
`bridgejax.data`, `bridgejax.evaluation`, `bridgejax.mesh`. The package itself imports nothing heavy.
"""

__version__ = "0.1.0"
