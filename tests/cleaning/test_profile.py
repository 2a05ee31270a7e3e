"""Profiles: the built-in ones load, mistakes are named."""

import pytest

from recsys.cleaning.profile import Profile, load_profile
from recsys.config import save_config
from recsys.errors import ConfigError


@pytest.mark.parametrize("name", ["vectorworks", "visual_studio"])
def test_built_in_profiles_survive_saving(name, tmp_path):
    profile = load_profile(name)
    assert profile.name == name
    save_config(profile, tmp_path / "p.yaml")
    assert load_profile(tmp_path / "p.yaml") == profile


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'visual_studio'"):
        load_profile("visualstudio")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gap_minute": 30}, "did you mean 'gap_minutes'"),
        ({"gap_minutes": None}, "columns.session or gap_minutes"),
        ({"columns": {"time": "t", "message": "m"}}, "columns.user"),
        ({"undo": {"mode": "stack"}}, "undo_messages"),
        ({"categories": ["a"]}, "columns.category"),
        ({"times": []}, "times"),
        ({"times": [{"format": "%Y", "example": "2025", "zone": "Mars/Base"}]}, "no such time zone"),
        ({"times": [{"format": "%Y", "example": "2025", "pattern": "("}]}, "not a regular expression"),
        ({"times": [{"format": "%Y", "example": "2025", "pattern": "(?P<when>.*)"}]}, "group 'time'"),
    ],
)
def test_mistakes_are_one_line_that_names_them(change, message, tmp_path):
    path = tmp_path / "p.yaml"
    save_config(load_profile("visual_studio"), path)
    values = Profile.model_validate(load_profile(path)).model_dump(mode="json") | change
    import yaml

    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=message) as error:
        load_profile(path)
    assert "\n" not in str(error.value)


def test_a_run_configuration_is_told_from_a_profile(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("profile: vectorworks\nsplit: {seed: 1}\n")
    with pytest.raises(
        ConfigError, match=r"run.yaml: the configuration of a run, not a cleaning profile; give it as --c"
    ):
        load_profile(path)
