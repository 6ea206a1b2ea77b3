"""Configs: every mistake is one sentence that names the key."""

from __future__ import annotations

import re
import textwrap

import pytest

from bridgejax.config import Settings, default_config, differences, load_config, set_config, to_plain
from bridgejax.errors import UserError


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "config.py"

    def write(body: str = "pass"):
        lines = textwrap.indent(textwrap.dedent(body), "    ")
        head = "from bridgejax.config import default_config\ndef get_config(arg=None):\n    config = default_config()\n"
        file.write_text(f"{head}{lines}\n    return config\n")
        return str(file)

    return write


def test_overrides_take_the_type_of_the_default(config_file):
    overrides = [
        ("generator.steps", "7"),
        ("generator.guidance_scale", "2"),
        ("task.shots", "4"),
        ("task.source", "folder:/some/where"),
        ("prompts.template", "('a {}', 'the {}')"),
        ("arms", "vanilla,bridged"),
        ("generator.height", "32"),
        ("mesh", "(('data', 2), ('model', -1))"),
    ]
    config = load_config(config_file(), overrides)
    assert config.generator.steps == 7
    assert isinstance(config.generator.guidance_scale, float)
    assert config.task.shots == 4
    assert config.prompts.template == ("a {}", "the {}")
    assert config.arms == ("vanilla", "bridged")
    assert config.generator.height == 32
    assert config.mesh == (("data", 2), ("model", -1))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("generator.stepz", "3", "did you mean 'generator.steps'"),
        ("sead", "3", "did you mean 'seed'"),
        ("generator", "3", "group of keys"),
        ("generator.steps", "many", "generator.steps"),
        ("generator.steps", "0", "generator.steps"),
        ("generator.steps", "2.5", "generator.steps"),
        ("task.shots", "0", "task.shots"),
        ("task.shots", "few", "task.shots"),
        ("generator.scheduler", "eulr", "did you mean 'euler'"),
        ("generator.height", "30", "multiple of 8"),
        ("classifier.crop", "2", "classifier.crop"),
        ("classifier.crop", "wide", "classifier.crop"),
        ("arms", "vanila", "did you mean 'vanilla'"),
        ("arms", "vanilla,vanilla", "twice"),
        ("prompts.template", "a photo", "no {}"),
        ("training.learning_rate", "nan", "learning_rate"),
        ("mesh", "data", "mesh"),
        ("mesh", "(('data','x'),)", "at most one of them -1"),
        ("mesh", "(('date',1),)", "did you mean 'data'"),
        ("mesh_rules", "5", "mesh_rules holds 5"),
        ("study.parallel_seeds", "some", "a whole number of at least 1 or 'auto'"),
        ("study.shots", "0,1", "study.shots"),
        ("study.baseline", "vanila_long", "did you mean 'vanilla_long'"),
        ("prompts.variants.bird", "('robin', '')", "give non-empty phrases"),
        ("synthetic_sets", "{}", "--config.synthetic_sets.NAME=VALUE"),
        ("prompts.negative", "None", "prompts.negative is None; it should be a text."),
        ("training.checkpoint_seconds", "-1", "training.checkpoint_seconds is -1"),
        (
            "training.dtype",
            "bfloat",
            "training.dtype is 'bfloat'; did you mean 'bfloat16'? It can be 'float32' or 'bfloat16'.",
        ),
        ("training.dtype", "float16", "training.dtype is 'float16'"),
        ("training.remat", "1", "training.remat is 1; it should be True or False."),
        ("tuning.lengths", "[[1]]", "tuning.lengths"),
    ],
)
def test_a_wrong_override_is_named(config_file, key, value, told):
    with pytest.raises(UserError) as error:
        load_config(config_file(), [(key, value)])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("config.generator.stepz = 3", "steps"),
        ("config.generator.steps = 'x'", "line 4"),
        ("return 3", "ConfigDict"),
        ("1 / 0", "line 4"),
    ],
)
def test_a_wrong_config_file_is_told_with_its_line(config_file, body, told):
    with pytest.raises(UserError, match=told):
        load_config(config_file(body))


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("config.task.shot = 2", "task.shot is not a key of the config; did you mean 'task.shots'"),
        ("config.update({'task': {'shot': 2}})", "task.shot is not a key of the config; did you mean 'task.shots'"),
        ("print(config.tasc.shots)", "tasc is not a key of the config; did you mean 'task'"),
        ("config.generator.steps = 'x'", "generator.steps is 'x'; it should be a whole number of at least 1."),
        ("import sys; sys.exit(3)", "it calls sys.exit(3)"),
        ("1 / 0", "division by zero"),
    ],
)
def test_a_relative_config_file_is_told_with_its_line_in_our_words(config_file, tmp_path, monkeypatch, body, told):
    config_file(body)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        load_config("config.py")
    assert str(error.value).startswith(f"config file config.py, line 4: {told}")
    assert "object at" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("config.task.class_names = 5", "line 4: task.class_names is 5; it should be a list of texts."),
        ("config.task.class_names = 'cat'", "line 4: task.class_names is 'cat'; it should be a list of texts."),
        ("config.task.class_names = ('cat', 3)", "task.class_names is ('cat', 3)"),
        ("config.task.source = None", "task.source is None; it should be a text."),
        ("config.task = None", "task is None; it should be a group of keys"),
        ("config.study.shots = None", "study.shots is None; it should be a list of whole numbers of at least 1 or None."),
        ("config.prompts.variants.bird = 5", "prompts.variants.bird is 5; it should be a list of texts."),
        ("config.prompts.variants.bird = 'robin'", "prompts.variants.bird is 'robin'; it should be a list of texts."),
        ("config.inversion.flip = None", "inversion.flip is None; it should be True or False."),
    ],
)
def test_a_value_of_another_kind_is_named(config_file, body, told):
    with pytest.raises(UserError, match=re.escape(told)):
        load_config(config_file(body))


