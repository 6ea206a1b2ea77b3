"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bridgejax import __version__
from bridgejax.errors import TryAgain, UserError, choices
from bridgejax.runtime import leave_failed

if TYPE_CHECKING:
    from bridgejax.config import Settings

Overrides = Sequence[tuple[str, str]]  # keys and their texts


@dataclass(frozen=True)
class Command:
    """A command of the command line."""

    help: str  # what it is for
    arguments: Callable[[argparse.ArgumentParser], None]  # adds its arguments to a parser
    run: Callable[[argparse.Namespace, Overrides], str]  # does it and returns what is printed


# -- in a workdir --------------------------------------------------------------------------------------------------------------


def _workdir_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, metavar="FILE.py[:ARG]", help="a config file; --config.KEY=VALUE changes a key"
    )
    _report_arguments(parser)


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="the folder to work in, or a URL (gs://…, s3://…); again: continues"
    )


def _seed_arguments(parser: argparse.ArgumentParser) -> None:
    _workdir_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="K", help="which of the study's seeds; default 0")


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    _seed_arguments(parser)
    parser.add_argument("--recipe", metavar="NAME", help="default: the config's first arm")


def _generate_arguments(parser: argparse.ArgumentParser) -> None:
    _workdir_arguments(parser)
    parser.add_argument("--verify", action="store_true", help="read every checksum of what is there and change nothing")


def _work_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("shard", "run", "list"), help="a shard of a synthetic set, a run, or a list of both")
    parser.add_argument("numbers", nargs="*", type=int, metavar="K", help="which, as the list counts them")
    _workdir_arguments(parser)


def _in_workdir(
    work: Callable[[Settings, argparse.Namespace], Path | str], alone: bool = False
) -> Callable[[argparse.Namespace, Overrides], str]:
    """Returns a command that works on a config's settings; the first process alone prints what was made."""

    def run(options: argparse.Namespace, overrides: Overrides) -> str:
        from bridgejax.config import Settings, load_config

        settings = Settings.of(load_config(options.config, overrides))
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from bridgejax import runtime

        runtime.start(alone, dataclasses.asdict(settings))
        from bridgejax.studies.stored_workdir import working_copy

        with working_copy(options.workdir, settings.executor) as copy:
            options.workdir = copy.folder
            made = copy.named(str(work(settings, options)))
        return made if runtime.is_first() else ""

    return run


def _study(settings: Settings, options: argparse.Namespace) -> Path:
    from bridgejax.executors import executor_of
    from bridgejax.studies.commands import run_study

    return run_study(settings, options.workdir, executor_of(settings))


def _run(settings: Settings, options: argparse.Namespace) -> Path:
    from bridgejax.report.write import update_report
    from bridgejax.runtime import is_first

    results = _study(settings, options)
    return update_report(options.workdir) if is_first() else results


def _generate(settings: Settings, options: argparse.Namespace) -> Path:
    from bridgejax.executors import executor_of
    from bridgejax.studies.commands import generate, verify

    if options.verify:
        return verify(settings, options.workdir)
    return generate(settings, options.workdir, executor_of(settings))


def _work(settings: Settings, options: argparse.Namespace) -> str:
    from bridgejax.executors import run_one, run_shard, unit_states

    if options.what == "list":
        if options.numbers:
            raise UserError("`bridgejax work list` takes no number; leave it out.")
        return "\n".join(unit_states(settings, options.workdir))
    if not options.numbers:
        raise UserError(f"`bridgejax work {options.what}` needs a number; `bridgejax work list` shows them.")
    make = run_shard if options.what == "shard" else run_one
    made = [(number, make(settings, options.workdir, number)) for number in options.numbers]
    return "\n".join(f"{options.what} {number}: {'made' if new else 'was there'}" for number, new in made)


def _filter(settings: Settings, options: argparse.Namespace) -> Path:
    from bridgejax.report.filter_page import filter_text, write_filter_page
    from bridgejax.runtime import is_first
    from bridgejax.studies.filtering import filter_sets

    outcome = filter_sets(settings, options.workdir)
    if not is_first():
        return options.workdir
    page = write_filter_page(outcome, options.workdir)
    print(filter_text(outcome))
    if outcome.fault is not None:
        raise UserError(f"{outcome.fault} {page} shows the images.")
    return page


