"""Answers of people about images, as entries of a log, and the state that these tell."""

from dataclasses import dataclass, field
from typing import Any

from onelook.files import parse_json

CLEARED, NONE_OF_THESE = -1, -2
"""Labels that are no class: the image is to be labelled again, or it is of none of the classes."""
KINDS = ("unlabelled", "given", "confirmed", "corrected", "answered", "rejected", "checked")
"""Ways to a label: by folder or table; a person agreed with the prediction, corrected it, or answered without one; said
that it is none of the classes; looked at a label again and let it stand."""
LAST_ID = 2**15 - 1
"""Largest number of a class: labels have 16 bits."""


@dataclass(frozen=True)
class Image:
    """An image as an answer names it, with the kind of the answer (one of KINDS)."""

    name: str
    digest: str
    """SHA-256 of its file in hexadecimal; empty where there is no file."""
    kind: str = "answered"


@dataclass(frozen=True)
class Answer:
    """The last answer about an image."""

    image: Image
    label: int
    """Class id, CLEARED or NONE_OF_THESE."""
    who: str
    when: str
    """Time in UTC, by ISO 8601."""


@dataclass
class Reviewed:
    """The state after all entries that are not undone."""

    names: dict[int, str] = field(default_factory=dict)
    """Names of the classes by their id, in the order in which they came."""
    merged: dict[int, int] = field(default_factory=dict)
    """Classes that are part of another one now."""
    answers: dict[str, Answer] = field(default_factory=dict)
    """Answers by name of the image."""

    def class_of(self, label: int) -> int:
        """The class that a label means by now; CLEARED where its class is gone."""
        while label in self.merged:
            label = self.merged[label]
        return label if label in self.names or label == NONE_OF_THESE else CLEARED

    def labels(self) -> dict[str, str]:
        """Names of the classes by name of the image, where a person named one."""
        found = {name: self.class_of(answer.label) for name, answer in self.answers.items()}
        return {name: self.names[label] for name, label in found.items() if label in self.names}

    def apply(self, entry: "Entry") -> None:
        what = entry.content
        if "add" in what:
            self.names[what["add"]["id"]] = what["add"]["name"]
            self.merged.pop(what["add"]["id"], None)
        if entry.action == "rename" and what["id"] in self.names:
            self.names[what["id"]] = what["name"]
        elif entry.action == "merge" and {what["id"], what["into"]} <= self.names.keys() and what["id"] != what["into"]:
            self.merged[what["id"]] = what["into"]
            del self.names[what["id"]]
        elif entry.action == "answer":
            for name, digest, kind, *own in what["images"]:
                label = own[0] if own else what["label"]
                self.answers[name] = Answer(Image(name, digest, kind), label, entry.who, entry.when)


@dataclass(frozen=True)
class Entry:
    """A row of the log."""

    sequence: int
    when: str
    who: str
    action: str
    content: dict[str, Any]


def read_entry(sequence: int, when: Any, who: Any, action: Any, words: Any) -> Entry:
    """A row as an entry. Raises ValueError, KeyError or TypeError for one that no `AnswerLog` has written."""
    what = dict(parse_json(words))
    images, added = what.get("images", []), [what["add"]] if "add" in what else []
    ids = [what[key] for key in ("id", "into", "label") if key in what] + [one["id"] for one in added]
    texts = [when, who, action, *(one["name"] for one in (what, *added) if "name" in one)]
    texts += [part for image in images for part in image[:3]]
    ids += [image[3] if len(image) == 4 else what["label"] for image in images]
    are_ids = all(type(one) is int and NONE_OF_THESE <= one <= LAST_ID for one in ids)
    if not (are_ids and all(isinstance(one, str) for one in texts) and all(image[2] in KINDS for image in images)):
        raise ValueError(f"entry {sequence} is none")
    return Entry(sequence, when, who, action, what)
