"""What the images of a synthetic set are of: the task's classes, or others, that a stage may train on before the task's."""

from __future__ import annotations

from bridgejax.config import Settings, check_class_names
from bridgejax.errors import UserError, choices
from bridgejax.files import expanded
from bridgejax.models.label_names import order_of


def class_names_of(settings: Settings, task_names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the class names of a set by its `synthetic.class_names`, by label.

    Args:
      settings: of the set.
      task_names: the task's, which are taken where the set states none or the same ones.

    Raises:
      UserError: the names cannot be read, or are fewer than two; the key is named.
    """
    stated = settings.synthetic.class_names
    if not stated:
        return task_names
    names = _read(stated, settings.task.data_dir) if isinstance(stated, str) else check_class_names(stated)
    if len(names) < 2:
        raise UserError(f"synthetic.class_names={stated!r} has only one class ({names[0]!r}); images of at least two teach.")
    return task_names if order_of(names, task_names) is not None else names


def _read(source: str, data_dir: str | None) -> tuple[str, ...]:
    """Returns the class names of a file, a name a line, or of another task; those of the catalogue need no images."""
    from bridgejax.data import load_task
    from bridgejax.data.catalog import TASKS

    kind, _, place = source.partition(":")
    if kind == "file":
        try:
            lines = expanded(place).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(
                f"synthetic.class_names={source!r} cannot be read ({error}); give a UTF-8 text file with a name a line."
            ) from error
        return check_class_names(line.strip() for line in lines if line.strip())
    if kind == "task":
        if place not in TASKS:
            raise UserError(f"synthetic.class_names={source!r} is not a task of the catalogue; {choices(place, TASKS)}")
        return check_class_names(TASKS[place].class_names)
    return load_task(source, data_dir=data_dir).class_names
