"""Adds the built-in profiles to the wheel; everything else about packaging stands in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithProfiles(build_py):
    """Copies configs/profiles/*.yaml to recsys/_profiles, so that an installed recsys finds them."""

    def run(self) -> None:
        """Build the packages, then add the profiles (an editable install reads them from the checkout)."""
        super().run()
        if self.editable_mode:
            return
        profiles = sorted(Path("configs/profiles").glob("*.yaml"))
        if not profiles:
            raise FileNotFoundError("configs/profiles/*.yaml is missing; build from a full checkout")
        target = Path(self.build_lib) / "recsys" / "_profiles"
        target.mkdir(parents=True, exist_ok=True)
        for profile in profiles:
            shutil.copyfile(profile, target / profile.name)


setup(cmdclass={"build_py": BuildWithProfiles})
