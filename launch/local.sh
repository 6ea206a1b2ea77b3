#!/usr/bin/env bash
# Runs a bridgejax command as N processes with M devices each on this machine.
#
#   launch/local.sh N M COMMAND…        launch/local.sh 2 4 generate --config configs/quickstart.py --workdir work
#
# Where this machine has N × M NVIDIA GPUs, process i gets the i-th M of them; elsewhere, or with JAX_PLATFORMS=cpu, the
# devices are virtual CPU ones. The processes meet on a free port of this machine. When one fails, the others are ended and
# its exit code is forwarded; nothing else is changed: output is the command's own. Ctrl-C ends all of them; the same command
# continues, with any other N and M. SIGTERM and SIGUSR1 go to all of them, which save what they train and end with 75.
set -uo pipefail

if [[ $# -lt 3 || ! "$1" =~ ^[1-9][0-9]*$ || ! "$2" =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: launch/local.sh PROCESSES DEVICES_EACH COMMAND…, for instance launch/local.sh 2 4 generate --config FILE --workdir DIR" >&2
  exit 2
fi
processes=$1 devices=$2
shift 2
python=${PYTHON:-python3}
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])') || exit 1
gpus=0
if [[ "${JAX_PLATFORMS:-}" != cpu ]] && command -v nvidia-smi >/dev/null; then
  gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
fi

pids=()
end_all() { # TERM, and KILL for those that are still there after five seconds
  local waited=0 pid
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null; done
  while ((waited < 50)) && kill -0 "${pids[@]}" 2>/dev/null; do
    sleep 0.1
    waited=$((waited + 1))
  done
  for pid in "${pids[@]}"; do kill -KILL "$pid" 2>/dev/null; done
}
trap 'trap "" INT TERM; end_all; echo "launch/local.sh: interrupted; the same command continues where it stopped." >&2; exit 130' INT
asked=
pass_on() { # a signal, to all: they may take as long as they are given to save what they train
  asked=$1
  kill -"$1" ${pids[@]+"${pids[@]}"} 2>/dev/null
}
trap 'pass_on TERM' TERM
trap 'pass_on USR1' USR1

for ((i = 0; i < processes; i++)); do
  export BRIDGEJAX_COORDINATOR="127.0.0.1:$port" BRIDGEJAX_PROCESSES=$processes BRIDGEJAX_PROCESS_ID=$i
  if ((gpus >= processes * devices)); then
    CUDA_VISIBLE_DEVICES=$(seq -s, $((i * devices)) $((i * devices + devices - 1))) "$python" -m bridgejax "$@" &
  else
    JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices" "$python" -m bridgejax "$@" &
  fi
  pids+=($!)
  if [[ -n $asked ]]; then kill -"$asked" "$!"; fi # the signal came between two of them
done

# Whoever ends with an error decides. Of several that ended since the last look, the highest code does: one that was killed
# (128 + signal) takes along those that waited for it. Those end with 75, or abort where process 0 is gone, where all meet; both
# may be seen before what caused it, so any other code goes before 75, and 75 before an abort. `wait -n` would tell the first,
# but the bash of macOS has none.
rank() { # of an exit code
  case $1 in
    $((128 + 6))) echo 1 ;; # ABRT
    75) echo 2 ;;
    0) echo 0 ;;
    *) echo $(($1 + 2)) ;;
  esac
}
left=("${pids[@]}") worst=0 looks=0
while ((${#left[@]})); do
  still=()
  for pid in "${left[@]}"; do
    if kill -0 "$pid" 2>/dev/null; then
      still+=("$pid")
      continue
    fi
    wait "$pid" 2>/dev/null
    code=$?
    # Ended before it listened to the signal: it had begun nothing.
    if [[ -n $asked && $code == $((128 + $(kill -l "$asked"))) ]]; then code=75; fi
    if (($(rank "$code") > $(rank "$worst"))); then worst=$code; fi
  done
  left=(${still[@]+"${still[@]}"})
  if [[ -z $asked ]] && (($(rank "$worst") > 2 || looks == 20)); then break; fi
  if ((worst)); then looks=$((looks + 1)); fi
  ((${#left[@]})) && sleep 0.1
done
((worst)) && end_all
exit "$worst"
