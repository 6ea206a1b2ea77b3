"""Several synthetic sets as one: sets of other classes, or parts of one set that were made in different places."""

from __future__ import annotations

import collections
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from bridgejax.data.records import Value, encode_example
from bridgejax.errors import UserError
from bridgejax.files import Place, StoreObject, commit, local_copy, place, written_aside
from bridgejax.identity import digest
from bridgejax.progress import progress
from bridgejax.synthesis.plan import GenerationPlan, make_plan
from bridgejax.synthesis.reader import StoredRecord, SyntheticSet, open_set
from bridgejax.synthesis.store import (
    SetIdentity,
    Store,
    StoredSet,
    check_same_set,
    exclusive,
    plan_of,
    read_sidecar,
    shard_damage,
    stored_set,
    write_sidecar,
    writing,
)

_OF_CLASSES = ("class_names", "variants")  # what sets of other classes may differ in


def merge_sets(
    out: str | Path | StoreObject, sets: Sequence[str | Path | StoreObject], *, per_class: int | None = None
) -> SyntheticSet:
    """Merges synthetic sets into a new one, which is byte for byte what `generate_set` would have made at once.

    Either the sets are finished and of other classes, each made by the same generator with the same options and seed: the
    merged set has all classes, in the order given. Or they are parts of one set, each with some of its shards. A call that
    was killed is completed by the next one.

    Args:
      out: the folder of the merged set, made if absent, or the URL of one on an object store.
      sets: two or more folders or URLs.
      per_class: images of each class that sets of other classes give; None: all, if all have the same number.

    Raises:
      UserError: an image would be there twice, the sets differ in what decides their pixels, a part is missing or damaged, or
        the folder holds another set or cannot be written.
    """
    target, places = place(out), [place(each) for each in sets]
    if len(places) < 2:
        raise UserError("a merge needs at least two sets; name them all.")
    if len({str(each) for each in (*places, target)}) <= len(places):
        raise UserError(f"a set is named twice in the merge into {target}; name each once.")
    found: list[StoredSet] = []
    for each in places:
        stored = stored_set(each)
        if stored is None:
            raise UserError(f"{each} holds no synthetic set; name folders that `bridgejax generate` made.")
        found.append(stored)
    first = found[0]
    parts = all(stored["identity"] == first["identity"] for stored in found)
    ignored = () if parts else _OF_CLASSES
    for each, stored in zip(places[1:], found[1:], strict=True):
        keys = sorted({*first["identity"], *stored["identity"]} - {*ignored})
        if differing := [key for key in keys if first["identity"].get(key) != stored["identity"].get(key)]:
            raise UserError(
                f"{places[0]} and {each} were not made alike ({', '.join(differing)} differ); "
                "merge sets of one generator, one seed and the same options and prompts."
            )
    if parts:
        _merge_parts(target, places, found)
    else:
        _merge_classes(target, places, found, per_class)
    return open_set(target, verify=False)


# -- sets of other classes -----------------------------------------------------------------------------------------------------


def _merge_classes(target: Place, places: Sequence[Place], found: Sequence[StoredSet], per_class: int | None) -> None:
    owner: dict[str, Place] = {}
    for each, stored in zip(places, found, strict=True):
        for name in stored["identity"]["class_names"]:
            if name in owner:
                raise UserError(
                    f"class {name!r} is in {owner[name]} and in {each}, so each of its images would be there twice; "
                    "merge sets of other classes."
                )
            owner[name] = each
    counts = {stored["per_class"] for stored in found}
    if per_class is None and len(counts) > 1:
        raise UserError(
            f"the sets hold {min(counts)} to {max(counts)} images per class; give per_class={min(counts)}, or generate more."
        )
    sources = [open_set(each, per_class) for each in places]
    variants = {name: texts for stored in found for name, texts in stored["identity"]["variants"].items()}
    identity = SetIdentity(**{**found[0]["identity"], "class_names": list(owner), "variants": variants})
    wanted = sources[0].per_class
    plan = make_plan(list(owner), wanted, identity["templates"], identity["seed"], found[0]["shard_size"], variants)
    _check_target(target, identity, plan)
    with exclusive(target):
        store = Store(target, plan, identity, found[0]["formats"])
        todo = set(store.missing_shards())
        if todo:
            store.remove_info()
        records = _in_order(sources, wanted)
        with progress(len(plan), "merge", "img") as bar:
            for shard in range(plan.num_shards):
                rows = itertools.islice(records, plan.shard_length(shard))
                if shard in todo:
                    store.write_shard(shard, _records(plan, shard, rows))
                collections.deque(rows, maxlen=0)  # of a shard that is there, the records are passed by
                bar.update(plan.shard_length(shard))
        store.finish()


