"""The finding and the figures of a summary, as text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from bridgejax.report.config_text import ConfigJson
from bridgejax.report.statistics import Estimate
from bridgejax.report.summary import Difference, Summary

SPACE = "\u202f"  # narrow, not broken at a line's end
FEW_SEEDS = 3


def percent(value: float | None) -> str:
    """0.743 → "74.3 %"."""
    return "–" if value is None else f"{100 * value:.1f}{SPACE}%"


def points(value: float | None, signed: bool = True) -> str:
    """A difference of fractions in percentage points: 0.031 → "+3.1"."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return text.replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


def interval(estimate: Estimate | None, form: Callable[[float], str] = points) -> str:
    """The interval of an estimate: "+1.0 to +5.2"; a dash with one seed."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return "–"
    return f"{form(estimate.low)} to {form(estimate.high)}"


def counted(number: float, noun: str) -> str:
    """1, "seed" → "1 seed"; 3, "seed" → "3 seeds"."""
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,.0f} {noun if number == 1 else plural}"


def duration(seconds: float | None) -> str:
    """Seconds as a reader wants them: "4.2 s", "3 min 05 s", "2 h 10 min"."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f}{SPACE}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}{SPACE}min {whole % 60:02d}{SPACE}s"
    return f"{whole // 3600}{SPACE}h {whole % 3600 // 60:02d}{SPACE}min"


def timed(summary: Summary) -> list[str]:
    """What the seconds of runs were spent on, in order; the input stall is a part of training."""
    names = dict.fromkeys(name for entry in summary.order for name in summary.arms[entry].seconds)
    return [name for name in names if name != "input_stall"]


def stall(seconds: Mapping[str, float | None]) -> str:
    """The share of training in which the loop waited for images: "3 %"; "–" where it was not measured."""
    train, waited = seconds.get("train"), seconds.get("input_stall")
    return "–" if not train or waited is None else f"{100 * waited / train:.0f}{SPACE}%"


def verdict(estimate: Estimate | None) -> str:
    """ "above", "below", "open" (the interval includes zero) or "single" (one seed: no interval)."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return "single"
    if estimate.low > 0:
        return "above"
    return "below" if estimate.high < 0 else "open"


def difference_sentence(summary: Summary, difference: Difference) -> str:
    """One difference as an honest sentence, with its setting first where the study has several."""
    first, second = summary.arms[difference.arm], summary.arms[difference.against]
    text = _sentence(difference.test_mean_per_class_accuracy, first.arm, second.arm)
    if not first.setting:
        return text
    start = "the" if text.startswith("The ") else text[:3]
    return f"With {first.setting}, {start}{text[3:]}"


def _sentence(estimate: Estimate | None, arm: str, against: str) -> str:
    name = "mean per-class accuracy"
    if estimate is None:
        return f"{arm} and {against} share no seed, so they cannot be compared."
    size = points(abs(estimate.mean), signed=False)
    side = "above" if estimate.mean > 0 else "below"
    if verdict(estimate) == "single":
        return (
            f"{arm} is {size} points {side} {against} in {name} in the one seed that both ran; "
            "one seed gives no interval, so this may be chance."
        )
    about = f"95{SPACE}% interval {interval(estimate)}, {counted(estimate.seeds, 'seed')}, paired"
    if verdict(estimate) == "open":
        difference = f"The difference between {arm} and {against} in {name}"
        return f"{difference} is not significant: {points(estimate.mean)} points ({about})."
    return f"{arm} is {size} points {side} {against} in {name} ({about})."


def baseline_differences(summary: Summary) -> list[Difference]:
    """The differences against the baseline, in the order of the arms."""
    return [each for each in summary.differences if summary.arms[each.against].arm == summary.baseline]


def finding(summary: Summary) -> str:
    """What the study found, in a paragraph: the sentences of `findings`."""
    return " ".join(findings(summary))


def findings(summary: Summary) -> list[str]:
    """What the study found: where synthetic images help, then each setting by itself, then what to bear in mind.

    The first sentence of a study of several settings says where an arm with synthetic images is above the baseline and where
    none is. The arm whose figures it gives is the focus, or, where that is nowhere above, the first in the config's order that
    is: no arm is picked for how far above it is.
    """
    compared = baseline_differences(summary)
    seeds = len(summary.seeds)
    if not compared:
        entry = summary.order[0]
        reached = summary.arms[entry].test_mean_per_class_accuracy
        text = f"{entry} reaches {percent(None if reached is None else reached.mean)} mean per-class accuracy."
        said = [f"{text} It is the only arm that ran, so there is nothing to compare it with."]
    else:
        lead = _lead(summary, compared)
        settings: dict[str, list[Difference]] = {}
        for each in compared:
            settings.setdefault(summary.arms[each.arm].setting, []).append(each)
        said = [_where_it_helps(summary, lead, settings)] if len(settings) > 1 and seeds > 1 else []
        said += [_setting_sentences(summary, lead, differences) for differences in settings.values()]
        if summary.baseline_asked != summary.baseline:
            stand_in = f"{summary.baseline}, the first arm, stands in for it"
            said.append(f"The control {summary.baseline_asked} was not run, so {stand_in}.")
    if seeds == 1:
        said.append("Run more seeds to tell a difference from chance." if compared else "One seed gives no interval.")
    elif seeds < FEW_SEEDS:
        said.append(f"With only {seeds} seeds the intervals are likely too narrow.")
    return said


def _helps(summary: Summary, difference: Difference) -> bool:
    """Whether an arm with synthetic images is above the baseline."""
    synthetic = summary.arms[difference.arm].per_class != 0
    return synthetic and verdict(difference.test_mean_per_class_accuracy) == "above"


def _lead(summary: Summary, compared: Sequence[Difference]) -> str:
    """The arm whose figures come first."""
    above = [summary.arms[each.arm].arm for each in compared if _helps(summary, each)]
    order = dict.fromkeys(summary.arms[entry].arm for entry in summary.order)
    return next((arm for arm in (summary.focus, *order) if arm in above), summary.focus)


def _where_it_helps(summary: Summary, lead: str, settings: Mapping[str, Sequence[Difference]]) -> str:
    helped = [words for words, differences in settings.items() if any(_helps(summary, each) for each in differences)]
    others = [words for words in settings if words not in helped]
    figures = []
    for number, differences in enumerate(settings.values()):
        each = next((each for each in differences if summary.arms[each.arm].arm == lead), None)
        estimate = None if each is None else each.test_mean_per_class_accuracy
        if estimate is not None:
            level = f"95{SPACE}% interval " if not number else ""
            figures.append(f"{points(estimate.mean)} points ({level}{interval(estimate)})")
    end = f"{lead} is at {_listed(figures)} against {summary.baseline} in mean per-class accuracy" if figures else ""
    if not helped:
        start = f"With {_listed(others)}, no arm with synthetic images is significantly above {summary.baseline}"
    else:
        start = f"Synthetic images help with {_listed(helped)}"
        start += f"; with {_listed(others)}, no arm with them is significantly better" if others else ""
    return f"{start}: {end}." if end else f"{start}."


def _setting_sentences(summary: Summary, lead: str, compared: Sequence[Difference]) -> str:
    main = [each for each in compared if summary.arms[each.arm].arm == lead]
    text = " ".join(difference_sentence(summary, each) for each in main)
    groups: dict[str, list[str]] = {"above": [], "below": [], "open": [], "single": []}
    for each in compared:
        if each not in main:
            groups[verdict(each.test_mean_per_class_accuracy)].append(summary.arms[each.arm].arm)
    parts: list[str] = []
    for side in ("above", "below"):
        if names := groups[side]:
            parts.append(f"{_listed(names)} {'is' if len(names) == 1 else 'are'} {side} it")
    if groups["open"]:
        parts.append(f"the difference is not significant for {_listed(groups['open'])}")
    others = f"Of the other arms against {summary.baseline}: {'; '.join(parts)}." if parts else ""
    return f"{text} {others}".strip()


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


# What tells recipes of one sequence of stages apart.
_DETAILS = (
    *("reset", "batch_norm", "length", "lr_scale", "early_stop", "synthetic_loss", "head", "trainable", "passes_of"),
    *("batch_statistics", "restart_schedule"),
)


def sets_of_other_classes(config: ConfigJson) -> set[str]:
    """Returns the names of a config's synthetic sets that state classes of their own."""
    stated = {"": config, **(config.get("synthetic_sets") or {})}
    return {name for name, groups in stated.items() if (groups.get("synthetic") or {}).get("class_names")}


