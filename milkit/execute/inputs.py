"""Whether a model reads what a study gives: covariates beside the bags, and several feature sets in an instance."""

from typing import Any

from milkit.data.study import Study
from milkit.errors import ConfigError
from milkit.models import ABMIL
from milkit.pixel import PixelModel


def check_inputs(model: Any, study: Study) -> None:
    """Refuse a model that would leave the study's covariates unread, or that waits for what the study does not give.

    Args:
        model: its configuration.
        study: the data.

    Raises:
        ConfigError: says what was found, what is expected, and what to write.
    """
    name = type(model).__name__
    _check_images(name, model, study)
    takes = bool(getattr(model, "takes_covariates", False))
    given = study.covariates
    if given is not None and not takes:
        can = "ABMIL(covariates='late') or ABMIL(covariates='concatenate')"
        raise ConfigError(
            f"{study.name!r} gives covariates ({', '.join(c.column for c in given.codings)}), but {name} as it is set "
            f"here does not read them. Take {can}, or leave covariates out of the data."
        )
    if takes and given is None:
        none = ", or set covariates='none' in the model" if isinstance(model, ABMIL) else ""
        raise ConfigError(
            f"{name} as it is set here reads covariates, but {study.name!r} gives none. Name columns of its table, "
            f"such as covariates=('age', 'sex'){none}."
        )
    _check_sets(name, tuple(getattr(model, "sets", ())), study)


def _check_images(name: str, model: Any, study: Study) -> None:
    reads = getattr(model, "reads", "images" if isinstance(model, PixelModel) else "bags")
    if reads == "images" and study.sizes is None:
        raise ConfigError(
            f"{name} reads images, pixel by pixel, but {study.name!r} holds bags of features. Give the experiment "
            "images (milkit.ImageCohort), or a model of bags such as ABMIL()."
        )
    smallest = getattr(model, "smallest_side", 1)
    if reads == "images" and study.sizes is not None and study.sizes.min() < smallest:
        small = str(study.bag[int(study.sizes.min(1).argmin())])
        raise ConfigError(
            f"{name} reads images of {smallest} pixels a side and more, but {small!r} has {int(study.sizes.min())}. "
            "Leave such images out, or take a model with fewer stages."
        )
    if study.pixel_truth is not None and not getattr(model, "learns_from_pixels", False):
        raise ConfigError(
            f"{study.name!r} hands out masks of pixels (pixel_masks=True), but {name} learns from image labels and "
            "would not look at them. Leave pixel_masks False, or take a supervised bound such as UNet.from_scratch()."
        )
    if reads != "images" and study.sizes is not None:
        raise ConfigError(
            f"{name} reads bags of features, but {study.name!r} holds images. Take a model of milkit.pixel, such as "
            "SAMIL(), or make features of the images' tiles first."
        )


def _check_sets(name: str, sets: tuple[int, ...], study: Study) -> None:
    if not sets:
        return
    known = tuple(int(s["width"]) for s in study.provenance.get("feature_sets") or ())
    if known and sets != known:
        which = ", ".join(f"{s['name']} {s['width']}" for s in study.provenance["feature_sets"])
        raise ConfigError(f"{name}(sets={sets}), but the sets of {study.name!r} are {which}; write sets={known}.")
    if sum(sets) != study.features:
        raise ConfigError(
            f"{name}(sets={sets}) adds up to {sum(sets)} features, but an instance of {study.name!r} has "
            f"{study.features}, and its files name no feature sets. Give widths that add up to {study.features}, or "
            "leave sets ()."
        )
