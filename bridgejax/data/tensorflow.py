"""TensorFlow, imported when first needed, quiet, and kept off every accelerator."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from types import ModuleType

from bridgejax.errors import UserError


@functools.cache
def import_tensorflow() -> ModuleType:
    """Returns the `tensorflow` module; it sees CPUs only and logs errors only.

    Raises:
      UserError: TensorFlow is not installed, or something in this process had it take an accelerator.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # it only reads and resizes images, and says nothing about it
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(f"TensorFlow is needed to stream images ({error}); `pip install tensorflow-cpu`.") from error
    try:
        for kind in ("GPU", "TPU"):
            tf.config.set_visible_devices([], kind)
    except RuntimeError as error:
        raise UserError(
            f"TensorFlow already uses an accelerator in this process ({error}); import bridgejax.data before it, or call "
            "tf.config.set_visible_devices([], 'GPU') first."
        ) from error
    tf.get_logger().setLevel("ERROR")
    # Going over a stream's graph took TensorFlow longer than what it found to improve there.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    return tf


def begin_import() -> None:
    """Begins to import TensorFlow on a thread, which takes two seconds; `import_tensorflow` waits for what is left of them."""
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    pool.submit(import_tensorflow)  # what goes wrong is raised where it is needed
    pool.shutdown(wait=False)


@functools.cache
def import_tfds() -> ModuleType:
    """Returns the `tensorflow_datasets` module, with TensorFlow kept off accelerators.

    Raises:
      UserError: it is not installed.
    """
    import_tensorflow()
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        packages = "tensorflow-datasets importlib_resources"
        raise UserError(f"task.source=tfds:... needs TFDS ({error}); `pip install {packages}`.") from error
    tfds.disable_progress_bar()
    return tfds
