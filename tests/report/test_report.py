"""The report: whole, self-contained, the same every time, safe with any name."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from bridgejax.config import default_config, to_plain
from bridgejax.errors import UserError
from bridgejax.report.config_text import config_file
from bridgejax.report.phrases import stall
from bridgejax.report.write import write_report

VOID = {"meta", "link", "img", "br", "wbr"}
NASTY = ('<script>alert("x")</script>', "a/b & c|d `e`", "ünïcode 鳥 'q'")


class Page(HTMLParser):
    """Checks that tags close in order, and keeps the tags and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text += f" {data} "


def examples(classes, kinds=("real", "synthetic"), size=8):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(classes), 2, size, size, 3)).astype(np.uint8)
    images[0, 1] = 255  # a class with one image only
    return {"class_names": np.asarray(classes), **{kind: images for kind in kinds}}


def config():
    return to_plain(default_config())


def test_report_is_whole_and_asks_for_nothing_from_outside(make_workdir):
    folder = make_workdir(config=config(), examples=examples(("bird", "fish", "road sign")), seconds={"generate": 83.0})
    assert write_report(folder) == folder / "report.html"
    text = (folder / "report.html").read_text()
    page = Page(text)
    for heading in ("Accuracy", "Paired differences", "Convergence", "Real and generated", "Confusion", "Cost", "Run it again"):
        assert heading in page.text
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "url(" not in text
    assert "@import" not in text
    assert all(attributes.get("alt") for tag, attributes in page.tags if tag == "img")
    assert all(attributes.get("aria-label") for tag, attributes in page.tags if tag == "svg")
    assert sum(tag == "img" for tag, _ in page.tags) == 10  # 3 classes × 2 kinds × 2, less the blanks
    assert "1\u202fmin 23\u202fs" in page.text
    assert "input stall" in page.text
    assert "input_stall" not in page.text
    shown = stall(json.loads((folder / "summary.json").read_text())["arms"]["mixed"]["seconds"])
    assert shown == "2\u202f%"
    assert shown in page.text
    assert shown in (folder / "report.md").read_text()
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "examples.npz",
        "report.html",
        "report.md",
        "results.jsonl",
        "seconds.json",
        "summary.json",
    ]


def test_the_same_workdir_gives_the_same_report(make_workdir):
    folder = make_workdir(config=config(), examples=examples(("bird", "fish", "road sign")))
    names = ("summary.json", "report.md", "report.html")
    write_report(folder)
    first = [(folder / name).read_bytes() for name in names]
    write_report(folder)
    assert [(folder / name).read_bytes() for name in names] == first


def test_every_accuracy_and_difference_shown_is_in_the_summary(make_workdir):
    folder = make_workdir()
    page = Page(write_report(folder).read_text())
    summary = json.loads((folder / "summary.json").read_text())
    numbers = set()

    def walk(value):
        if isinstance(value, dict):
            for item in value.values():
                walk(item)
        elif isinstance(value, list):
            for item in value:
                walk(item)
        elif isinstance(value, float):
            numbers.add(f"{100 * abs(value):.1f}")

    walk(summary)
    shown = re.findall(r"\d+\.\d\b", page.text.partition("Cost")[0])
    assert len(shown) > 20
    assert set(shown) <= numbers


@pytest.mark.parametrize(
    ("source", "metric"),
    [("task:pets", "mean per class"), ("tfds:food101:2.0.0", "top-1"), ("folder:/x/pets", None), ("tfds:mnist", None)],
)
def test_the_metric_of_the_papers_is_told(make_workdir, source, metric):
    folder = make_workdir(config={**config(), "task": {"source": source}})
    text = write_report(folder).read_text()
    assert ("papers report" in text) == (metric is not None)
    assert metric is None or f"papers report {metric}" in text


def test_a_pointer_shows_prompt_and_seed(make_workdir):
    sheet = examples(("bird", "fish", "road sign"))
    captions = np.asarray([[f"a photo of a <{name}> · seed {seed}" for seed in (1, 2)] for name in sheet["class_names"]])
    page = Page(write_report(make_workdir(examples={**sheet, "synthetic_captions": captions})).read_text())
    titles = [attributes["title"] for tag, attributes in page.tags if tag == "img" and attributes.get("title")]
    assert titles == [caption for caption in captions.reshape(-1) if caption != captions[0, 1]]  # less the blank


