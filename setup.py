"""Metadata and extras; the build system and the tools' settings are in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

version = next(
    line.split('"')[1] for line in Path("bridgejax/__init__.py").read_text().splitlines() if line.startswith("__version__")
)

setup(
    name="bridgejax",
    version=version,
    description="Better image classifiers from class names and generated images, in JAX",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["bridgejax", "bridgejax.*"]),
    package_data={"bridgejax": ["assets/**/*", "assets/**/.*", "data/tables/*.*", "report/*.css", "report/*.json"]},
    include_package_data=True,
    entry_points={"console_scripts": ["bridgejax = bridgejax.cli:main"]},
    install_requires=[
        "jax>=0.10.2",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12.8",
        "numpy>=2.0",
        "pillow>=10.0",
        "safetensors>=0.8.0",
        "transformers>=5.0",  # reads the folders of CLIP tokenizers
        "tokenizers>=0.22",  # what transformers reads tokenizers into
        "huggingface_hub>=1.0",
        "ml_collections>=1.1.0",
        "tensorflow-cpu>=2.21.0; platform_machine == 'x86_64' and sys_platform == 'linux'",
        "tensorflow>=2.21.0; platform_machine != 'x86_64' or sys_platform != 'linux'",
        "tensorflow-datasets>=4.9.10",
        "fsspec>=2024.6",  # object stores; huggingface_hub needs it too
        "google-crc32c>=1.7",  # the checksums of TFRecord files
        "importlib_resources",  # tensorflow-datasets needs it without declaring it
        "tqdm>=4.66",
    ],
    extras_require={
        "test": [
            "clu>=0.0.12",
            "pytest>=8.0",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "jsonschema>=4.20",
            "ruff>=0.15",
            "mypy>=1.18",
            "scikit-learn>=1.5",
            "tensorboard>=2.20",
        ],
        "parity": ["torch==2.13.0", "diffusers>=0.42.1", "peft", "timm", "open_clip_torch", "efficientnet-lite-pytorch"],
        "ray": ["ray>=2.40"],
        "slurm": ["submitit>=1.5"],
        "tensorboard": ["clu>=0.0.12", "tensorboard>=2.20"],  # clu writes by tf.summary, whose scalars are TensorBoard's
        "stores": ["gcsfs>=2024.6", "s3fs>=2024.6"],
        "cuda": ["jax[cuda13]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
    },
)
