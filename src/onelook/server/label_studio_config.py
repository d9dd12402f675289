"""Labelling interfaces of Label Studio that Onelook can answer for: one choice for each image."""

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from onelook.errors import DataError

LARGEST = 1_000_000
"""Characters of a labelling interface."""


@dataclass(frozen=True)
class Interface:
    """The one Choices tag of a labelling interface, and the image that it is about."""

    name: str
    """Name of the Choices tag."""
    image: str
    """Name of the Image tag."""
    key: str
    """Key of the image among the data of a task."""
    choices: tuple[str, ...]
    """Classes that may be chosen, as they stand in results."""

    def read_label(self, result: Iterable[Any]) -> str | None:
        """The class that a result chooses; None where it chooses none, or one that is no longer there."""
        for one in result:
            if isinstance(one, dict) and one.get("from_name") == self.name and one.get("type") == "choices":
                value = one.get("value")
                chosen = value.get("choices") if isinstance(value, dict) else None
                if isinstance(chosen, list) and len(chosen) == 1 and chosen[0] in self.choices:
                    return str(chosen[0])
        return None

    def make_result(self, label: str) -> list[dict[str, Any]]:
        value = {"choices": [label]}
        return [{"from_name": self.name, "to_name": self.image, "type": "choices", "value": value}]


def parse_interface(text: str) -> Interface:
    """Read a labelling interface. Raises DataError where it is none with one Choices tag for one image.

    >>> parse_interface('''<View><Image name="picture" value="$image"/>
    ... <Choices name="kind" toName="picture"><Choice value="cat"/><Choice value="dog" alias="d"/></Choices></View>''')
    Interface(name='kind', image='picture', key='image', choices=('cat', 'd'))
    """
    # A document type could define entities that grow without bound, or name files.
    if len(text) > LARGEST or "<!DOCTYPE" in text.upper() or "<!ENTITY" in text.upper():
        raise DataError("The labelling interface is too large, or has a document type; give one without.")
    try:
        root = ET.fromstring(text)
    except (ET.ParseError, ValueError) as error:
        raise DataError(f"The labelling interface is no XML ({error}).") from error
    found = [one for one in root.iter("Choices") if one.get("name") and one.get("toName")]
    if len(found) != 1:
        raise DataError(f"The labelling interface needs one Choices tag, but has {len(found)}.")
    (tag,) = found
    if tag.get("choice", "single-radio") == "multiple" or tag.get("perRegion") == "true":
        raise DataError(f"The Choices tag {tag.get('name')!r} must allow one choice for the whole image.")
    images = [one for one in root.iter("Image") if one.get("name") == tag.get("toName")]
    key = images[0].get("value", "") if images else ""
    if not key.startswith("$") or not key[1:]:
        raise DataError(f"The Choices tag {tag.get('name')!r} must be about an Image tag whose value is $ and a name.")
    choices = tuple(one.get("alias") or one.get("value") or "" for one in tag.iter("Choice"))
    if len(set(choices) - {""}) < 2:
        raise DataError(f"The Choices tag {tag.get('name')!r} needs two choices at least that stand in the interface.")
    return Interface(tag.get("name", ""), tag.get("toName", ""), key[1:], choices)