def _invert(settings: Settings, options: argparse.Namespace) -> Path:
    from bridgejax.studies.commands import invert

    return invert(settings, options.workdir, seed=options.seed)


def _tune(settings: Settings, options: argparse.Namespace) -> Path:
    from bridgejax.studies.tuning import tune

    return tune(settings, options.workdir)


def _train(settings: Settings, options: argparse.Namespace) -> Path:
    from bridgejax.studies.commands import train

    return train(settings, options.workdir, recipe=options.recipe, seed=options.seed)


def _report(options: argparse.Namespace, _: Overrides) -> str:
    from bridgejax.report.write import write_report
    from bridgejax.studies.stored_workdir import working_copy

    with working_copy(options.workdir) as copy:
        return copy.named(str(write_report(copy.folder)))


# -- elsewhere -----------------------------------------------------------------------------------------------------------------


def _vae_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vae", metavar="PATH", help="another autoencoder, for a generator that has none or a poor one")


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="SOURCE", help="a folder, a .safetensors file or a hub name")
    add("--output", required=True, type=Path, metavar="FOLDER", help="the folder to write; new or empty")
    add("--lora", action="append", default=[], metavar="PATH:SCALE", help="merge a LoRA; may be repeated")
    add("--embedding", action="append", default=[], metavar="WORD=PATH", help="add a learned word; may be repeated")
    add("--tokenizer", metavar="FOLDER", help="CLIP's tokenizer, for a single file that has none beside it")
    _vae_arguments(parser)
    add("--dtype", metavar="NAME", help="float32, bfloat16 or float16; default: the source's")
    add("--prediction-type", metavar="NAME", help="epsilon or v_prediction, where the file does not show it")
    add("--model-config", metavar="FILE.json", help="what a single file does not show, by part")


def _import_weights(options: argparse.Namespace, _: Overrides) -> str:
    from bridgejax.config import scaled_files, word_files
    from bridgejax.diffusion.import_weights import import_weights
    from bridgejax.runtime import check_devices

    check_devices()
    digest = import_weights(
        options.source,
        options.output,
        dtype=options.dtype,
        tokenizer=options.tokenizer,
        prediction_type=options.prediction_type,
        model_config=options.model_config,
        loras=scaled_files(options.lora, "--lora"),
        embeddings=word_files(options.embedding, "--embedding"),
        vae=options.vae,
        tell=lambda text: print(text, file=sys.stderr),
    )
    return f"{options.output}\n{digest}"


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as a JSON Schema of a config")
    form.add_argument("--markdown", action="store_true", help="as a page, docs/configuration.md")
    form.add_argument("--recipes", action="store_true", help="instead, every recipe with its stages (docs/choosing.md)")


def _config(options: argparse.Namespace, _: Overrides) -> str:
    from bridgejax.config import reference

    if options.recipes:
        from bridgejax.recipes import all_recipes
        from bridgejax.report.phrases import recipe_line

        return "\n".join(f"{name:<28}{recipe_line(stages)}" for name, stages in all_recipes().items())
    return reference.as_json_schema() if options.json else reference.as_page() if options.markdown else reference.as_text()


def _doctor_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", metavar="FILE.py[:ARG]", help="also check this config as run does, and show what each device holds")
    add("--weights", metavar="PATH", help="what a generator's file or folder is, as import-weights decides it")
    _vae_arguments(parser)


def _doctor(options: argparse.Namespace, overrides: Overrides) -> str:
    from bridgejax.config import load_config
    from bridgejax.doctor import about_weights, report

    if options.weights is None and options.vae is not None:
        raise UserError("--vae goes with --weights; give --weights PATH too.")
    if options.weights is not None and options.config is not None:
        raise UserError("--weights and --config are two questions; give one of them.")
    if options.weights is not None:
        return about_weights(options.weights, vae=options.vae)
    text, refused = report(None if options.config is None else load_config(options.config, overrides))
    if refused:
        print(text)
        raise UserError("`bridgejax run` would refuse this config, for the reason given above after '!'.")
    return text


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("set", metavar="SET", help="the folder of a synthetic set, or the URL of one on an object store")
    add("--to", required=True, metavar="FOLDER", help="the folder to write, or a URL; again: continues")
    add("--format", required=True, metavar="NAME", help="webdataset, imagefolder or parquet")