def test_accuracy_stands_against_the_price_of_a_run(make_workdir):
    folder = make_workdir(seconds={"generate": 60.0}, shots=(1, 4))
    page = Page(write_report(folder).read_text())
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"][-2:]
    for label in labels:  # a panel for each shot count; the control makes no images
        assert "vanilla_long: " in label
        costs = dict(re.findall(r"(\w+): [\d.]+\u202f% for (.+?)(?:;|$)", label))
        assert costs == {"vanilla_long": "4.8\u202fs", **dict.fromkeys(("mixed", "bridged_plus_plus"), "1\u202fmin 05\u202fs")}


def test_names_are_escaped(make_workdir):
    results_of = {"classes": NASTY, "seeds": 2}
    folder = make_workdir(config={**config(), "task": {"source": "folder:/x/<b>&y"}}, examples=examples(NASTY), **results_of)
    page = Page(write_report(folder).read_text())
    assert not any(tag == "script" for tag, _ in page.tags)
    for name in NASTY:
        assert name in page.text
    assert "<b>&y" in page.text
    markdown = (folder / "report.md").read_text()
    assert "<script>" not in markdown
    for block in re.findall(r"(?:^\|.*\n)+", markdown, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1


@pytest.mark.parametrize("count", [1, 40, 41, 200])
def test_any_number_of_classes(make_workdir, count):
    names = tuple(f"class {number}" for number in range(count))
    folder = make_workdir(classes=names, seeds=2, arms=("vanilla_long", "bridged"), examples=examples(names))
    page = Page(write_report(folder).read_text())
    assert ("Not drawn for" in page.text) == (count > 40)
    assert names[-1] in page.text


def test_one_seed_without_curves_and_with_real_images_only(make_workdir):
    folder = make_workdir(seeds=1, curves=False, examples=examples(("bird", "fish", "road sign"), kinds=("real",)))
    page = Page(write_report(folder).read_text())
    assert "no intervals" in page.text
    assert "Convergence" not in page.text
    assert "generated ones" not in page.text
    assert not re.search(r"\d to [+−]?\d", page.text.partition("What others found")[0])


def test_bare_results_are_enough(make_workdir):
    """Runs with nothing but arm, seed and the two accuracies."""
    metrics = ("test_accuracy", "test_mean_per_class_accuracy")
    runs = [{"arm": arm, "seed": seed, **dict.fromkeys(metrics, 0.1 * seed)} for arm in "ab" for seed in range(3)]
    page = Page(write_report(make_workdir(results=runs)).read_text())
    assert "The difference between b and a in mean per-class accuracy is not significant" in page.text
    assert "intervals over seeds." in page.text


def test_many_arms(make_workdir):
    arms = ("vanilla_long", *(f"arm{number}" for number in range(30)))
    page = Page(write_report(make_workdir(arms=arms, seeds=2)).read_text())
    assert "arm29" in page.text


def test_missing_results_name_the_command_to_run(tmp_path):
    with pytest.raises(UserError, match="bridgejax run --config"):
        write_report(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(("name", "content"), [("config.json", b"{"), ("seconds.json", b"{"), ("examples.npz", b"PK nonsense")])
def test_a_damaged_file_is_named_and_nothing_is_written(make_workdir, name, content):
    folder = make_workdir()
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        write_report(folder)
    assert not (folder / "report.html").exists()


def test_the_config_file_in_the_report_gives_the_config():
    changed = default_config()
    changed.task.shots = 4
    changed.task.source = "folder:/a 'quoted' \"path\""
    changed.arms = ("vanilla_long",)
    changed.prompts.variants["class-name with space"] = ("a", "b")
    changed.recipes["own-recipe"] = ({"data": "real", "steps": 3},)
    space: dict = {}
    exec(config_file(to_plain(changed)), space)
    assert to_plain(space["get_config"]()) == to_plain(changed)