def test_a_number_where_a_text_is_meant_is_taken_as_written(config_file):
    config = load_config(config_file(), [("task.data_dir", "5"), ("training.tuned", "1e3"), ("generator.vae", "None")])
    assert (config.task.data_dir, config.training.tuned, config.generator.vae) == ("5", "1e3", None)


def test_an_axis_that_a_rule_names_and_a_baseline_that_is_no_arm_are_fine(config_file):
    overrides = [
        ("mesh", "(('data', -1), ('experts', 1))"),
        ("mesh_rules", "(('to_q', (None, ('model', 'experts'))),)"),
        ("study.baseline", "vanilla_epochs"),
    ]
    assert load_config(config_file(), overrides).study.baseline == "vanilla_epochs"


def test_a_missing_config_file_is_told(tmp_path):
    with pytest.raises(UserError, match="was not found"):
        load_config(str(tmp_path / "none.py"))


def test_a_config_takes_an_argument(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(
        "from bridgejax.config import default_config\ndef get_config(arg=None):\n"
        "    config = default_config()\n    config.task.shots = int(arg)\n    return config\n"
    )
    assert load_config(f"{file}:3").task.shots == 3


def test_a_config_may_add_a_recipe_of_its_own(config_file):
    body = "config.recipes.mine = ({'data': 'real'},)\nconfig.arms = ('mine', 'vanilla')"
    assert load_config(config_file(body)).arms == ("mine", "vanilla")


def test_only_what_decides_results_counts_as_another_config():
    old, new = to_plain(default_config()), to_plain(default_config())
    new["mesh"], new["arms"], new["study"]["seeds"] = [["data", 4]], ["vanilla"], 9
    assert differences(old, new) == []
    new["generator"]["steps"] = 3
    assert differences(old, new) == ["generator.steps: 50 → 3"]


def test_a_workdir_from_before_a_key_goes_on_with_its_default():
    old, new = to_plain(default_config()), to_plain(default_config())
    del old["generator"]["loras"]
    assert differences(old, new) == []
    new["generator"]["loras"] = [["style.safetensors", 0.5]]
    assert differences(old, new) == ["generator.loras: [] → [['style.safetensors', 0.5]]"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"prompts": {"templat": "a {}"}}', "did you mean 'prompts.template'"),
        ('{"training": {"batch_size": 4}}', "synthetic_sets.other.training.batch_size"),
        ('{"generator": {"steps": 0}}', "synthetic_sets.other.generator.steps is 0"),
        ('{"inversion": {"mode": "class", "prompt": "a {class}"}}', "in synthetic_sets.other: inversion.prompt"),
        ('"a {}"', "groups of keys"),
    ],
)
def test_a_synthetic_set_changes_only_what_makes_images(config_file, line, told):
    with pytest.raises(UserError, match=re.escape(told)):
        load_config(config_file(f"config.synthetic_sets.other = {line}"))


