"""A typo must not become a default."""

import pytest

from holdfast.core.errors import UserError
from holdfast.pipeline import bundled_recipe, bundled_recipe_text, load_recipe, recipe_from_dict


@pytest.mark.parametrize("name", ["demo", "template"])
def test_bundled_recipes_are_valid(name):
    assert bundled_recipe(name).version == 1
    assert bundled_recipe_text(name).startswith("#")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"traning": {}}, "unknown key 'traning'; did you mean 'training'"),
        ({"training": {"step": 3}}, r"unknown key 'training\.step'; did you mean 'steps'"),
        ({"arms": [{"name": "a", "rul": "low"}]}, r"unknown key 'arms\.0\.rul'; did you mean 'rule'"),
        ({"training": {"steps": -1}}, r"training\.steps: .*greater than 0.*got -1"),
        ({"arms": [{"name": "a", "rule": "best"}]}, r"arms\.0\.rule.*got 'best'"),
        ({"arms": [{"name": "a"}, {"name": "a"}]}, "two have the same name"),
        ({"arms": [{"name": "a", "keep": 0.5}]}, r"keep=0\.5 without a rule"),
        ({"restore": [{"arm": "other"}]}, "arm 'other' is not one of"),
        ({"restore": [{"seeds": [7]}]}, r"seeds \[7\] are not among"),
        ({"version": 2}, "version"),
        ({"training": {"steps": True}}, r"training\.steps: yes and no are no value"),
        ({"adapter": {"rank": False}}, r"adapter\.rank: yes and no are no value"),
        ({"model": {"source": ""}}, r"model\.source: nothing is given"),
        ({"training": {"learning_rate": float("inf")}}, r"training\.learning_rate: .*finite"),
        ({"seed": -1}, "seed: .*greater than or equal to 0"),
        ({"audit": {"prompts": 1}}, r"audit\.prompts: .*2"),
        ({"training": {"trl": {"nope": 1}}}, r"recipe: training\.trl\.nope: SFTConfig has no such argument"),
    ],
)
def test_every_mistake_is_named(values, message):
    with pytest.raises(UserError, match=message):
        recipe_from_dict(values)


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(UserError, match="no such file; `holdfast init"):
        load_recipe(tmp_path / "none.yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text("a: [1\nb: 2")
    with pytest.raises(UserError, match=r"recipe\.yaml line 2: not YAML"):
        load_recipe(path)
    path.write_text("training:\n  steps: 10\n  steps: 20\n")
    with pytest.raises(UserError, match=r"recipe\.yaml line 3: not YAML \(the key 'steps' stands twice\)"):
        load_recipe(path)
    path.write_text("a: " + "[" * 5000)
    with pytest.raises(UserError, match="nested too deeply"):
        load_recipe(path)
    path.write_text("just words")
    with pytest.raises(UserError, match="holds no keys"):
        load_recipe(path)


def test_yaml_cannot_run_code(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: !!python/object/apply:os.system ['true']")
    with pytest.raises(UserError, match="not YAML"):
        load_recipe(path)


def test_equal_settings_have_equal_hashes_whatever_is_left_to_defaults():
    assert recipe_from_dict({}).hash == recipe_from_dict({"training": {"pool": 32}}).hash
    assert recipe_from_dict({}).hash != recipe_from_dict({"training": {"steps": 61}}).hash


def test_a_recipe_knows_every_rule_and_filter_that_selection_knows():
    from holdfast.selection import LOSS_FILTERS, RULES

    for rule in RULES:
        arm = {"name": "a", "rule": rule, "keep": 1.0}
        assert recipe_from_dict({"arms": [arm], "restore": []}).arms[0].rule == rule
    for loss_filter in LOSS_FILTERS:
        arm = {"name": "a", "rule": "low", "loss_filter": loss_filter}
        assert recipe_from_dict({"arms": [arm], "restore": []}).arms[0].loss_filter == loss_filter


@pytest.mark.parametrize(
    ("arm", "loss_filter", "selects"),
    [
        ({}, "none", False),
        ({"rule": "none"}, "none", False),
        ({"rule": "none", "loss_filter": "sigma"}, "sigma", True),
        ({"loss_filter": "quantile"}, "quantile", True),
        ({"rule": "moderate"}, "sigma", True),
        ({"rule": "random", "loss_filter": "none"}, "none", True),
    ],
)
def test_a_loss_filter_that_is_named_is_applied_without_a_rule_too(arm, loss_filter, selects):
    recipe = recipe_from_dict({"arms": [{"name": "a"} | arm], "restore": []})
    (found,) = recipe.arms
    assert (found.loss_filter, found.selects) == (loss_filter, selects)
    assert recipe_from_dict(recipe.to_dict()).arms == recipe.arms


def test_arms_of_ones_own_need_no_repair_that_nobody_asked_for():
    assert recipe_from_dict({"arms": [{"name": "gentle"}]}).restore == ()
    assert len(recipe_from_dict({"arms": [{"name": "plain"}]}).restore) == len(recipe_from_dict({}).restore) == 1
