"""Meshes: sizes are checked, -1 takes what is left, and settings that break seeds are refused by name."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from bridgejax.errors import UserError
from bridgejax.mesh import make_mesh, parameter_rules


def _python(code: str, **variables: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


def test_all_devices_lie_on_data_by_default():
    mesh = make_mesh()
    assert mesh.axis_names == ("data",)


@pytest.mark.parametrize(
    "axes",
    [
        *([("data", 3)], [("data", -1), ("model", -1)], [("data", 0)], [("data", 1), ("data", 1)]),
        *([("data", "x")], [("data",)], [(1, 1)], [("data", True)], 5),
    ],
)
def test_sizes_that_do_not_fit_are_refused(axes):
    with pytest.raises(UserError, match=r"^mesh (is .*; it should be \(axis, size\) pairs|\w+=.* does not fit \d+ devices)"):
        make_mesh(axes)


def test_sizes_that_would_fit_are_named():
    code = """
from bridgejax.mesh import make_mesh
for axes in ([("data", 3), ("model", 2)], [("data", 3), ("fsdp", 5)]):
    try: make_mesh(axes)
    except ValueError as error: print(error)
"""
    result = _python(code, XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    first, second = result.stdout.splitlines()
    assert "for instance data=4, model=2, or use -1 for one" in first, result.stderr
    assert "for instance data=8, fsdp=1, or" in second


def test_minus_one_takes_what_is_left():
    code = "from bridgejax.mesh import make_mesh; print(dict(make_mesh([('data', -1), ('model', 2)]).shape))"
    result = _python(code, XLA_FLAGS="--xla_force_host_platform_device_count=8")
    assert result.stdout.strip() == "{'data': 4, 'model': 2}", result.stderr


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("JAX_DEFAULT_PRNG_IMPL", "rbg", "jax_default_prng_impl"),
        ("LIBTPU_INIT_ARGS", "--xla_tpu_spmd_rng_bit_generator_unsafe=true", "xla_tpu_spmd_rng_bit_generator_unsafe"),
    ],
)
def test_settings_that_break_seeds_are_refused_by_name(variable, value, named):
    result = _python("from bridgejax.mesh import check_randomness; check_randomness()", **{variable: value})
    assert "UserError" in result.stderr
    assert named in result.stderr


def test_rules_split_what_the_axis_divides_and_nothing_else():
    code = """
from bridgejax.mesh import make_mesh, parameter_rules, parameter_sharding
mesh = make_mesh([("data", 2), ("model", 4)])
def show(path, shape, rules=parameter_rules(), mesh=mesh):
    print(tuple(parameter_sharding(mesh, path, shape, rules).spec))
show("unet.a.attn1.to_q.kernel", (8, 16))
show("unet.a.attn1.to_out.0.kernel", (16, 8))
show("unet.a.ff.net.0.proj.bias", (16,))
show("unet.conv_in.kernel", (3, 3, 4, 16))
show("unet.conv_out.kernel", (3, 3, 16, 6))
show("unet.conv_norm_out.bias", (16,))
show("unet.a.proj_in.kernel", (1, 1, 8, 16))
show("unet.a.attn1.to_q.kernel", (8, 16), parameter_rules([("to_q", ("model", "data"))]))
show("unet.a.attn1.to_q.kernel", (8, 16), mesh=make_mesh())
"""
    result = _python(code, XLA_FLAGS="--xla_force_host_platform_device_count=8", JAX_PLATFORMS="cpu")
    assert result.stdout.split("\n")[:-1] == [
        "(None, 'model')",
        "('model', None)",
        "('model',)",
        "(None, None, None, 'model')",
        "(None, None, None, None)",
        "()",
        "(None, None, None, 'model')",
        "('model', 'data')",
        "(None, None)",
    ], result.stderr


@pytest.mark.parametrize("pair", [("(", ("model",)), ("a",), ("a", "model"), ("a", ("model", "model")), ("a", (3,))])
def test_rules_of_another_form_are_shown(pair):
    with pytest.raises(UserError, match=r"^mesh_rules holds .*; give \(regular expression, axes\) pairs"):
        parameter_rules([pair])
