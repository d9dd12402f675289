"""Advice where few of the answers should be right: what would help most, more labels or a larger network."""

from onelook.artifacts import AUTO, PHOTOGRAPHS, SMALL
from onelook.backbones.hub import PREFIX, RECOMMENDED, how_to_get
from onelook.labelling.quality import Assessment

LOW = 0.8
"""Expected accuracy below which there is advice."""
LARGER = {
    SMALL: AUTO,
    "lite0": PHOTOGRAPHS,
    "lite2": PHOTOGRAPHS,
    PHOTOGRAPHS: RECOMMENDED,
    RECOMMENDED: f"{PREFIX}google/siglip-base-patch16-224",
}
"""A larger network that was better for photographs, by the network that is used; none is known for drawings."""


def advise(assessment: Assessment, network: str | None) -> str:
    """Say in one sentence what would help most; empty where the expected accuracy is not low, or nothing is known.

    network: name of the network that was used; None: the features were given.
    """
    now = assessment.estimate.accuracy.value
    if not now < LOW:
        return ""
    labels, larger = _advise_labels(assessment), _advise_network(network)
    # A network for photographs is worth more than any labels that a person would make for the small one (docs/log.md).
    parts = [part for part in ((larger, labels) if network == SMALL else (labels, larger)) if part]
    return f"What would help most: {'; then '.join(parts)}." if parts else ""


def _advise_labels(assessment: Assessment) -> str:
    """Twice as many labels, or as many as there are images for."""
    n_classes = len(assessment.class_names)
    a_class = min(max(1, round(assessment.n_labelled / n_classes)), (assessment.n_images - 1) // n_classes)
    if a_class < 1:
        return ""
    then = assessment.after(a_class * n_classes).value
    now = assessment.estimate.accuracy.value
    labels = "one more label" if a_class == 1 else f"{a_class:,} more labels"
    return f"{labels} of each class (expected accuracy {100 * then:.0f} % instead of {100 * now:.0f} %)"


def _advise_network(network: str | None) -> str:
    larger = LARGER.get(network or "")
    if larger is None:
        return ""
    get_it = how_to_get(larger.removeprefix(PREFIX)) if larger.startswith(PREFIX) else ""
    return f"a larger network, --network {larger}{get_it and f' ({get_it})'}"
