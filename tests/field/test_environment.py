"""What surrounds a process: home, streams, encodings, devices, disks and signals. Each fault is one sentence."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgejax import runtime
from bridgejax.cli import main
from bridgejax.config import default_config
from bridgejax.errors import UserError
from bridgejax.files import expanded, write_atomic, write_json
from bridgejax.recipes import recipe_from_config

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, *, closed: tuple[int, ...] = (), drop: tuple[str, ...] = (), **changes: str):
    """Runs a program in a process of its own: environment changed, streams closed."""
    environment = {name: value for name, value in os.environ.items() if name not in drop} | {"PYTHONPATH": str(ROOT)} | changes

    def prepare() -> None:
        for number in closed:
            os.close(number)

    return subprocess.run(
        [sys.executable, "-c", code], cwd="/", env=environment, preexec_fn=prepare, capture_output=True, timeout=300
    )


def cli(*arguments: object) -> str:
    return f"import sys; from bridgejax.cli import main; sys.exit(main({list(map(str, arguments))!r}))"


def one_sentence(done: subprocess.CompletedProcess) -> str:
    errors = done.stderr.decode()
    (sentence,) = [line for line in errors.splitlines() if line.startswith("bridgejax: ")]
    assert (done.returncode, "Traceback" in errors) == (2, False), errors
    return sentence


# -- home folders and caches -------------------------------------------------------------------------------------------------


def test_a_user_without_a_home_works_without_a_cache():
    """The kind: containers run as a number (no passwd entry, no HOME): the cache is off, and what is only found by a home
    folder says so."""
    nobody = "import pwd\ndef unknown(user): raise KeyError(user)\npwd.getpwuid = pwd.getpwnam = unknown\n"
    for code, words in (
        (cli("doctor"), b"none, for want of a home folder"),
        ("from bridgejax import runtime; runtime.start(); print('started')", b"started"),
        (
            "from bridgejax.data.tfds_source import tfds_base\ntry: tfds_base(None)\nexcept ValueError as e: print(e)",
            b"set HOME",
        ),
        ("from bridgejax.data.tensorflow import import_tfds\nimport_tfds(); print('imported')", b"imported"),
    ):
        done = python(nobody + code, drop=("HOME", "XDG_CACHE_HOME", "BRIDGEJAX_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR"))
        assert words in done.stdout, done.stderr.decode()
        assert b"Traceback" not in done.stderr


def test_paths_that_begin_with_a_home_folder(monkeypatch, tmp_path):
    """The kind: "~" and "~user" in every path that is given, and in the variable of the cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x") == tmp_path / "x"
    monkeypatch.setenv("BRIDGEJAX_CACHE_DIR", "~/cache")
    assert runtime.cache_directory() == tmp_path / "cache"
    with pytest.raises(UserError, match="~no-such-user/x begins with a home folder that is not known"):
        expanded("~no-such-user/x")


# -- devices -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("platform", ["cuda", "gpu", "tpu", "nonsense"])
def test_a_platform_that_is_not_there_is_named(platform, tmp_path):
    """The kind: JAX_PLATFORMS of a device without its plugin, without the device, or of no platform at all; for commands that
    compute and for the doctor."""
    config = tmp_path / "c.py"
    config.write_text("from bridgejax.config import default_config as get_config\nget_config = lambda arg=None: __import__("
                      "'bridgejax.config').config.default_config()\n")  # fmt: skip
    done = python(cli("run", "--config", config, "--workdir", tmp_path / "work"), JAX_PLATFORMS=platform)
    assert f"JAX found no device of JAX_PLATFORMS={platform} (" in one_sentence(done)
    assert "()" not in one_sentence(done)
    assert not (tmp_path / "work").exists()


def test_the_doctor_says_why_there_is_no_device():
    """The kind: reasons that JAX leaves empty."""
    done = python(cli("doctor"), JAX_PLATFORMS="cuda")
    assert b"! JAX found no device of JAX_PLATFORMS=cuda (its plugin is not installed)" in done.stdout
    assert done.returncode == 0


# -- streams and encodings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252", "iso8859-15"])
@pytest.mark.parametrize(
    "arguments", [("--help",), ("run", "--help"), ("config",), ("config", "--markdown"), ("rün",)], ids=" ".join
)
def test_any_terminal_can_show_what_is_printed(encoding, arguments):
    """The kind: terminals and pipes without UTF-8, for every text that a command prints: help, pages and refusals."""
    done = python(cli(*arguments), PYTHONIOENCODING=f"{encoding}:strict", PYTHONUTF8="0")
    assert done.returncode == (2 if arguments == ("rün",) else 0), done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    assert done.stdout or done.stderr


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)], ids=str)
def test_closed_streams(closed):
    """The kind: daemons and job systems that close any of the three streams."""
    done = python("import os, sys\nfrom bridgejax.cli import main\ncode = main(['config'])\nos._exit(code)", closed=closed)
    assert done.returncode == 0, done.stderr.decode()
    done = python(cli("rum"), closed=closed)
    assert done.returncode == 2


