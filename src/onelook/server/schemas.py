"""The shapes of what the service answers, for its OpenAPI page."""

from typing import Any

from pydantic import BaseModel


class Problem(BaseModel):
    """Why a request was not served, in a sentence."""

    error: str


class Unreadable(BaseModel):
    """An image that was left out."""

    name: str
    reason: str


class Answer(BaseModel):
    """The label of one row or image; `unknown` where it seems to be of no class."""

    index: int
    name: str
    label: str
    probability: float
    runner_up: str
    margin: float
    unknown: bool
    probabilities: dict[str, float] | None = None


class ClassCount(BaseModel):
    name: str
    n_examples: int


class Description(BaseModel):
    """A classifier."""

    name: str
    classes: list[ClassCount]
    n_examples: int
    n_unlabelled: int
    feature_size: int
    network: dict[str, str] | None
    guard: str


class Changed(Description):
    """A classifier that has learnt, and the images that could not be read."""

    rejected: list[Unreadable]


class Fitted(Changed):
    """A classifier that was made, and its answers for the unlabelled rows or images."""

    unlabelled: list[Answer]


class Predictions(BaseModel):
    predictions: list[Answer]
    rejected: list[Unreadable]


class Fraction(BaseModel):
    """A fraction with its interval of 95 %."""

    value: float
    low: float
    high: float


class Suggested(BaseModel):
    index: int
    name: str
    why: str


class Suggestions(BaseModel):
    """Rows or images to label next, and the accuracy to expect before and after."""

    suggestions: list[Suggested]
    expected_accuracy: Fraction
    expected_accuracy_then: Fraction
    rejected: list[Unreadable]


class Accuracy(BaseModel):
    """How accurate a classifier should be; the fields are those of `onelook label --json`."""

    expected_accuracy: Fraction
    inductive_accuracy: float
    n_changed: int
    classes: list[dict[str, Any]]
    confusion: list[list[float]]
    learning_curve: list[dict[str, Any]]
    with_more_labels: list[dict[str, Any]]


class Stored(BaseModel):
    """A file of the folder of classifiers."""

    name: str
    bytes: int
    changed: str


class Listed(BaseModel):
    classifiers: list[Stored]


class About(BaseModel):
    """Version of a server, and the networks that it knows."""

    version: str
    networks: list[str]
    default_network: str
