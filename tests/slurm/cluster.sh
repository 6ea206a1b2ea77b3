#!/usr/bin/env bash
# Runs a command beside a SLURM of its own on this machine: one node of two task slots, which ends with the command.
#
#   tests/slurm/cluster.sh sbatch --array=0-3 launch/slurm.sbatch shard --config … --workdir …
#   tests/slurm/cluster.sh python -m pytest -m slurm tests/slurm
#
# Needs Debian's packages (apt-get install --no-install-recommends slurm-wlm munge) and root. Nothing is installed, and nothing
# outside a folder below /tmp is written; another SLURM or munge of this machine is not touched.
set -euo pipefail

for program in munged slurmctld slurmd sbatch; do
  PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || {
    echo "tests/slurm/cluster.sh: $program is missing; apt-get install --no-install-recommends slurm-wlm munge" >&2
    exit 2
  }
done
[[ $EUID -eq 0 ]] || { echo "tests/slurm/cluster.sh: slurmd starts jobs as their users, for which it must be root." >&2; exit 2; }
PATH="$PATH:/usr/sbin"
root=$(mktemp -d /tmp/slurm-XXXXXX)
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
host=$(hostname -s)
mkdir -p "$root"/{state,spool,munge}
chmod 0755 "$root" "$root/munge"
dd if=/dev/urandom of="$root/munge.key" bs=1024 count=1 status=none
chmod 0400 "$root/munge.key"
cat >"$root/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$root/munge/socket
CredType=cred/munge
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
SlurmctldPidFile=$root/slurmctld.pid
SlurmdPidFile=$root/slurmd.pid
SlurmctldLogFile=$root/slurmctld.log
SlurmdLogFile=$root/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=2,requeue_delay=1
KillWait=5
MinJobAge=3600
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$root/slurm.conf

pids=()
end() {
  scancel --user=root 2>/dev/null || true
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  for ((i = 0; i < 100; i++)); do kill -0 "${pids[@]}" 2>/dev/null && sleep 0.1 || break; done
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
  [[ -n "${KEEP:-}" ]] && echo "kept: $root" >&2 || rm -rf "$root"
}
trap end EXIT
munged --foreground --force --key-file="$root/munge.key" --socket="$root/munge/socket" --pid-file="$root/munge/pid" \
  --log-file="$root/munge.log" --seed-file="$root/munge.seed" >/dev/null 2>&1 &
pids+=($!)
for ((i = 0; i < 100; i++)); do [[ -S "$root/munge/socket" ]] && break; sleep 0.1; done
slurmctld -D >/dev/null 2>&1 &
pids+=($!)
slurmd -D -N "$host" >/dev/null 2>&1 &
pids+=($!)
for ((i = 0; i < 300; i++)); do
  [[ "$(sinfo --noheader --format=%t 2>/dev/null)" == idle ]] && break
  sleep 0.2
done
if [[ "$(sinfo --noheader --format=%t 2>/dev/null)" != idle ]]; then
  echo "tests/slurm/cluster.sh: SLURM did not start:" >&2
  tail -n 5 "$root"/*.log >&2
  exit 1
fi
"$@"
