"""What a config may hold: the keys, their defaults, and one clear sentence for each mistake.

A config file defines `get_config(arg=None)`, starts from `default_config()` and changes what it needs. The result is a
locked `ml_collections.ConfigDict`; nothing below the command line sees anything but its values.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bridgejax.config_checks import check_values
from bridgejax.errors import UserError, nearest
from bridgejax.files import canonical_json
from bridgejax.recipes import all_recipes

# Changing these continues a workdir: none of them decides a result that is already there.
EXTENDABLE = (
    *("arms", "mesh", "study.", "tuning.", "training.checkpoint_seconds", "training.remat", "training.tuned"),
    *("recipes.", "report."),
    *("inversion.evaluations", "inversion.checkpoint_every"),
)


def default_config() -> Any:
    """Returns the locked ConfigDict with every key and its default."""
    from ml_collections import ConfigDict, config_dict

    def any_type(value: Any) -> Any:
        return config_dict.FieldReference(value, field_type=object)

    whole = config_dict.placeholder(int)
    text = config_dict.placeholder(str)
    config = ConfigDict()
    config.seed = 0
    # The classes and their real images.
    config.task = ConfigDict(
        {
            "source": "builtin:tux_photos",  # builtin:tux_photos, folder:PATH, task:NAME or tfds:NAME
            "shots": any_type(None),  # real training images per class; None = all
            "class_names": any_type(()),  # names and their order; () = the source's own
            "validation_per_class": 0,  # images per class set aside out of the training part
            "data_dir": config_dict.placeholder(str),  # where prepared TFDS sets lie; None = TFDS's own default
        }
    )
    # Class name → text.
    config.prompts = ConfigDict(
        {
            "template": any_type("a photo of a {}"),  # a string or a tuple of strings with {}, used in rotation
            "negative": "",
            "variants": ConfigDict(),  # class name → tuple of more specific phrases that fill {} in rotation
        }
    )
    # Text → image.
    config.generator = ConfigDict(
        {
            "weights": "builtin:tiny_diffusion",  # builtin:NAME, a diffusers folder, a hub name or a .safetensors file
            "steps": 50,
            "guidance_scale": 7.5,
            "scheduler": text,  # None = the folder's own
            "batch_size": 32,
            "height": whole,  # pixels; None = the model's own
            "width": config_dict.placeholder(int),
            "dtype": "float32",
            "loras": (),  # LoRA files merged into the weights: (path, scale) pairs
            "words": (),  # learned words that prompts may hold: (word, path) pairs
            "vae": config_dict.placeholder(str),  # another autoencoder: a folder or a hub name; None = the weights' own
            "tokenizer": config_dict.placeholder(str),  # for a single file: a folder with CLIP's tokenizer
            "prediction_type": config_dict.placeholder(str),  # "epsilon" or "v_prediction" where a single file hides it
        }
    )
    # Text learned from the real images of training, and the controls of that (docs/inversion.md).
    config.inversion = ConfigDict(
        {
            # None: prompts.template as it is. "dataset": one word for all classes; "class": one for each; "untrained": a word
            # that is not trained; "word": a plain word in its place; "none": no style clause.
            "mode": config_dict.placeholder(str),
            "token": "<style>",  # the new word; of each class "<style-CLASS>"
            # Texts with {class} and {token} ("class": {token} alone), to learn and to generate with, in place of
            # prompts.template. None = "A {class} photo in the style of {token}", or "A photo of a {token}".
            "prompt": any_type(None),
            "plain_prompt": any_type("A {class} photo"),  # of "none"
            "word": "photo",  # of "word"
            "vectors": 1,  # tokens that the new word is made of
            "initial": "photo",  # a word of one token whose embedding is copied, "mean_feature" or "random"
            "steps": 1000,  # for each word; the paper takes 20,000 for a data set, 5,000 for a class
            "learning_rate": 0.005,
            "weight_decay": 0.01,
            "longest": any_type(
                None
            ),  # of the word's vectors, in mean lengths of the vocabulary's; None = no bound, as diffusers
            "batch_size": 8,
            "flip": True,  # mirror images by chance
            "seed": config_dict.placeholder(int),  # None = derived from `seed` and the study's seed
            "evaluations": 4,  # sample sheets and losses over all images along the way, besides the first
            "checkpoint_every": 100,  # steps
        }
    )
    # How many, and how they lie on disk.
    config.synthetic = ConfigDict(
        {
            "per_class": 100,
            "seed": config_dict.placeholder(int),  # None = derived from `seed`
            "shard_size": config_dict.placeholder(int),  # images per shard; None = chosen
        }
    )
    # Further sets that stages may train on (`synthetic_set` of a stage): name → what differs from the keys above, for instance
    # {"prompts": {"template": "a drawing of a {}"}}.
    config.synthetic_sets = ConfigDict()
    config.classifier = ConfigDict(
        {
            "weights": "builtin:efficientnet_lite0",
            "image_size": 96,  # pixels of a side
            "crop": config_dict.placeholder(float),  # share of the shorter side that evaluation keeps; None = the model's
        }
    )
    # Defaults of every stage; a stage of a recipe may state its own.
    config.training = ConfigDict(
        {
            "batch_size": 32,
            "eval_batch_size": 64,
            "steps": config_dict.placeholder(int),  # one number for every stage; None = as the recipe says
            "base_steps": 50,  # what a stage of length 1.0 lasts, in optimiser steps
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "weight_decay": 5e-4,
            "momentum": 0.9,
            "schedule": "cosine",
            # Short runs hardly move running statistics, so batch statistics in training would not be those of the test.
            "batch_norm": "frozen",
            "dtype": "float32",  # or "bfloat16": what networks compute in; parameters, batch norms and losses stay float32
            "remat": False,  # compute the network's blocks again in the backward pass: less memory, more time
            "evaluations": 4,  # test evaluations per run along the way, for the convergence curves
            "checkpoint_seconds": 60.0,
            "tuned": config_dict.placeholder(str),  # tuning.json of `bridgejax tune`: each arm's rate and length
        }
    )
    config.recipes = ConfigDict({name: tuple(stages) for name, stages in all_recipes().items()})
    config.arms = ("vanilla_long", "synthetic_only", "mixed", "bridged", "bridged_plus_plus")
    config.study = ConfigDict(
        {
            "seeds": 3,
            "baseline": "vanilla_long",  # what every arm is compared with
            "shots": (),  # a grid of shot counts; () = task.shots alone
            "per_class": (),  # a grid of volumes; () = synthetic.per_class alone
            "parallel_seeds": any_type(1),  # seeds of an arm that train at once: 1 = one by one, a number, or "auto" = all
        }
    )
    # What `bridgejax tune` tries for every arm, judged on task.validation_per_class images per class.
    config.tuning = ConfigDict(
        {
            "learning_rates": (0.001, 0.003, 0.01),
            "lengths": (1.0,),  # multiples of training.base_steps
            "seeds": 2,
        }
    )
    # What the report tells beyond accuracies; nothing is chosen by it.
    config.report = ConfigDict(
        {
            "synthetic_set": config_dict.placeholder(str),  # compare it with the "train" or the "test" images; None = do not
            "leep": False,  # LEEP of the pretrained network and after each synthetic first stage (trains that stage again)
        }
    )
    config.mesh = (("data", -1),)  # ordered (axis, size); "data" splits batches, "model" parameters; one size may be -1
    config.mesh_rules = ()  # (regular expression, axes) pairs that go before the built-in rules for the generator's parameters
    config.lock()
    config.prompts.variants.unlock()
    config.recipes.unlock()
    config.synthetic_sets.unlock()
    return config


# What a further synthetic set may change.
SET_GROUPS = ("prompts", "generator", "inversion", "synthetic")


def set_config(config: Any, name: str) -> Any:
    """Returns a copy of the config with the changes of one of its `synthetic_sets`; the copy names no further sets.

    Args:
      config: a config.
      name: of the set; "" is the config's own.

    Raises:
      UserError: there is no such set, or it changes what it may not or what does not exist; the key is named.
    """
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.synthetic_sets = type(config)()
    if not name:
        return changed
    if name not in config.synthetic_sets:
        listed = ", ".join(config.synthetic_sets) or "none"
        raise UserError(
            f"synthetic set {name!r} is not among synthetic_sets{nearest(name, config.synthetic_sets)}; there is {listed}."
        )
    known = [key for key, _ in flatten(default_config()) if key.partition(".")[0] in SET_GROUPS]
    for key, value in flatten(config.synthetic_sets[name]):
        where = f"synthetic_sets.{name}.{key}"
        if key.startswith("prompts.variants."):
            changed.prompts.variants[key.removeprefix("prompts.variants.")] = value
            continue
        if key not in known or key == "synthetic.per_class":
            raise UserError(f"{where} is not a key that a synthetic set may change{nearest(key, known)}.")
        group, _, leaf = key.rpartition(".")
        with changed[group].ignore_type():
            changed[group][leaf] = value
    return changed


def load_config(spec: str, overrides: Sequence[tuple[str, str]] = ()) -> Any:
    """Reads a config file and applies `--config.KEY=VALUE` overrides.

    Args:
      spec: `FILE.py` or `FILE.py:ARG`; ARG is handed to the file's `get_config`.
      overrides: (dotted key, text) pairs; the text is read as a Python literal, or else taken as a string.

    Returns:
      The checked, locked ConfigDict.

    Raises:
      UserError: the file, a key or a value is wrong.
    """
    path_text, arg = _split_spec(spec)
    config = _call_get_config(Path(path_text), arg)
    for key, value in overrides:
        _override(config, key, value)
    check_config(config)
    return config


def _split_spec(spec: str) -> tuple[str, str | None]:
    head, separator, tail = spec.partition(".py:")
    return (head + ".py", tail) if separator else (spec, None)


def _call_get_config(path: Path, arg: str | None) -> Any:
    from ml_collections import ConfigDict

    if not path.is_file():
        raise UserError(f"config file {path} was not found; give --config FILE.py, for instance configs/quickstart.py.")
    module_spec = importlib.util.spec_from_file_location(f"bridgejax_config_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise UserError(f"config file {path} is not a Python file; its name should end in .py.")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"config file {path} defines no get_config(arg=None); add it, starting from default_config().")
        config = module.get_config(arg) if arg is not None else module.get_config()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == module_spec.origin]
        where = f", line {frames[-1].lineno}" if frames else ""
        raise UserError(f"config file {path}{where}: {_told(error)}") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"config file {path}: get_config returned {type(config).__name__}; return a ConfigDict.")
    return config


def _told(error: BaseException) -> str:
    """What went wrong in a config file, in our words where the error's own are none: a key that there is not, an exit."""
    from ml_collections import ConfigDict

    if isinstance(error, SystemExit):
        return f"it calls sys.exit({error.code!r}); let get_config return a config, or raise an error that says what is wrong."
    if isinstance(error, (AttributeError, KeyError)):
        # ConfigDict's complaint is a dump of a group's fields; which group (told by its keys) and which key, its frames have.
        reference = default_config()
        groups = {name: set(reference[name]) for name in reference if hasattr(reference[name], "to_dict")}
        for frame, _ in traceback.walk_tb(error.__traceback__):
            node = frame.f_locals.get("self")
            key = frame.f_locals.get("key", frame.f_locals.get("attribute"))
            if isinstance(node, ConfigDict) and isinstance(key, str) and key not in node:
                name = ".".join([*(group for group, keys in groups.items() if keys and keys == set(node)), key])
                known = [*groups, *(known for known, _ in flatten(reference))]
                return f"{name} is not a key of the config{nearest(name, known)}."
    return " ".join(str(error).strip("\"'").split()) or type(error).__name__


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted key, value) for every leaf; recipes and prompt variants are leaves."""
    for key in config:
        value = config[key]
        if isinstance(value, Mapping) or hasattr(value, "to_dict"):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _override(config: Any, key: str, text: str) -> None:
    known = [name for name, _ in flatten(config)]
    *parents, leaf = key.split(".")
    node = config
    for parent in parents:
        node = node[parent] if parent in node and hasattr(node[parent], "to_dict") else None
        if node is None:
            break
    opened = node is not None and ".".join(parents) in _OPEN
    if node is None or (leaf not in node and not opened):
        raise UserError(f"--config.{key} is not a key of the config{nearest(key, known)}.")
    if leaf in node and hasattr(node[leaf], "to_dict"):
        raise UserError(f"--config.{key} is a group of keys; set one of {', '.join(f'{key}.{name}' for name in node[leaf])}.")
    old = node.get(leaf)
    value = _literal(text)
    if leaf in node and node.get_type(leaf) is str:
        value = value if value is None or isinstance(value, str) else text
    else:
        value = _coerce(key, old, value)
    try:
        with node.ignore_type():
            node[leaf] = value
    except (TypeError, AttributeError) as error:
        raise UserError(f"--config.{key}={text}: {error}") from error


# Groups whose keys are the user's.
_OPEN = ("recipes", "prompts.variants", "synthetic_sets")


def _literal(text: str) -> Any:
    lowered = text.strip().lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


_ANY = {"study.parallel_seeds", "prompts.template", "inversion.prompt", "inversion.plain_prompt"}
_LISTS = {
    "arms",
    "task.class_names",
    "study.shots",
    "study.per_class",
    "tuning.learning_rates",
    "tuning.lengths",
    "mesh",
    "mesh_rules",
    "generator.loras",
    "generator.words",
}


def _coerce(key: str, old: Any, value: Any) -> Any:
    """Gives an override the type of what it replaces."""
    if key in _LISTS:
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if key in _ANY or old is None or value is None:
        return value
    if isinstance(old, bool) or isinstance(value, bool):
        fits = isinstance(old, bool) and isinstance(value, bool)
    elif isinstance(old, float):
        fits = isinstance(value, (int, float))
        value = float(value) if fits else value
    else:
        fits = isinstance(value, type(old))
    if not fits:
        raise UserError(f"--config.{key}={value!r} should be {_kind(old)}, like the default {old!r}.")
    return value


def _kind(value: Any) -> str:
    return {bool: "True or False", int: "a whole number", float: "a number", tuple: "a list"}.get(type(value), "a text")


def check_config(config: Any) -> None:
    """Checks names and ranges.

    Raises:
      UserError: an unknown key, a value out of range or an unknown arm; the sentence names the key.
    """
    reference = default_config()
    known = [name for name, _ in flatten(reference)]
    for name, _ in flatten(config):
        if name not in known and not name.startswith(tuple(f"{group}." for group in _OPEN)):
            raise UserError(f"{name} is not a key of the config{nearest(name, known)}.")
    for name in known:
        group, _, leaf = name.rpartition(".")
        node = config
        for part in filter(None, group.split(".")):
            node = node.get(part, {})
        if leaf not in node and not name.startswith("recipes."):
            raise UserError(f"the config lacks the key {name}; start from bridgejax.config.default_config().")
    values = dict(flatten(config))
    _check_kinds(values, reference)
    check_values(config, values)
    _check_sets(config)  # last: what is wrong with the config itself is not told as wrong in a set


def _check_kinds(values: Mapping[str, Any], reference: Any) -> None:
    """Texts, lists and yes or no by their defaults; a config file may set any key to None, and a set to anything."""
    for key, default in flatten(reference):
        group, _, leaf = key.rpartition(".")
        kind = (reference[group] if group else reference).get_type(leaf)
        fits = isinstance(values.get(key), (tuple, list) if kind is tuple else kind)
        if group == "recipes" or kind not in (str, bool, tuple) or fits or (default is None and values[key] is None):
            continue
        optional = " or None" if default is None else ""
        raise UserError(f"{key} is {values[key]!r}; it should be {_kind(default)}{optional}.")


def _check_sets(config: Any) -> None:
    for name in config.synthetic_sets:
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", name):
            raise UserError(f"synthetic set {name!r} should hold only letters, digits, '_', '-', '+' and '.'.")
        if not hasattr(config.synthetic_sets[name], "to_dict"):
            raise UserError(
                f"synthetic_sets.{name} is {config.synthetic_sets[name]!r}; it should be groups of keys such as "
                "{'prompts': {'template': 'a drawing of a {}'}}."
            )
        changed = set_config(config, name)
        try:
            check_config(changed)
        except UserError as error:
            raise UserError(f"in synthetic_sets.{name}: {error}") from error


def to_plain(config: Any) -> dict[str, Any]:
    """Returns the config as JSON-able nested dictionaries (tuples become lists)."""
    import json

    return json.loads(canonical_json(config.to_dict() if hasattr(config, "to_dict") else dict(config)))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns "key: old → new" for every key that decides results and differs, sorted by key.

    A key that `old` lacks, from before there was such a key, had today's default.
    """
    before, after = {**dict(flatten(to_plain(default_config()))), **dict(flatten(old))}, dict(flatten(new))
    return [
        f"{key}: {before.get(key)!r} → {after.get(key)!r}"
        for key in sorted({*before, *after})
        if canonical_json(before.get(key)) != canonical_json(after.get(key)) and not key.startswith(EXTENDABLE)
    ]