def test_a_file_does_not_take_the_place_of_a_closed_stream(tmp_path):
    """The kind: what libraries print must not end in a file that happened to get a stream's number."""
    code = f"import os\nfrom bridgejax.cli import main\nmain(['config'])\nfile = os.open({str(tmp_path / 'x')!r}, os.O_CREAT)\n"
    done = python(f"{code}os._exit(0 if file > 2 else 1)", closed=(0, 1, 2))
    assert done.returncode == 0


def test_a_full_output_and_a_reader_that_leaves():
    """The kind: stdout that cannot be written: a full disk, a pipe whose reader is gone."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m bridgejax config > /dev/full"], cwd=ROOT, capture_output=True, timeout=100
    )
    assert "bridgejax: no space left on device; free space" in one_sentence(done)
    shell = f"{sys.executable} -m bridgejax config --markdown | head -c 1"
    done = subprocess.run(["/bin/sh", "-c", shell], cwd=ROOT, capture_output=True, timeout=100)
    assert done.stderr == b""


# -- writes that fail --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EMFILE])
def test_every_refusal_of_the_operating_system_is_one_sentence(monkeypatch, capfd, code):
    """The kind: any error number, from a command that does not expect it."""
    from bridgejax import cli as module

    def fail(arguments: object) -> int:
        raise OSError(code, os.strerror(code), "some/file")

    monkeypatch.setattr(module, "_dispatch", fail)
    assert main(["run"]) == 2
    (sentence,) = capfd.readouterr().err.splitlines()
    assert re.fullmatch(rf"bridgejax: {os.strerror(code).lower()} \(some/file\); .+ and rerun the command\.", sentence)


def test_a_file_that_cannot_be_written_whole_is_not_there(tmp_path):
    """The kind: every atomic write under a limit on file size, which stands for a full disk: nothing is left behind."""
    code = f"""
import resource
import numpy as np
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from bridgejax.files import write_atomic, write_json
from bridgejax.models.safetensors_files import save_tensors
for write in (
    lambda: write_atomic({str(tmp_path / "a")!r}, bytes(9999)),
    lambda: write_json({str(tmp_path / "b")!r}, list(range(9999))),
    lambda: save_tensors({str(tmp_path / "c")!r}, {{"x": np.zeros(9999, np.float32)}}),
):
    try:
        write()
    except ValueError as error:
        print(type(error).__name__, error)