def recipe_line(stages: object) -> str:
    """A recipe in a line: its `recipe_words`, and of each stage what else it states."""
    words = recipe_words(stages)
    stated = []
    for stage in stages if words and isinstance(stages, (list, tuple)) else ():
        told = (("reset", "head"), ("reset", "initial_head"), ("batch_norm", "frozen"), ("trainable", ["head"]))
        stated += [
            f"{key}={stage[key]}" for key in _DETAILS if key in stage and not any((key, stage[key]) == known for known in told)
        ]
    return f"{words} ({', '.join(dict.fromkeys(stated))})" if stated else words


def recipe_words(stages: object, others: Collection[str] = ()) -> str:
    """A recipe's stages in a few words: "synthetic with Mixup → new head → real"; empty if they cannot be read.

    `others` are the names of the synthetic sets that are of other classes than the task's.
    """
    if not isinstance(stages, (list, tuple)) or not all(isinstance(stage, Mapping) for stage in stages):
        return ""
    parts: list[str] = [] if stages else ["the classifier as it is"]
    for stage in stages:
        if stage.get("reset") == "head" and (parts or stage.get("trainable")):
            parts.append("new head")
        elif stage.get("reset") == "initial_head" and parts:
            parts.append("the head of the start")
        share = stage.get("synthetic_share")
        words = {"mixed": "real + synthetic"}.get(str(stage.get("data")), str(stage.get("data", "")))
        words += f" ({100 * share:.0f}{SPACE}% synthetic)" if share else ""
        elsewhere = stage.get("data") == "synthetic" and str(stage.get("synthetic_set", "")) in others
        words += " of other classes" if elsewhere else ""
        mixes = [name for key, name in (("mixup_alpha", "Mixup"), ("cutmix_alpha", "CutMix")) if stage.get(key)]
        words += f" with {' and '.join(mixes)}" if mixes else ""
        words += " with soft targets" if stage.get("loss") == "soft_target" else ""
        words += ", head alone" if list(stage.get("trainable", ())) == ["head"] else ""
        whole = stage.get("data") == "real" and str(stage.get("steps_of") or "[").find("[") < 0  # of all stages, not of one
        parts.append(words + (", longer" if whole and not stage.get("length") else ""))
    return " → ".join(parts)
