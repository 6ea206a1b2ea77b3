#!/usr/bin/env bash
# Runs a bridgejax command on this machine with all its devices on the mesh's "data" axis.
#
#   launch/one_machine.sh run --config configs/quickstart.py --workdir quickstart
#
# The mesh is the config's: add --config.mesh="(('data',-1),)" or another split. Virtual CPU devices, to try a mesh
# without an accelerator: DEVICES=8 launch/one_machine.sh …
set -euo pipefail
if [[ -n "${DEVICES:-}" ]]; then
  export JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=${DEVICES}"
fi
exec "${PYTHON:-python3}" -m bridgejax "$@"
