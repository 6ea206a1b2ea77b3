"""Configs: one schema, from which defaults, checks, overrides and the reference page are made."""

from __future__ import annotations

from bridgejax.config.checks import LEARNED_MODES, check_scorer
from bridgejax.config.config_dict import check_config, default_config, differences, flatten, set_config, to_plain
from bridgejax.config.file_pairs import scaled_files, word_files
from bridgejax.config.generator_options import loading_options
from bridgejax.config.loading import load_config
from bridgejax.config.names import PLACEHOLDER, check_class_names, check_phrases, check_templates, composed, nfc
from bridgejax.config.sections import (
    ClassifierSettings,
    ExecutorSettings,
    FilterSettings,
    GeneratorSettings,
    InversionSettings,
    PromptSettings,
    ReportSettings,
    StudySettings,
    SyntheticSettings,
    TaskSettings,
    TrainingSettings,
    TuningSettings,
)
from bridgejax.config.settings import Settings

__all__ = [
    "LEARNED_MODES",
    "PLACEHOLDER",
    "ClassifierSettings",
    "ExecutorSettings",
    "FilterSettings",
    "GeneratorSettings",
    "InversionSettings",
    "PromptSettings",
    "ReportSettings",
    "Settings",
    "StudySettings",
    "SyntheticSettings",
    "TaskSettings",
    "TrainingSettings",
    "TuningSettings",
    "check_class_names",
    "check_config",
    "check_phrases",
    "check_scorer",
    "check_templates",
    "composed",
    "default_config",
    "differences",
    "flatten",
    "load_config",
    "loading_options",
    "nfc",
    "scaled_files",
    "set_config",
    "to_plain",
    "word_files",
]