def _export(options: argparse.Namespace, _: Overrides) -> str:
    from bridgejax.synthesis import export_set

    return str(export_set(options.set, options.to, options.format))


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sets", nargs="+", metavar="SET", help="sets of other classes, or unfinished parts of one set")
    parser.add_argument("--to", required=True, metavar="FOLDER", help="the folder to write, or a URL; again: continues")


def _merge(options: argparse.Namespace, _: Overrides) -> str:
    from bridgejax.synthesis import merge_sets

    return str(merge_sets(options.to, options.sets).directory)


def _detect_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("set", type=Path, metavar="SET", help="a folder with train and test in COCO's format (annotations.json and its images)")
    add("--workdir", required=True, metavar="DIR", help="the folder for the results, or a URL; again: reads them")
    add("--weights", default="builtin:efficientnet_lite0", metavar="NAME", help="of the backbone, as classifier.weights")
    add("--random", action="store_true", help="start the backbone from random values instead")
    add("--frozen", action="store_true", help="train what follows the backbone alone")
    add("--steps", type=int, default=500, metavar="N", help="updates; default 500")
    add("--batch-size", type=int, default=16, metavar="N", help="images in one; default 16")
    add("--side", type=int, default=128, metavar="PIXELS", help="of the images, a multiple of 32; default 128")
    add("--learning-rate", type=float, default=0.002, metavar="RATE", help="default 0.002")
    add("--seed", type=int, default=0, metavar="K", help="of the head and of the images' order; default 0")
    add("--part", choices=("test", "validation"), default="test", help="what is scored; default test")


def _detect(options: argparse.Namespace, _: Overrides) -> str:
    from bridgejax import runtime
    from bridgejax.studies.stored_workdir import working_copy
    from bridgejax.training.detection_run import RESULT, DetectionOptions, detect

    names = {field.name for field in dataclasses.fields(DetectionOptions)}
    chosen = DetectionOptions(**{name: value for name, value in vars(options).items() if name in names})
    runtime.start(alone=True)
    with working_copy(options.workdir) as copy:
        result = detect(options.set, copy.folder, chosen, options.part)
        written = copy.named(str(copy.folder / RESULT))
    known = {**result["average_precision"], "mean (AP50)": result["ap50"]}
    lines = [f"{name:<24}{'no boxes' if value is None else f'{100 * value:6.1f}'}" for name, value in known.items()]
    return "\n".join([*lines, written])


COMMANDS = {
    "run": Command("everything the config asks for: generate, train every arm, report", _workdir_arguments, _in_workdir(_run)),
    "generate": Command("a synthetic set only; --verify checks what is there", _generate_arguments, _in_workdir(_generate)),
    "filter": Command(
        "score the synthetic images, keep some by a rule, and show both", _workdir_arguments, _in_workdir(_filter)
    ),
    "invert": Command("learn a style token, for the data set or for each class", _seed_arguments, _in_workdir(_invert)),
    "tune": Command("rates and lengths of every arm, by validation images", _workdir_arguments, _in_workdir(_tune)),
    "train": Command("one recipe, one seed", _train_arguments, _in_workdir(_train)),
    "study": Command("arms × seeds, their results without the report's pages", _workdir_arguments, _in_workdir(_study)),
    "work": Command("one shard or one run alone, for a scheduler's tasks", _work_arguments, _in_workdir(_work, alone=True)),
    "report": Command("tables, plots and report.html from a workdir", _report_arguments, _report),
    "import-weights": Command("published weights to a local folder, checked", _import_arguments, _import_weights),
    "export": Command("a synthetic set as WebDataset, ImageFolder or Parquet", _export_arguments, _export),
    "merge": Command("several synthetic sets as one", _merge_arguments, _merge),
    "detect": Command("train a detector on a backbone and score its boxes (VOC's AP50)", _detect_arguments, _detect),
    "config": Command("every key of a config, with its default and its meaning", _config_arguments, _config),
    "doctor": Command("what this machine can do, and why not; whether a config is right", _doctor_arguments, _doctor),
}


