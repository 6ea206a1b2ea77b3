"""The files by which TFDS opens a folder of shards, written without TFDS or TensorFlow.

They are what `tfds.core.DatasetInfo.write_to_directory` (4.9) writes for the same features. The file name template has
no shard count, so that shards keep their names when a set grows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from bridgejax.files import Place, write_atomic

NAME = "bridgejax_synthetic"
VERSION = "1.0.0"
SPLIT = "train"
TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"
TFRECORD, ARRAY_RECORD = "tfrecord", "array_record"
INFO_FILE, FEATURES_FILE, LABELS_FILE = "dataset_info.json", "features.json", "label.labels.txt"

_CONNECTOR = "tensorflow_datasets.core.features."
_TEXT = {"pythonClassName": _CONNECTOR + "text_feature.Text", "text": {}}
_INT64 = {"pythonClassName": _CONNECTOR + "scalar.Scalar", "tensor": {"dtype": "int64", "encoding": "none", "shape": {}}}


def shard_name(shard: int, file_format: str) -> str:
    """Returns the file name of a shard."""
    return TEMPLATE.format(DATASET=NAME, SPLIT=SPLIT, FILEFORMAT=file_format, SHARD_INDEX=f"{shard:05d}")


def features_json(height: int, width: int, num_classes: int) -> str:
    """Returns the content of `features.json`: image uint8 [height, width, 3] as PNG, label, texts and numbers."""
    shape = {"dimensions": [str(height), str(width), "3"]}
    features = {
        "image": {
            "image": {"dtype": "uint8", "encodingFormat": "png", "shape": shape},
            "pythonClassName": _CONNECTOR + "image_feature.Image",
        },
        "label": {
            "classLabel": {"numClasses": str(num_classes)},
            "pythonClassName": _CONNECTOR + "class_label_feature.ClassLabel",
        },
        **dict.fromkeys(("class_name", "prompt", "negative_prompt", "generator"), _TEXT),
        **dict.fromkeys(("seed", "index"), _INT64),
    }
    all_features = {"featuresDict": {"features": features}, "pythonClassName": _CONNECTOR + "features_dict.FeaturesDict"}
    return json.dumps(all_features, indent=4, sort_keys=True)


def info_json(description: str, formats: Sequence[str], shard_lengths: Sequence[int], num_bytes: int) -> str:
    """Returns the content of `dataset_info.json`.

    Args:
      description: one or two sentences on what is in the set.
      formats: the file formats of each shard; the first is the one that `as_dataset` reads.
      shard_lengths: examples per shard.
      num_bytes: size of the shards of the first format.
    """
    split = {
        "filepathTemplate": TEMPLATE,
        "name": SPLIT,
        "numBytes": str(num_bytes),
        "shardLengths": [str(length) for length in shard_lengths],
    }
    info = {
        "alternativeFileFormats": list(formats[1:]),
        "description": description,
        "fileFormat": formats[0],
        "moduleName": "bridgejax.synthesis",
        "name": NAME,
        "splits": [split],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
        "version": VERSION,
    }
    return json.dumps(info, indent=2, sort_keys=True)


def write_tfds_files(
    directory: Place,
    *,
    description: str,
    formats: Sequence[str],
    shard_lengths: Sequence[int],
    num_bytes: int,
    class_names: Sequence[str],
    height: int,
    width: int,
) -> None:
    """Writes features, labels and, last, the info file without which TFDS takes the folder for no dataset."""
    contents = {
        FEATURES_FILE: features_json(height, width, len(class_names)),
        LABELS_FILE: "\n".join(class_names) + "\n",
        INFO_FILE: info_json(description, formats, shard_lengths, num_bytes),
    }
    for name, content in contents.items():
        file = directory / name
        # A finished set is only verified: its files keep their dates.
        if not file.is_file() or file.read_bytes() != content.encode():
            write_atomic(file, content)
