"""Small TFDS folders with the features that the published sets have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def write_prepared(
    data_dir: Path,
    name: str,
    version: str,
    splits: dict[str, int],
    names: list[str] | int,
    *,
    config: str | None = None,
    extra: dict[str, tuple[Any, Any]] | None = None,
    side: int = 8,
    file_format: str | None = None,
) -> Path:
    """Writes so many images per class in each split, by TFDS itself, and returns the folder of the version.

    Args:
      names: the label names, or their number for labels without names.
      extra: further features: key → (feature, value).
      side: of the pictures, in pixels.
      file_format: as TFDS names it; None is its default.
    """
    from bridgejax.data.tensorflow import import_tfds

    tfds = import_tfds()
    classes = names if isinstance(names, int) else len(names)
    label = tfds.features.ClassLabel(num_classes=names) if isinstance(names, int) else tfds.features.ClassLabel(names=names)
    extra = extra or {}
    features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": label}
    features |= {key: feature for key, (feature, _) in extra.items()}

    class Writer(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        if config is not None:
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)]

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> Any:
            return {split: self._generate_examples(number, count) for number, (split, count) in enumerate(splits.items())}

        def _generate_examples(self, number: int, count: int) -> Any:
            for value in range(classes):
                for i in range(count):
                    # The first pixel tells the class and the split.
                    image = np.random.default_rng([number, value, i]).integers(0, 256, (side, side, 3)).astype(np.uint8)
                    image[0, 0] = (value // 256, value % 256, number)
                    yield f"{value}-{i}", {"image": image, "label": value, **{key: given for key, (_, given) in extra.items()}}

    Writer.name = name
    builder = Writer(data_dir=str(data_dir), config=config, file_format=file_format)
    builder.download_and_prepare()
    return Path(builder.data_dir)
