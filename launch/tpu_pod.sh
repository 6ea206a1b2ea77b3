#!/usr/bin/env bash
# Runs a bridgejax command on all hosts of a Cloud TPU slice that is waited for as a queued resource, again after a preemption.
#
#   launch/tpu_pod.sh NAME v5litepod-256 us-central1-a generate --config /mnt/work/config.py --workdir /mnt/work/run
#
# Each host makes its own shards, so a slice of another size continues the same workdir, which all hosts must see at the same path
# (Filestore, or a bucket by Cloud Storage FUSE). Needs the gcloud command, logged in.
# Settings, by environment: RUNTIME (image of the TPU VMs), PACKAGE (what pip installs there), SPOT=1 (cheaper, may be taken
# away), TRIES (how often a slice is asked for), DRY_RUN=1 (prints the commands and runs none), KEEP=1 (leaves the slice there).
set -uo pipefail

if [[ $# -lt 4 ]]; then
  echo "usage: launch/tpu_pod.sh NAME ACCELERATOR ZONE COMMAND…, for instance launch/tpu_pod.sh pod v5litepod-256 us-central1-a generate …" >&2
  exit 2
fi
name=$1 accelerator=$2 zone=$3
shift 3
runtime=${RUNTIME:-v2-alpha-tpuv5-lite} package=${PACKAGE:-bridgejax[tpu]}
printf -v words ' %q' "$@"

gcloud_tpu() {
  if [[ -n "${DRY_RUN:-}" ]]; then
    printf 'gcloud compute tpus'
    printf ' %q' "$@"
    printf '\n'
  else
    gcloud compute tpus "$@"
  fi
}
state() {
  [[ -n "${DRY_RUN:-}" ]] && echo ACTIVE && return
  gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format='value(state.state)' 2>/dev/null
}
release() { gcloud_tpu queued-resources delete "$name" --zone="$zone" --force --quiet; }
on_all() { gcloud_tpu tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

for ((try = 1; try <= ${TRIES:-5}; try++)); do
  gcloud_tpu queued-resources create "$name" --node-id="$name" --zone="$zone" --accelerator-type="$accelerator" \
    --runtime-version="$runtime" ${SPOT:+--spot} || exit 1
  while [[ "$(state)" =~ ^(ACCEPTED|PROVISIONING|WAITING_FOR_RESOURCES|CREATING)$ ]]; do sleep 30; done
  code=75
  if [[ "$(state)" == ACTIVE ]]; then
    on_all "python3 -m pip install --quiet '$package'" && on_all "python3 -m bridgejax$words"
    code=$?
  fi
  if [[ $code -eq 0 && -n "${KEEP:-}" ]]; then exit 0; fi
  # A wrong input ends alike on every slice; a slice that is no longer active was taken away.
  [[ "$(state)" == ACTIVE ]] && taken= || taken=1
  release
  if [[ $code -eq 0 || (-z "$taken" && $code -ne 75) ]]; then exit "$code"; fi
  echo "launch/tpu_pod.sh: slice $name was taken away; asking for another (try $((try + 1)))." >&2
done
exit 75
