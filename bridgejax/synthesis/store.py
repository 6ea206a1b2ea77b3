"""The folder of a synthetic set: shards that are whole or absent.

    identity.json                                  what decides the pixels; written first
    sidecars/00000.json                            per shard: checksums, identity, digest of its plan rows, where its images
                                                   lie; its commit mark
    bridgejax_synthetic-train.tfrecord-00000       the shard, for `as_dataset`
    bridgejax_synthetic-train.array_record-00000   the same records for `as_data_source`, where array_record is installed
    features.json, label.labels.txt                TFDS's description of the records
    dataset_info.json                              written last: without it TFDS takes the folder for no dataset

A shard is written aside, synced, renamed (to an object store, which has no rename, uploaded), and counts only once its sidecar
is there. Shard i is made by process i mod N; nothing else is shared but the folder, so N may change between starts.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import importlib.util
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from bridgejax.data.records import FRAME_HEADER, Span, frame_record
from bridgejax.data.set_index import SIDECARS, SPANS_KEY, image_span, pack_spans, sidecar_path
from bridgejax.errors import UserError
from bridgejax.files import Place, StoreObject, commit, file_size, remove_temporary_files, write_json, written_aside
from bridgejax.identity import digest, file_digest
from bridgejax.synthesis import tfds_files
from bridgejax.synthesis.plan import GenerationPlan, make_plan

IDENTITY_FILE = "identity.json"
OTHER_ROWS = "it holds other images than planned"


class SetIdentity(TypedDict):
    """What decides the pixels of a set, beside the class, index and seed of each image; plain JSON."""

    generator: str  # digest of the weights
    dtype: str | None  # what the generator computes in, if it says
    vae_tile: NotRequired[int]
    guidance: NotRequired[dict[str, str | float]]  # of `RealGuidance`
    scheduler: str | None
    steps: int
    guidance_scale: float
    negative_prompt: str
    height: int
    width: int
    seed: int
    class_names: list[str]
    templates: list[str]
    variants: dict[str, list[str]]
    format: int


class StoredSet(TypedDict):
    """The content of `identity.json`."""

    identity: SetIdentity
    per_class: int
    shard_size: int
    formats: list[str]


class ShardFile(TypedDict):
    """Size and checksum of one file of a shard."""

    sha256: str
    bytes: int


class Sidecar(TypedDict):
    """The content of a shard's sidecar."""

    shard: int
    identity: str  # digest of the set's identity
    rows: str  # `GenerationPlan.rows_digest`
    num_examples: int
    files: dict[str, ShardFile]
    images: NotRequired[str]  # where each PNG lies in the record file: `bridgejax.data.set_index`


_SIDECAR_KEYS = frozenset({"shard", "identity", "rows", "num_examples", "files"})
_CHECKSUM = "checksum"


def array_record_installed() -> bool:
    """Returns whether shards can be stored as ArrayRecord too."""
    return importlib.util.find_spec("array_record") is not None


def read_json(path: Place) -> dict[str, object] | None:
    """Returns the object in a JSON file, None where there is none or it is broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        advice = "see that you may read there" if isinstance(path, StoreObject) else "check its permissions"
        raise UserError(f"{path} could not be read ({error.strerror or error}); {advice}.") from error
    return value if isinstance(value, dict) else None


def read_sidecar(directory: Place, shard: int) -> Sidecar | None:
    """Returns a shard's sidecar, None where there is none or it is broken."""
    value = read_json(sidecar_path(directory, shard)) or {}
    # In sets of a version without the checksum the keys tell; where a flipped bit renames it, there is a key too many.
    kept = value.pop(_CHECKSUM, None)
    whole = set(value) - {SPANS_KEY} == _SIDECAR_KEYS if kept is None else kept == digest(value)
    return cast(Sidecar, value) if whole else None


def write_sidecar(directory: Place, shard: int, sidecar: Sidecar) -> None:
    """Writes a shard's sidecar, with a checksum of its own."""
    write_json(sidecar_path(directory, shard), {**sidecar, _CHECKSUM: digest(sidecar)})


