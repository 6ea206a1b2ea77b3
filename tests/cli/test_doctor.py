"""What `bridgejax doctor` tells of how a device computes; GPUs are simulated by the backend's name."""

from __future__ import annotations

import types
import warnings

import jax
import pytest

from bridgejax import doctor
from bridgejax.data.tensorflow import import_tensorflow
from bridgejax.models import attention

HOPPER = types.SimpleNamespace(compute_capability="9.0")


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention, "_cudnn_compiles", lambda kind, width: True)
    for name in ("PYTHON_CLIENT_PREALLOCATE", "PYTHON_CLIENT_MEM_FRACTION", "CLIENT_MEM_FRACTION", "PYTHON_CLIENT_ALLOCATOR"):
        monkeypatch.delenv(f"XLA_{name}", raising=False)
    return monkeypatch


def told(device=HOPPER, dtype="float32"):
    return "\n".join(doctor._computing(device, dtype))


def test_a_cpu_computes_in_float32_with_plain_attention():
    text, _ = doctor.report()
    assert "in float32, heads of 40, 64, 80, 128, 160: the plain one" in text
    assert "in bfloat16, heads of 40, 64, 80, 128, 160: the plain one (cuDNN's fused kernel needs an NVIDIA GPU)" in text
    assert "of float32 matrices: in float32" in text
    assert "training in float32 (training.dtype" in text
    assert "GPUs and TPUs are hidden from it" in text
    assert "of each GPU" not in text


def test_a_gpu_runs_cudnn_in_half_precision_and_tf32(gpu):
    text = told(dtype="bfloat16")
    assert (
        "in float32, heads of 40, 64, 80, 128, 160: the plain one (cuDNN's fused kernel takes bfloat16 and float16 alone)"
        in text
    )
    assert "in bfloat16, heads of 40, 64, 80, 128, 160: cuDNN's fused kernel" in text
    assert "in TF32" in text
    assert "training in bfloat16" in text
    assert "75 % is taken at the start" in text


def test_where_cudnn_does_not_compile_its_own_words_are_told(gpu):
    def refuse(kind, width):
        if width == 40:
            warnings.warn("cuDNN's attention is not available here (no plan); the plain one is used", stacklevel=2)
        return width != 40

    gpu.setattr(attention, "_cudnn_compiles", refuse)
    text = told()
    assert "in bfloat16, heads of 40: the plain one (cuDNN's attention is not available here (no plan)" in text
    assert "in bfloat16, heads of 64, 80, 128, 160: cuDNN's fused kernel" in text


@pytest.mark.parametrize(
    ("capability", "expected"), [("7.5", "in float32 (TF32 came"), ("8.0", "in TF32"), ("gfx942", "as XLA chooses")]
)
def test_the_precision_of_products_depends_on_the_gpu(gpu, capability, expected):
    assert expected in told(types.SimpleNamespace(compute_capability=capability))


def test_a_chosen_precision_is_told(gpu):
    with jax.default_matmul_precision("highest"):
        assert "at precision 'highest'" in told()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XLA_CLIENT_MEM_FRACTION": ".9"}, "90 % is taken at the start"),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, "50 % is taken at the start"),
        ({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, "taken as needed, up to 75 %"),
        ({"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}, "XLA_PYTHON_CLIENT_ALLOCATOR=platform"),
    ],
)
def test_the_memory_that_a_gpu_gives_follows_the_environment(gpu, environment, expected):
    for name, value in environment.items():
        gpu.setenv(name, value)
    assert expected in told()


def test_tensorflow_sees_no_accelerator(gpu):
    tf = import_tensorflow()
    problems: list[str] = []
    assert "(checked)" in doctor._tensorflow(problems)[0]
    assert problems == []
    found = [types.SimpleNamespace(name="GPU:0", device_type="GPU"), types.SimpleNamespace(name="CPU:0", device_type="CPU")]
    gpu.setattr(tf.config, "get_visible_devices", lambda: found)
    doctor._tensorflow(problems)
    assert problems == ["TensorFlow sees GPU:0 and may take its memory; import bridgejax before TensorFlow."]
