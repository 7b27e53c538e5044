"""The file behind `--config`: a path, or the name of a recipe that ships with the package. Loads nothing heavy."""

from __future__ import annotations

from pathlib import Path

from cosphere.errors import SettingsError, did_you_mean

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe_file(name: str) -> Path:
    """A file of settings: the path of one, or the name of a recipe that ships with the package.

    Args:
        name: such as ``mine.yaml``, ``ssl/simclr-small`` or ``recipes/ssl/simclr-small.yaml``, in any folder.

    Raises:
        SettingsError: there is neither such a file nor such a recipe; the error names the nearest.
    """
    if Path(name).is_file():
        return Path(name)
    own = name.removeprefix("recipes/").removesuffix(".yaml")
    shipped = {f"{path.parent.name}/{path.stem}": path for path in sorted(RECIPES.glob("*/*.yaml"))}
    if own not in shipped:
        near, rooms = did_you_mean(own, shipped), sorted({recipe.split("/")[0] for recipe in shipped})
        if not near.startswith("Did"):  # the list of all takes a screen
            near = f"There are {len(shipped)} in {', '.join(rooms)}, such as sec/cub-triplet-sec."
        raise SettingsError(f"there is no recipe {name}. {near} Or give the path of a file.")
    return shipped[own]