def test_a_synthetic_set_is_the_config_but_for_its_changes(config_file):
    config = load_config(config_file('config.synthetic_sets.other = {"prompts": {"template": ("a {}", "my {}")}}'))
    other = set_config(config, "other")
    assert other.prompts.template == ("a {}", "my {}")
    assert other.generator == config.generator
    assert config.prompts.template == "a photo of a {}"
    with pytest.raises(UserError, match="did you mean 'other'"):
        set_config(config, "othr")


def test_a_workdir_goes_on_with_recomputed_blocks_but_not_in_another_dtype():
    old, new = default_config(), default_config()
    new.training.remat = True
    assert differences(to_plain(old), to_plain(new)) == []
    new.training.dtype = "bfloat16"
    assert differences(to_plain(old), to_plain(new)) == ["training.dtype: 'float32' → 'bfloat16'"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("config.recipes.mine = ({'data': 'real', 'steps_of': 'bridgd'},)", "recipes.mine[0].steps_of names 'bridgd'"),
        ("config.recipes.mine = ({'optimizer': 'adam'},)", "did you mean 'adamw'? It can be 'sgd' or 'adamw'."),
        ("config.recipes.mine = ({'data': 'synthetic', 'synthetic_set': 'othr'},)", "which is not in synthetic_sets"),
        ("config.recipes.mine = ({'data': 'real', 'rate_factor': 0.1},)", "'rate_factor', which is now called 'lr_scale'"),
        ("config.recipes.mine = ({'early_stop_looks': 3},)", "which is now called 'early_stop_checks'"),
        ("config.training.optimizer = 'adam'", "training.optimizer is 'adam'; did you mean 'adamw'?"),
        ("config.training.momentum = 1.0", "training.momentum is 1.0"),
        ("config.task.source = 'classes'", "set task.class_names"),
        ("config.task.source = 'classes'\nconfig.task.class_names = ('a', 'b')\nconfig.inversion.mode = 'class'", "has none"),
    ],
)
def test_what_a_config_names_is_looked_up_when_it_loads(config_file, body, told):
    with pytest.raises(UserError, match=re.escape(told)):
        load_config(config_file(body))


def test_a_recipe_of_the_library_that_no_arm_uses_may_not_fit_a_changed_one(config_file):
    body = "config.recipes.bridged = ({'data': 'synthetic'},)"  # real_real follows its second stage
    assert load_config(config_file(body)).arms
    with pytest.raises(UserError, match="1 stages, counted from 0"):
        load_config(config_file(body), [("arms", "real_real")])


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("task.class_names", "apple,cup", ("apple", "cup")),
        ("task.class_names", "1, 2", ("1", "2")),
        ("task.class_names", "('a, b', 'c')", ("a, b", "c")),
        ("study.shots", "1", (1,)),
        ("study.shots", "1,None", (1, None)),
        ("training.learning_rate", "1", 1.0),
        ("prompts.template", "{} on white", "{} on white"),
        ("prompts.variants.bird", "robin,owl", ("robin", "owl")),
        ("generator.loras", "a.safetensors:0.5,b.safetensors", ("a.safetensors:0.5", "b.safetensors")),
        ("inversion.longest", "2", 2),
        ("generator.scheduler", "None", None),
    ],
)
def test_a_text_is_read_as_the_type_of_its_key(config_file, key, text, value):
    config = load_config(config_file(), [(key, text)])
    for part in key.split("."):
        config = config[part]
    assert (config, type(config)) == (value, type(value))


def test_settings_are_the_config_with_types(config_file):
    config = load_config(config_file('config.synthetic_sets.other = {"generator": {"steps": 3}}'), [("mesh", "[('data', 2)]")])
    settings = Settings.of(config)
    assert settings.mesh == (("data", 2),)
    assert settings.generator.steps == 50
    assert settings.of_set("other").generator.steps == set_config(config, "other").generator.steps == 3
    assert [stage.data for stage in settings.recipe("bridged").stages] == ["synthetic", "real"]


def test_variants_of_a_set_are_added_to_those_of_the_config(config_file):
    added = 'config.synthetic_sets.other = {"prompts": {"variants": {"cat": ("tabby",)}}}'
    config = load_config(config_file(f'config.prompts.variants.bird = ("robin",)\n{added}'))
    expected = {"bird": ("robin",), "cat": ("tabby",)}
    assert set_config(config, "other").prompts.variants.to_dict() == expected
    assert Settings.of(config).of_set("other").prompts.variants == expected


def test_a_number_written_otherwise_is_no_difference():
    old, new = to_plain(default_config()), to_plain(default_config())
    old["inversion"]["longest"], new["inversion"]["longest"] = 1, 1.0
    assert differences(old, new) == []
