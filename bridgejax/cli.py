"""The command line: parse, call, print."""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bridgejax import __version__
from bridgejax.errors import UserError, choices
from bridgejax.runtime import leave_failed

COMMANDS = {
    "run": "everything the config asks for: generate, train every arm, report",
    "generate": "a synthetic set only",
    "filter": "score the synthetic images, keep some by a rule, and show both",
    "invert": "learn a style token, for the data set or for each class",
    "tune": "rates and lengths of every arm, by validation images",
    "train": "one recipe, one seed",
    "study": "arms × seeds, their results without the report's pages",
    "report": "tables, plots and report.html from a workdir",
    "import-weights": "published weights to a local folder, checked",
    "config": "every key of a config, with its default and its meaning",
    "doctor": "what this machine can do, and why not; whether a config is right",
}
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


def _add_vae(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vae", metavar="FOLDER", help="another autoencoder, for a generator that has none or a poor one")


def _parser(command: str) -> argparse.ArgumentParser:
    parser = _Parser(prog=f"bridgejax {command}", description=COMMANDS[command], allow_abbrev=False)
    if command == "doctor":
        parser.add_argument(
            "--config", metavar="FILE.py[:ARG]", help="also check this config as run does, and show what each device holds"
        )
        parser.add_argument(
            "--weights", metavar="PATH", help="what a generator's file or folder is, as import-weights decides it"
        )
        _add_vae(parser)
        return parser
    if command == "config":
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true", help="as a JSON Schema of a config")
        form.add_argument("--markdown", action="store_true", help="as a page, docs/configuration.md")
        return parser
    if command == "import-weights":
        parser.add_argument("source", metavar="SOURCE", help="a folder, a .safetensors file or a hub name")
        parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="the folder to write; new or empty")
        parser.add_argument("--lora", action="append", default=[], metavar="PATH:SCALE", help="merge a LoRA; may be repeated")
        parser.add_argument(
            "--embedding", action="append", default=[], metavar="WORD=PATH", help="add a learned word; may be repeated"
        )
        parser.add_argument("--tokenizer", metavar="FOLDER", help="CLIP's tokenizer, for a single file that has none beside it")
        _add_vae(parser)
        parser.add_argument("--dtype", metavar="NAME", help="float32, bfloat16 or float16; default: the source's")
        parser.add_argument(
            "--prediction-type", metavar="NAME", help="epsilon or v_prediction, where the file does not show it"
        )
        parser.add_argument("--model-config", metavar="FILE.json", help="what a single file does not show, by part")
        return parser
    if command != "report":
        parser.add_argument(
            "--config", required=True, metavar="FILE.py[:ARG]", help="a config file; --config.KEY=VALUE changes a key"
        )
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="the folder to work in; again: continues")
    if command == "train":
        parser.add_argument("--recipe", metavar="NAME", help="default: the config's first arm")
    if command in ("train", "invert"):
        parser.add_argument("--seed", type=int, default=0, metavar="K", help="which of the study's seeds; default 0")
    return parser


def _usage() -> str:
    lines = "\n".join(f"  {name:<16}{text}" for name, text in COMMANDS.items())
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
    command, *tail = arguments
    if command not in COMMANDS:
        raise UserError(f"{command!r} is not a command; {choices(command, COMMANDS)}")
    rest, overrides = _split_overrides(tail)
    options = _parser(command).parse_args(rest)
    if overrides and getattr(options, "config", None) is None:
        raise UserError(f"`bridgejax {command}` takes no --config.KEY; leave out --config.{overrides[0][0]}.")
    text = _simple(command, options, overrides)
    if text is None:
        text = _work(command, options, overrides)
    if text:
        print(text)
    return 0


def _simple(command: str, options: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> str | None:
    """Runs a command that does no work in a workdir and returns what it prints; None for other commands."""
    if command == "config":
        from bridgejax.config import reference

        return reference.as_json_schema() if options.json else reference.as_page() if options.markdown else reference.as_text()
    if command == "doctor":
        from bridgejax.doctor import about_weights, report

        if options.weights is not None:
            return about_weights(options.weights, vae=options.vae)
        if options.config is None:
            return report()
        from bridgejax.config import load_config

        return report(load_config(options.config, overrides))
    if command == "report":
        from bridgejax.report.write import write_report

        return str(write_report(options.workdir))
    if command == "import-weights":
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
    return None


def _work(command: str, options: argparse.Namespace, overrides: Sequence[tuple[str, str]]) -> str:
    """Runs a command that works in a workdir and returns what it prints: what was made; "" in all but the first process."""
    from bridgejax.config import Settings, load_config

    settings = Settings.of(load_config(options.config, overrides))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from bridgejax import runtime
    from bridgejax.studies import commands

    runtime.start()
    if command in ("run", "study"):
        path = commands.run_study(settings, options.workdir)
        if command == "run" and runtime.is_first():
            from bridgejax.report.write import update_report

            path = update_report(options.workdir)
    elif command == "generate":
        path = commands.generate(settings, options.workdir)
    elif command == "filter":
        from bridgejax.report.filter_page import filter_text, write_filter_page
        from bridgejax.studies.filtering import filter_sets

        outcome = filter_sets(settings, options.workdir)
        if not runtime.is_first():
            return ""
        path = write_filter_page(outcome, options.workdir)
        if outcome.fault is not None:
            print(filter_text(outcome))
            raise UserError(f"{outcome.fault} {path} shows the images.")
        return f"{filter_text(outcome)}\n{path}"
    elif command == "invert":
        path = commands.invert(settings, options.workdir, seed=options.seed)
    elif command == "tune":
        from bridgejax.studies.tuning import tune

        path = tune(settings, options.workdir)
    else:
        path = commands.train(settings, options.workdir, recipe=options.recipe, seed=options.seed)
    return str(path) if runtime.is_first() else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
      0 done; 2 a wrong input, stated in one sentence on stderr; 130 interrupted (rerun the command to resume).
    """
    _open_streams()
    try:
        code = _dispatch(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # a reader that left early, or a full disk, shows here
        return code
    except UserError as error:
        return leave_failed(2, f"bridgejax: {' '.join(str(error).split())}")
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