def stored_set(directory: Place) -> StoredSet | None:
    """Returns the content of `identity.json`, None where the folder has no shard of a set.

    Raises:
      UserError: the folder is a file, or holds a dataset that bridgejax did not make.
    """
    if directory.is_file():
        raise UserError(f"{directory} is a file; give a folder for the synthetic set.")
    stored = read_json(directory / IDENTITY_FILE)
    if stored is not None and set(StoredSet.__annotations__) <= set(stored):
        return cast(StoredSet, stored) if any((directory / SIDECARS).glob("*.json")) else None
    if (directory / tfds_files.INFO_FILE).exists() and not (directory / SIDECARS).is_dir():
        raise UserError(f"{directory} holds a dataset that bridgejax did not generate; choose another folder.")
    return None


def check_same_set(directory: Place, stored: StoredSet, identity: SetIdentity, per_class: int) -> None:
    """Makes sure that a folder's set is the wanted one, or a smaller part of it.

    Raises:
      UserError: it is another set; the sentence says key by key what differs.
    """
    there: Mapping[str, object] = stored["identity"]
    here: Mapping[str, object] = identity
    differing = [key for key in sorted({*there, *here}) if there.get(key) != here.get(key)]
    if differing:
        shown = "; ".join(f"{key} is {_short(there.get(key))} there and {_short(here.get(key))} here" for key in differing)
        raise UserError(f"{directory} holds another synthetic set ({shown}); choose another folder or delete this one.")
    if stored["per_class"] > per_class:
        raise UserError(
            f"{directory} holds {stored['per_class']} images per class, more than the {per_class} asked for; "
            f"read a part of it with open_set(..., per_class={per_class}), or choose another folder."
        )


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def shard_damage(directory: Place, sidecar: Sidecar) -> str | None:
    """Returns what is wrong with a shard's files beside its sidecar, None if they are whole."""
    for name, recorded in sidecar["files"].items():
        path = directory / name
        try:
            size = file_size(path)
            if size != recorded["bytes"]:
                return f"{name} has {size} bytes instead of {recorded['bytes']}"
            if file_digest(path) != recorded["sha256"]:
                return f"{name} does not match its checksum"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or error}"
    return None


def plan_of(stored: StoredSet) -> GenerationPlan:
    """Returns the plan of a set that is there."""
    identity = stored["identity"]
    names, templates, variants = identity["class_names"], identity["templates"], identity["variants"]
    return make_plan(names, stored["per_class"], templates, identity["seed"], stored["shard_size"], variants)


def shard_state(directory: Place, plan: GenerationPlan, identity: str, shard: int) -> str | None:
    """Returns None for a whole shard, "" for an absent one, else what is wrong with it; `identity` is the set's digest."""
    path = sidecar_path(directory, shard)
    if not path.exists():
        return ""
    sidecar = read_sidecar(directory, shard)
    if sidecar is None:
        return f"its sidecar {path.name} cannot be read"
    if sidecar["identity"] != identity or sidecar["rows"] != plan.rows_digest(shard):
        return OTHER_ROWS
    return shard_damage(directory, sidecar)