def _in_order(sources: Sequence[SyntheticSet], per_class: int) -> Iterator[StoredRecord]:
    """Yields the records of all sets by (index, set, class)."""
    streams = [itertools.chain.from_iterable(map(one.stored, range(len(one.shard_files)))) for one in sources]
    for _ in range(per_class):
        for source, stream in zip(sources, streams, strict=True):
            for _ in source.class_names:
                yield next(stream)


def _records(plan: GenerationPlan, shard: int, rows: Iterable[StoredRecord]) -> Iterator[bytes]:
    """Yields a shard's serialised examples, each compared with the plan."""
    for item, row in zip(plan.shard(shard), rows, strict=True):
        planned = (item.class_name, item.index, item.prompt, item.seed)
        if planned != (row["class_name"], row["index"], row["prompt"], row["seed"]):
            raise UserError(
                f"a set holds image {row['index']} of {row['class_name']!r} with another prompt or seed than planned; "
                "check it by `bridgejax generate --verify`."
            )
        yield encode_example(cast(dict[str, Value], {**row, "label": item.label}))


# -- parts of one set ----------------------------------------------------------------------------------------------------------


def _merge_parts(target: Place, places: Sequence[Place], found: Sequence[StoredSet]) -> None:
    first = found[0]
    for key in ("per_class", "shard_size", "formats"):
        if any(stored[key] != first[key] for stored in found):
            raise UserError(
                f"{' and '.join(map(str, places))} are parts of one set but differ in {key}; generate them with the same one."
            )
    plan, identity = plan_of(first), first["identity"]
    rows = digest(identity)
    owner: dict[int, Place] = {}
    for each in places:
        for shard in range(plan.num_shards):
            sidecar = read_sidecar(each, shard)
            if sidecar is None or sidecar["identity"] != rows:
                continue
            if shard in owner:
                raise UserError(
                    f"shard {shard} is in {owner[shard]} and in {each}, so each of its images would be there twice; "
                    "merge parts that hold different shards."
                )
            owner[shard] = each
    if missing := [shard for shard in range(plan.num_shards) if shard not in owner]:
        raise UserError(
            f"no part holds shard {missing[0]} ({len(missing)} of {plan.num_shards} are missing); name all parts of the set."
        )
    _check_target(target, identity, plan)
    with exclusive(target):
        store = Store(target, plan, identity, first["formats"])
        todo = store.missing_shards()
        if todo:
            store.remove_info()
        with progress(len(todo), "merge", "shard") as bar, writing(target):
            for shard in todo:
                _copy_shard(owner[shard], target, store, shard)
                bar.update(1)
        store.finish()


def _copy_shard(source: Place, target: Place, store: Store, shard: int) -> None:
    sidecar = read_sidecar(source, shard)
    damage = "its sidecar is gone" if sidecar is None else shard_damage(source, sidecar)
    if sidecar is None or damage:
        raise UserError(f"shard {shard} of {source} is damaged ({damage}); run `bridgejax generate` on it again.")
    store.write_identity()
    for name in sidecar["files"]:
        with local_copy(source / name) as original, written_aside(target / name) as aside:
            shutil.copyfile(original, aside)
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
            commit(aside, target / name)
    write_sidecar(target, shard, sidecar)


def _check_target(target: Place, identity: SetIdentity, plan: GenerationPlan) -> None:
    stored = stored_set(target)
    if stored is not None:
        check_same_set(target, stored, identity, plan.per_class)
