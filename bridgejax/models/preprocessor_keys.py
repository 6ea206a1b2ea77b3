"""The keys of a transformers preprocessor file: each is read, known to be harmless, or refused by name.

What such a file does to a pixel p in [0, 255] is y = (f·p - m) / s, with the rescale factor f (1 without `do_rescale`) and
the mean m and deviation s (0 and 1 without `do_normalize`). With p = 255·x, x in [0, 1], that is (x - m/k) / (s/k), k = 255·f.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from bridgejax.errors import UserError
from bridgejax.files import JSONObject

_READ = {"size", "crop_size", "crop_pct", "do_center_crop", "do_normalize", "image_mean", "image_std"}
_READ |= {"do_rescale", "rescale_factor", "do_resize", "bridgejax"}
# Without effect on an RGB image file that is read one at a time, or on what is read here.
_HARMLESS = {"image_processor_type", "feature_extractor_type", "processor_class", "tokenizer_class", "resample"}
_HARMLESS |= {"do_convert_rgb", "data_format", "input_data_format", "return_tensors", "device", "disable_grouping", "use_fast"}
_HARMLESS |= {"default_to_square", "pad_size", "image_seq_length", "do_reduce_labels", "reduce_labels", "model_input_names"}
_HARMLESS |= {"transformers_version", "max_size", "size_divisor", "interpolation", "patch_size", "num_channels"}
_CHANNELS = 3
_RESIZE_OTHERWISE = ("Levit", "PoolFormer", "Perceiver")
_DO_NOT_CROP = ("ViT", "Siglip", "Beit", "Pvt")  # unless the file asks for it
_CONVNEXT_CROP = 224 / 256


def check_keys(config: JSONObject, where: str) -> None:
    """Checks that nothing in a preprocessor file would change images in a way that is not read.

    Raises:
      UserError: a key is neither read nor harmless, and says neither null nor false; or a value is not supported.
    """
    for key, value in config.items():
        if key not in _READ and key not in _HARMLESS and not key.startswith("_") and value not in (None, False):
            raise UserError(
                f"{where}: the key {key!r} ({value!r}) is not known, so images might be made ready otherwise than the network "
                "was trained; take it out if it changes no image."
            )
    if config.get("do_resize") is False and config.get("do_center_crop") and config.get("crop_size"):
        raise UserError(f"{where}: do_resize is false with do_center_crop, a crop that depends on each image's size.")


def size_and_crop(config: JSONObject, kind: str, where: str) -> tuple[int, float]:
    """Returns the side of the input and how much of the resized image its crop keeps, as the class that is named has it.

    ConvNext's `crop_pct` holds below 384 pixels; above, that class resizes without a crop. Other classes do not read it.

    Raises:
      UserError: a size is no square, the crop is larger than the image, or the class resizes in another way.
      KeyError: the file says no size.
    """
    said = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    unnamed = "ConvNext" if kind == "resnet" or config.get("crop_pct") else ""
    name = re.sub("(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "", said) or unnamed
    if name in _RESIZE_OTHERWISE:
        raise UserError(f"{where}: {name}ImageProcessor resizes images in a way of its own, which is not supported.")
    size = side(config["size"], f"{where}: size")
    if name == "ConvNext":
        return size, float(config.get("crop_pct") or _CONVNEXT_CROP) if size < 384 else 1.0
    if not config.get("crop_size") or not config.get("do_center_crop", name not in _DO_NOT_CROP):
        return size, 1.0
    cropped = side(config["crop_size"], f"{where}: crop_size")
    if cropped > size:
        raise UserError(f"{where}: crop_size {cropped} is larger than size {size}, which would pad images; correct it.")
    return cropped, cropped / size


def side(value: object, what: str) -> int:
    """Returns the side of a transformers size: a number, a pair, {"height", "width"} or {"shortest_edge"}.

    Raises:
      UserError: it is not square, or says something else.
    """
    if isinstance(value, Mapping) and ("height" in value or "width" in value):
        value = [value.get("height"), value.get("width")]
    elif isinstance(value, Mapping):
        value = value.get("shortest_edge") if value.get("longest_edge") is None else None
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        raise UserError(f"{what} is not a square: expected a number, an equal height and width, or shortest_edge alone.")
    return int(value)


def mean_and_std(config: JSONObject, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std in units where a pixel lies in [0, 1], with the rescale factor folded in.

    Raises:
      UserError: the factor is not a positive number.
      KeyError: the file normalises and does not say how.
    """
    factor: object = 1.0
    if config.get("do_rescale", True) is not False:
        factor = config.get("rescale_factor")
        factor = 1 / 255 if factor is None else factor
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise UserError(f"{where}: rescale_factor is {factor!r}; expected a positive number such as 1/255.")
    scale = 1.0 if math.isclose(255 * factor, 1.0, rel_tol=1e-6) else 255 * factor
    mean: object = 0.0
    std: object = 1.0
    if config.get("do_normalize") is not False:
        mean, std = config["image_mean"], config["image_std"]
    mean, std = ([value] * _CHANNELS if isinstance(value, int | float) else list(value) for value in (mean, std))  # type: ignore[call-overload]
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)