@contextlib.contextmanager
def writing(directory: Place) -> Iterator[None]:
    """Turns the file system's errors into one sentence."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise _unwritable(directory, error.strerror or str(error)) from error


def _unwritable(directory: Place, reason: object) -> UserError:
    advice = "see that you may write there" if isinstance(directory, StoreObject) else "free space"
    return UserError(f"{directory} cannot be written ({reason}); {advice}, or choose another folder.")


class Store:
    """One synthetic set's folder, opened for writing by process `process` of `processes`.

    Args:
      directory: the folder; made if absent.
      plan: what the set shall hold.
      identity: what decides the pixels.
      formats: file formats of each shard, the first for `as_dataset`.
      process, processes: this process and how many there are.
      beside_others: whether other processes that know nothing of this one may write shards at the same time.

    Raises:
      UserError: the folder cannot be written.
    """

    def __init__(
        self,
        directory: Place,
        plan: GenerationPlan,
        identity: SetIdentity,
        formats: Sequence[str],
        process: int = 0,
        processes: int = 1,
        beside_others: bool = False,
    ):
        self.directory = directory
        self.plan = plan
        self.identity = identity
        self.identity_digest = digest(self.identity)
        self.process, self.processes, self.beside_others = process, processes, beside_others
        self.formats = tuple(formats)
        with writing(directory):
            (directory / SIDECARS).mkdir(parents=True, exist_ok=True)
            if not beside_others:
                self._remove_leftovers()

    # What is there

    def _remove_leftovers(self) -> None:
        """Removes what killed processes left; of several processes the first does, before any other opens the set."""
        if self.process == 0 and isinstance(self.directory, Path):
            remove_temporary_files(self.directory)
            remove_temporary_files(self.directory / SIDECARS)

    def my_shards(self) -> range:
        """Returns the shards that this process makes."""
        return range(self.process, self.plan.num_shards, self.processes)

    def missing_shards(self, among: Sequence[int] | None = None) -> list[int]:
        """Returns which of some shards (None: this process's) are absent or damaged; damaged ones are named on stderr."""
        mine = list(self.my_shards() if among is None else among)
        with concurrent.futures.ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            states = list(pool.map(self._shard_state, mine))
        for shard, state in zip(mine, states, strict=True):
            if state:
                print(f"shard {shard} of {self.directory} is damaged ({state}); making it again", file=sys.stderr, flush=True)
        return [shard for shard, state in zip(mine, states, strict=True) if state is not None]

    def _shard_state(self, shard: int) -> str | None:
        """Returns None for a whole shard, "" for an absent one, else what is wrong with it."""
        state = shard_state(self.directory, self.plan, self.identity_digest, shard)
        if state != OTHER_ROWS:
            return state
        sidecar_path(self.directory, shard).unlink(missing_ok=True)  # the last shard of a smaller set: it is made again, longer
        return ""

    def remove_info(self) -> None:
        """Takes back the mark of a finished set before anything in it changes.

        Beside others only where the set grows: a shard made again is the same set, and nobody may be left to finish it.
        """
        grows = (read_json(self.directory / IDENTITY_FILE) or {}).get("per_class") != self.plan.per_class
        if self.process == 0 and (grows or not self.beside_others):
            with writing(self.directory):
                (self.directory / tfds_files.INFO_FILE).unlink(missing_ok=True)

    def write_identity(self) -> None:
        """Writes the identity, which comes before the first shard."""
        if self.process == 0:
            content = StoredSet(
                identity=self.identity,
                per_class=self.plan.per_class,
                shard_size=self.plan.shard_size,
                formats=list(self.formats),
            )
            if read_json(self.directory / IDENTITY_FILE) != content:
                write_json(self.directory / IDENTITY_FILE, content)

    # Making a shard

    def write_shard(self, shard: int, records: Iterable[bytes]) -> None:
        """Writes a shard of serialised examples, taken one by one, whole: aside, synced, renamed; then its sidecar.

        Raises:
          UserError: the disk is full or the folder cannot be written; no part of the shard is left.
        """
        names = [tfds_files.shard_name(shard, file_format) for file_format in self.formats]
        with writing(self.directory), contextlib.ExitStack() as stack:
            asides = {name: stack.enter_context(written_aside(self.directory / name)) for name in names}
            spans = self._write_aside(list(asides.values()), records)
            if len(spans) != self.plan.shard_length(shard):
                raise UserError(f"shard {shard} got {len(spans)} images instead of {self.plan.shard_length(shard)}.")
            files = {name: ShardFile(sha256=file_digest(aside), bytes=aside.stat().st_size) for name, aside in asides.items()}
            if self._shard_state(shard) is None:
                return  # another process made it in the meantime
            self.write_identity()
            for name, aside in asides.items():
                commit(aside, self.directory / name)
            if isinstance(self.directory, Path):
                _sync_folder(self.directory)
            sidecar = Sidecar(
                shard=shard,
                identity=self.identity_digest,
                rows=self.plan.rows_digest(shard),
                num_examples=len(spans),
                files=files,
                images=pack_spans(spans),
            )
            write_sidecar(self.directory, shard, sidecar)

    def _write_aside(self, paths: list[Path], records: Iterable[bytes]) -> list[Span]:
        """Writes the records in each format; returns where the images lie in the first."""
        spans: list[Span] = []
        extra = _ArrayRecordFile(paths[1]) if len(paths) > 1 else None
        try:
            with open(paths[0], "wb") as file:
                for record in records:
                    spans.append(image_span(record, file.tell() + FRAME_HEADER))
                    file.write(frame_record(record))
                    if extra is not None:
                        extra.write(record)
                file.flush()
                os.fsync(file.fileno())
        finally:
            if extra is not None:
                extra.close()
        if extra is not None:
            extra.check(len(spans))
        return spans

    def withdraw(self) -> None:
        """Removes the empty folder of a set that got no shard, so that a mistake leaves nothing behind."""
        if self.processes > 1 or any((self.directory / SIDECARS).glob("*")):
            return
        with contextlib.suppress(OSError):
            (self.directory / SIDECARS).rmdir()

    # The end

    def finish(self) -> bool:
        """Writes the TFDS files, and returns True, once every shard is there; removes leftovers (process 0 alone)."""
        if sum(1 for _ in (self.directory / SIDECARS).glob("*.json")) < self.plan.num_shards:
            return False
        first, lengths, sizes = self.formats[0], [], []
        for shard in range(self.plan.num_shards):
            sidecar = read_sidecar(self.directory, shard)
            if sidecar is None or sidecar["identity"] != self.identity_digest:
                return False
            lengths.append(sidecar["num_examples"])
            sizes.append(sidecar["files"][tfds_files.shard_name(shard, first)]["bytes"])
        if self.process == 0:
            with writing(self.directory):
                if not self.beside_others:
                    self._remove_leftovers()  # of a worker that was killed and its shard made by another
                self.write_identity()
                tfds_files.write_tfds_files(
                    self.directory,
                    description=f"Images generated by {self.identity['generator']}.",
                    formats=self.formats,
                    shard_lengths=lengths,
                    num_bytes=sum(sizes),
                    class_names=self.plan.class_names,
                    height=self.identity["height"],
                    width=self.identity["width"],
                )
        return True


class _ArrayRecordFile:
    """One ArrayRecord file with one record per group, as TFDS writes them."""

    def __init__(self, path: Path):
        from array_record.python import array_record_module

        self._module = array_record_module
        self._path = path
        try:
            # PNG does not compress further.
            self._writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        except (RuntimeError, ValueError) as error:
            raise _unwritable(path.parent, error) from error

    def write(self, record: bytes) -> None:
        try:
            self._writer.write(record)
        except (RuntimeError, ValueError) as error:
            raise _unwritable(self._path.parent, error) from error

    def close(self) -> None:
        with contextlib.suppress(RuntimeError, ValueError):  # `check` reports it
            self._writer.close()

    def check(self, number: int) -> None:
        """Syncs the closed file and makes sure that all records are in it."""
        try:
            with open(self._path, "rb") as file:
                os.fsync(file.fileno())
            reader = self._module.ArrayRecordReader(str(self._path))
            written = reader.num_records()
            reader.close()
        except (RuntimeError, ValueError) as error:
            raise _unwritable(self._path.parent, error) from error
        if written != number:
            raise _unwritable(self._path.parent, "a file was cut short")


def _sync_folder(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(directory: Place) -> Iterator[None]:
    """Keeps a second process on this host out of the folder, without a lock file; an object store has no locks.

    Raises:
      UserError: another process is at work in it.
    """
    if isinstance(directory, StoreObject):
        yield
        return
    fresh = not directory.exists()
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process is generating into {directory}; wait for it or choose another folder.") from error
        except OSError:
            pass  # a file system without locks: shards are still whole or absent
        yield
    finally:
        os.close(descriptor)
        if fresh:
            with contextlib.suppress(OSError):  # not empty: the set stays
                directory.rmdir()