# -- the command line ----------------------------------------------------------------------------------------------------------


# What to do about what the operating system refuses.
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free space on the disk, or raise the limit"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions, or choose another folder"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    errno.ENAMETOOLONG: "give a shorter one",
}


class _Parser(argparse.ArgumentParser):
    """An argparse parser whose complaint is one sentence."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(
            f"{message}; see `bridgejax {'--help' if self.prog == 'bridgejax' else self.prog.split()[-1] + ' --help'}`."
        )


def _usage() -> str:
    lines = "\n".join(f"  {name:<16}{command.help}" for name, command in COMMANDS.items())
    return (
        f"bridgejax {__version__}: better image classifiers from class names and generated images\n\n"
        f"usage: bridgejax COMMAND --config FILE.py[:ARG] [--config.KEY=VALUE …] --workdir DIR\n\n{lines}\n\n"
        "bridgejax COMMAND --help tells more."
    )


def _split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Takes `--config.KEY=VALUE` (or `--config.KEY VALUE`) out of the arguments."""
    rest: list[str] = []
    overrides: list[tuple[str, str]] = []
    pending = iter(arguments)
    for argument in pending:
        if not argument.startswith("--config."):
            rest.append(argument)
            continue
        key, equals, value = argument.removeprefix("--config.").partition("=")
        if not equals:
            value = next(pending, "")
            if not value or value.startswith("--"):
                raise UserError(f"{argument} has no value; write {argument}=VALUE.")
        overrides.append((key, value))
    return rest, overrides


def _dispatch(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] in ("--version", "-V"):
        print(__version__)
        return 0
    name, *tail = arguments
    if name not in COMMANDS:
        raise UserError(f"{name!r} is not a command; {choices(name, COMMANDS)}")
    command = COMMANDS[name]
    rest, overrides = _split_overrides(tail)
    parser = _Parser(prog=f"bridgejax {name}", description=command.help, allow_abbrev=False)
    command.arguments(parser)
    options = parser.parse_args(rest)
    if overrides and getattr(options, "config", None) is None:
        raise UserError(f"`bridgejax {name}` takes no --config.KEY; leave out --config.{overrides[0][0]}.")
    if text := command.run(options, overrides):
        print(text)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
      0 done; 1 damage that `generate --verify` found; 2 a wrong input, stated in one sentence on stderr; 75 ended by a
      scheduler, or what failed may succeed later (`bridgejax work`); 130 interrupted (rerun the command to resume).
    """
    _open_streams()
    try:
        code = _dispatch(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # a reader that left early, or a full disk, shows here
        return code
    except TryAgain as error:
        return leave_failed(os.EX_TEMPFAIL, f"bridgejax: {' '.join(str(error).split())}")
    except UserError as error:
        return leave_failed(error.exit_code, f"bridgejax: {' '.join(str(error).split())}")
    except KeyboardInterrupt:
        return leave_failed(130, "bridgejax: interrupted; rerun the command to resume.")
    except BrokenPipeError:
        # The reader left early (`bridgejax doctor | head`).
        _print_no_more()
        return 0
    except OSError as error:
        if error.errno is None:
            raise
        if error.filename is None:
            _print_no_more()  # what could not be written may be what was printed
        what = "a name is too long" if error.errno == errno.ENAMETOOLONG else str(error.strerror).lower()
        place = f" ({error.filename})" if error.filename else ""
        advice = _ADVICE.get(error.errno, "see that disk, network and permissions are as they should be")
        return leave_failed(2, f"bridgejax: {what}{place}; {advice} and rerun the command.")


def _open_streams() -> None:
    """Opens what a caller closed of the three standard streams, and lets a terminal print what its encoding lacks.

    A file that were opened in place of a closed stream would get what libraries print.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def _print_no_more() -> None:
    """Lets all that is still to be printed go nowhere, also at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