"""
    done = python(code)
    lines = done.stdout.decode().splitlines()
    assert [line.split(" could not be written (File too large); free space")[0] for line in lines] == [
        f"UserError {tmp_path / name}" for name in "abc"
    ], done.stderr.decode()
    assert not list(tmp_path.iterdir())


def test_writing_to_a_folder_that_is_gone_or_closed(tmp_path):
    """The kind: a folder removed meanwhile, one that is a file, a file system that takes nothing."""
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "gone" / "x", tmp_path / "file" / "x", Path("/proc/bridgejax")):
        with pytest.raises(UserError, match=r"could not be written \("):
            write_atomic(target, b"x")
    with pytest.raises(UserError):
        write_json(tmp_path / "gone" / "x", {})


def small_task(root: Path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for image in range(4):
            pixels = np.random.default_rng([number, image]).integers(0, 256, (16, 16, 3), np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            (root / name / f"{image}.png").write_bytes(buffer.getvalue())
    return root


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_generator) -> Path:
    """A config of one run of both stages over a handful of images."""
    import small_backbones

    folder = tmp_path_factory.mktemp("field")
    weights = small_backbones.write_backbone("transformers resnet", folder / "weights")
    (folder / "config.py").write_text(
        "from bridgejax.config import default_config\n"
        "def get_config(arg=None):\n"
        "    config = default_config()\n"
        f"    config.task.source = 'folder:{small_task(folder / 'task')}'\n"
        f"    config.generator.weights, config.classifier.weights = '{tiny_generator}', '{weights}'\n"
        "    config.task.shots, config.synthetic.per_class, config.synthetic.shard_size = 2, 4, 2\n"
        "    config.generator.steps, config.generator.batch_size, config.training.batch_size = 2, 2, 4\n"
        "    config.training.base_steps, config.training.evaluations, config.classifier.image_size = 4, 1, 32\n"
        "    config.training.checkpoint_seconds, config.training.eval_batch_size = 0.0, 4\n"
        "    config.arms, config.study.baseline, config.study.seeds = ('bridged',), 'bridged', 1\n"
        "    return config\n"
    )
    return folder / "config.py"


def test_a_disk_that_fills_while_a_run_writes_is_one_sentence(config, tmp_path):
    """The kind: a limit that images or checkpoints meet, at three sizes; afterwards the same command, with room, goes on."""
    work = tmp_path / "work"
    for limit in (2_000, 30_000, 120_000):
        cut = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit})); "
        done = python(cut + cli("run", "--config", config, "--workdir", work), JAX_ENABLE_COMPILATION_CACHE="false")
        assert str(work) in one_sentence(done), done.stderr.decode()
        assert not list(work.rglob(".lock"))
    done = python(cli("run", "--config", config, "--workdir", work))
    assert done.returncode == 0, done.stderr.decode()
    assert not [path for path in work.rglob("*") if path.name.startswith((".tmp-", ".lock"))]


def results(work: Path) -> list[dict[str, object]]:
    """Returns what runs left, without the time that they took."""
    lines = (work / "results.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if "seconds" not in key} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_signals_at_any_moment(config, tmp_path, number):
    """The kind: a signal at random moments of generation, training and report: what is there is whole, and the command goes on
    to the results of an undisturbed run."""

    def run(work: Path, seconds: float | None = None) -> subprocess.Popen:
        arguments = ["run", "--config", str(config), "--workdir", str(work)]
        code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {cli(*arguments)}"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        if seconds is not None:
            time.sleep(seconds)
            process.send_signal(number)
        process.errors = process.communicate(timeout=300)[1]
        return process

    start = time.monotonic()
    assert run(tmp_path / "whole").returncode == 0
    longest = time.monotonic() - start
    work = tmp_path / "cut"
    for moment in np.random.default_rng(int(number)).uniform(0.2, 1.0, 5):
        done = run(work, float(moment * longest))
        # Python loses an interrupt inside a garbage collector's callback, says so, and goes on to the end.
        assert "Traceback" not in done.errors.split("Exception ignored")[0]
    assert run(work).returncode == 0
    assert results(work) == results(tmp_path / "whole")
    assert not [path for path in work.rglob("*") if path.name.startswith((".tmp-", ".lock"))]


def test_a_workdir_or_a_config_that_is_a_link_to_nothing_is_named(config, tmp_path, capfd):
    """The kind: disks that are not mounted."""
    for name in ("w", "c.py"):
        (tmp_path / name).symlink_to(tmp_path / "gone")
    for file, work in ((config, "w"), (tmp_path / "c.py", "new")):
        assert main(["run", "--config", str(file), "--workdir", str(tmp_path / work)]) == 2
        link = tmp_path / ("w" if work == "w" else "c.py")
        assert f"{link} is a link to {tmp_path / 'gone'}, which is missing" in capfd.readouterr().err


# -- names of recipes --------------------------------------------------------------------------------------------------------


def test_recipes_of_a_config_dict():
    """The kind: every form of a table of recipes and of training settings: ConfigDict, dict, the stages alone."""
    config = default_config()
    for name in ("bridged", "vanilla"):
        plain = recipe_from_config(name, config.recipes.to_dict(), config.training.to_dict())
        assert recipe_from_config(name, config.recipes, config.training) == plain
        assert recipe_from_config(name, config.recipes, config.training.to_dict()) == plain
    own = recipe_from_config("own", config.recipes["bridged"], config.training)
    assert own.stages == recipe_from_config("bridged", config.recipes, config.training).stages


def test_an_unknown_recipe_is_a_short_sentence(capfd, tmp_path, config):
    """The kind: an unknown recipe, wherever one is named: at most three names and how many others there are."""
    for arguments in (["--config.arms=brigded"], ["--config.study.baseline=brigded"]):
        assert main(["run", "--config", str(config), "--workdir", str(tmp_path / "w"), *arguments]) == 2
        words = capfd.readouterr().err
        assert len(words) < 300
        assert re.search(r"did you mean '[^']+'(, '[^']+')?( or '[^']+')?\? There are \d+ others\.", words)
    assert main(["train", "--config", str(config), "--workdir", str(tmp_path / "w"), "--recipe", "zzz"]) == 2
    assert re.search(r"or one of \d+ others\.", capfd.readouterr().err)
