"""What launch/ hands to schedulers: manifests fit their published schemas, scripts do what their headers say."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest
import yaml

from bridgejax.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
SCHEMAS = Path(__file__).parent / "schemas"
MANIFESTS = ("jobset", "rayjob")


def manifest(name: str) -> dict:
    return yaml.safe_load((LAUNCH / "k8s" / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_fit_their_published_schemas(name):
    schema = json.loads((SCHEMAS / f"{name}.json").read_text())
    document = manifest(name)
    jsonschema.validate(document, schema)
    document["spec"]["replicatedJob" if name == "jobset" else "entryPoint"] = "a misspelt key"
    with pytest.raises(jsonschema.ValidationError, match="unexpected"):
        jsonschema.validate(document, schema)


def test_a_ray_cluster_file_fits_rays_own_schema():
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((LAUNCH / "ray" / "cluster.yaml").read_text()), schema)


def commands(name: str) -> list[str]:
    if name == "rayjob":
        return [manifest(name)["spec"]["entrypoint"]]
    jobs = manifest(name)["spec"]["replicatedJobs"]
    return [job["template"]["spec"]["template"]["spec"]["containers"][0]["args"][0] for job in jobs]


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_call_commands_that_exist(name):
    for text in commands(name):
        words = [word for word in shlex.split(text.removeprefix("exec ").replace("$JOB_COMPLETION_INDEX", "7"))]
        assert words.pop(0) == "bridgejax"
        parser = argparse.ArgumentParser(exit_on_error=False)
        COMMANDS[words[0]].arguments(parser)
        options = parser.parse_args([word for word in words[1:] if not word.startswith("--config.")])
        assert str(options.workdir) == "/work/run"


def script(tmp_path: Path, name: str, body: str) -> None:
    (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (tmp_path / name).chmod(0o755)


def start(tmp_path: Path, *words: object, **variables: object) -> subprocess.Popen:
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **{k: str(v) for k, v in variables.items()}}
    return subprocess.Popen([*map(str, words)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def slurm(tmp_path):
    """Starts launch/slurm.sbatch as SLURM would, as task 7 of an array, with a stand-in for Python and for scontrol."""
    script(tmp_path, "scontrol", f'echo "$@" >> {tmp_path}/scontrol.log')

    def call(body: str, **variables: object) -> subprocess.Popen:
        script(tmp_path, "python", f'echo "$@" > {tmp_path}/python.log\n{body}')
        task = {"SLURM_ARRAY_JOB_ID": 40, "SLURM_ARRAY_TASK_ID": 7, "PYTHON": tmp_path / "python", **variables}
        return start(tmp_path, "bash", LAUNCH / "slurm.sbatch", "shard", "--config", "c.py", "--workdir", "w", **task)

    return call


def test_a_slurm_task_makes_the_shard_of_its_index(slurm, tmp_path):
    assert slurm("exit 0").wait(60) == 0
    assert (tmp_path / "python.log").read_text() == "-m bridgejax work shard 7 --config c.py --workdir w\n"
    assert slurm("exit 2").wait(60) == 2  # a wrong input is not tried again
    assert not (tmp_path / "scontrol.log").exists()


def test_a_slurm_task_is_queued_again_where_that_may_help(slurm, tmp_path):
    assert slurm("exit 75").wait(60) == 0
    assert (tmp_path / "scontrol.log").read_text() == "requeue 40_7\n"
    assert slurm("exit 75", SLURM_RESTART_COUNT=3).wait(60) == 75  # often enough
    asked = slurm(f"touch {tmp_path}/began; exec sleep 100")
    while not (tmp_path / "began").exists():
        time.sleep(0.02)
    asked.send_signal(signal.SIGTERM)  # as before a preemption or the time limit
    assert asked.wait(60) == 0
    assert (tmp_path / "scontrol.log").read_text().count("requeue 40_7") == 2


def test_a_pod_is_asked_for_and_given_back(tmp_path):
    words = ("pod", "v5litepod-256", "us-central1-a", "generate", "--config", "a b.py")
    process = start(tmp_path, LAUNCH / "tpu_pod.sh", *words, DRY_RUN=1, SPOT=1)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert [re.sub(r"^gcloud compute tpus ((\S+ ){2}).*", r"\1", line).strip() for line in output.splitlines()] == [
        *("queued-resources create", "tpu-vm ssh", "tpu-vm ssh", "queued-resources delete")
    ]
    assert "--spot" in output.splitlines()[0]
    assert r"bridgejax\ generate\ --config\ a\\\ b.py" in output
    assert start(tmp_path, LAUNCH / "tpu_pod.sh", "pod").wait(60) == 2


def test_a_pod_that_is_taken_away_is_asked_for_again(tmp_path):
    script(
        tmp_path,
        "gcloud",
        f"""echo "$3 $4" >> {tmp_path}/gcloud.log
case "$4" in
  create) rm -f {tmp_path}/gone ;;
  describe) if [[ -e {tmp_path}/gone ]]; then echo SUSPENDED; else echo ACTIVE; fi ;;
  ssh) [[ "$*" == *generate* && $(grep -c " ssh" {tmp_path}/gcloud.log) == 2 ]] && touch {tmp_path}/gone && exit 255 ;;
esac
exit 0""",
    )
    process = start(tmp_path, LAUNCH / "tpu_pod.sh", "pod", "v5litepod-4", "z", "generate")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "slice pod was taken away; asking for another (try 2)" in errors
    asked = (tmp_path / "gcloud.log").read_text().splitlines()
    assert asked.count("queued-resources create") == asked.count("queued-resources delete") == 2
