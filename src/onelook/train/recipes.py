"""Recipes: settings of meta-training that are known to work, and the way from the name of a method to a trained one."""

import contextlib
import json
from collections.abc import Generator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from onelook import backbones, methods
from onelook.artifacts import SHIPPED_METHODS, load, load_method, require_feature_size, with_settings
from onelook.backbones import Backbone
from onelook.data.sampler import TaskSampler, TaskSpec, Views
from onelook.errors import SettingsError, check_value, unknown_name
from onelook.files import digest, parse_json
from onelook.machine import seeded
from onelook.methods import ImageMethod, Method
from onelook.tasks import Embeddings
from onelook.train.episodes import MetaTrainConfig, MetaTraining
from onelook.train.loop import Event, train
from onelook.train.optimisation import Optimisation


@dataclass(frozen=True)
class Recipe:
    """How a method is meta-trained."""

    config: MetaTrainConfig
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings of methods that go with it, by the name of the method; those that are asked for stand above them."""


RECIPES: dict[str, Recipe] = {
    "published": Recipe(
        MetaTrainConfig(
            n_steps=40_000,
            validate_every=2000,
            optimisation=Optimisation("sgd", learning_rate=1e-3, weight_decay=5e-4, schedule="constant"),
        ),
        {"sib": {"step_size": 1e-3}},
    ),
    # Chosen on the validation tasks of CIFAR-FS: docs/log.md.
    "fast": Recipe(MetaTrainConfig(), {"sib": {"step_size": 0.01}}),
    # One method for one shot and five: what most methods learn is to compare, not to count.
    "joint": Recipe(
        MetaTrainConfig(
            n_steps=2000,
            shots=(1, 5),
            optimisation=Optimisation("adam", learning_rate=1e-3, weight_decay=0.0, schedule="one-cycle"),
        ),
        {"sib": {"step_size": 0.01}},
    ),
}

END_TO_END = MetaTrainConfig(
    n_steps=1500,
    tasks_per_step=4,
    shots=(1, 5),
    validate_every=250,
    n_validation_tasks=500,
    optimisation=Optimisation("adam", learning_rate=5e-4, weight_decay=0.0, schedule="one-cycle"),
)
"""Configuration for a method that is trained together with a pretrained backbone."""


@dataclass(frozen=True)
class MethodRequest:
    """A method as a person asks for it: a name with settings, or the file of a trained method."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    recipe: str = "fast"
    file: Path | None = None

    @property
    def label(self) -> str:
        plain = [f"{k}={v}" for k, v in self.settings.items()]
        if self.file:
            return ":".join([str(self.file), *plain])
        return ":".join([self.name, *plain, *([] if self.recipe == "fast" else [f"recipe={self.recipe}"])])


def parse_request(text: str) -> MethodRequest:
    """Read `name`, `name:setting=value:…:recipe=published`, or the path of a trained method, with settings too.

    >>> parse_request("sib:n_steps=5")
    MethodRequest(name='sib', settings={'n_steps': 5}, recipe='fast', file=None)
    """
    name, *pairs = text.split(":")
    if name not in methods.METHODS:
        if Path(text).is_file():
            return MethodRequest(text, file=Path(text))  # the last part alone is often "model" for all of them
        if pairs and Path(name).is_file():
            method, _ = load_method(Path(name))
            own = methods.find_name(method)
            request = MethodRequest(text, _settings(own, pairs, text), file=Path(name))
            with_settings(method, request.label, request.settings)
            return request
        if "/" in text or text.endswith(".safetensors"):
            raise SettingsError(f"There is no file {text}; give that of a trained method, or the name of one.")
        raise unknown_name("method", name, methods.METHODS)
    settings = _settings(name, pairs, text)
    recipe = settings.pop("recipe", "fast")
    if recipe not in RECIPES:
        raise unknown_name("recipe", recipe, RECIPES)
    request = MethodRequest(name, settings, recipe)
    build(request, TaskSpec())  # what cannot be built is refused before any work
    return request


def _settings(name: str, pairs: list[str], text: str) -> dict[str, Any]:
    """Settings of a method, and its recipe, as they stand after its name in `text`."""
    known = {*methods.list_settings(name)} - {"feature_size", "n_way", "n_classes", "backbone"} | {"recipe"}
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise SettingsError(f"{pair!r} in {text!r} is not a setting; write {name}:setting=value.")
        if key not in known:
            raise unknown_name(f"setting of {name}", key, known)
        settings[key] = value if key == "recipe" else _parse_value(name, key, value)
    return settings


def _parse_value(name: str, key: str, text: str) -> Any:
    """The value as the setting's annotation has it. Raises SettingsError where it is of another type or size."""
    value: Any = text
    with contextlib.suppress(ValueError):
        value = parse_json(text)
    annotation = methods.list_settings(name)[key]
    check_value(f"{key} of {name}", annotation, value)
    return float(value) if float in (annotation, *get_args(annotation)) else value


@dataclass(frozen=True)
class Ready:
    """A method that can be used, and how it came to be."""

    method: Method
    about: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    """Validations of the meta-training: step, loss, accuracy, ci95."""


@dataclass(frozen=True)
class Planned:
    """A meta-training in all that determines it. Its method is built once and goes through it."""

    request: MethodRequest
    method: Method
    config: MetaTrainConfig
    training: Embeddings
    validation: Embeddings
    identity: dict[str, Any]
    """JSON of everything that determines the result."""

    def folder(self, runs: Path) -> Path:
        """The folder of this training under `runs`; one that differs in anything that matters has another."""
        return runs / digest(json.dumps(self.identity, sort_keys=True).encode()).hex()[:16]

    def train(self, run: Path) -> Generator[Event, None, Path]:
        """Train in the folder `run`; returns the path of the trained method."""
        require_weights(self.request, self.method)
        for spec in self.config.specs:
            TaskSampler(self.validation, spec)  # too few validation classes are refused now, not after many steps
        objective = MetaTraining(self.method, self.training, self.validation, self.config)
        return (yield from train(objective, self.config.optimisation, self.identity, run))


def resolve(
    request: MethodRequest,
    spec: TaskSpec,
    training: Embeddings,
    validation: Embeddings,
    n_steps: int | None = None,
    method: Method | None = None,
) -> Planned:
    """Plan the training of a method by its recipe.

    method: what `build` makes of the request, where that was done already.
    """
    require_name(request)
    require_features(request)
    if method is None:
        method = build(request, spec, training.feature_size, len(training.class_names))
    method.prepare(training.features.to(method.device), training.labels.to(method.device))
    # The seed of the tasks is that of the first weights too (`build`), so it has to be in the identity.
    config = with_tasks(RECIPES[request.recipe].config, spec)
    config = config if n_steps is None else replace(config, n_steps=n_steps)
    identity = {
        "method": methods.find_name(method),
        "settings": method.settings(),
        **asdict(config),
        "trained_on": training.source,
        "features": features_digest(training, validation),
    }
    return Planned(request, method, config, training, validation, identity)


def ready(
    request: MethodRequest,
    spec: TaskSpec,
    feature_size: int,
    training: Embeddings | None,
    validation: Embeddings | None,
    runs: Path,
    n_steps: int | None = None,
    method: Method | None = None,
    device: str = "cpu",
) -> Generator[Event, None, Ready]:
    """The method for tasks of `spec`, meta-trained where it has something to learn.

    A training that was done before, of the same settings on the same features, is found again under `runs`.
    method: what `build` makes of the request, where that was done already. device: where it is trained and will be.
    """
    if is_trained(request):
        return _load(request, feature_size, device)
    require_features(request)
    if method is None:
        method = build(request, spec, feature_size, 1 if training is None else len(training.class_names))
    method.to(device)
    if not learns(method):
        return Ready(method.eval())
    if training is None or validation is None:
        if method.begins_trained:
            return Ready(method.eval())
        raise SettingsError(
            f"{request.label} has to learn from training classes, and there are none here; give a trained one "
            f"(--methods FILE, made by `onelook train`), or features to train on (--train-embeddings FILE)."
        )
    if not has_weights(method):
        method.prepare(training.features.to(device), training.labels.to(device))
        return Ready(method.eval())
    planned = resolve(request, spec, training, validation, n_steps, method)
    trained = load((yield from planned.train(planned.folder(runs))), "method")
    method.load_state_dict(trained.tensors)
    facts = {"recipe": request.recipe, "train_steps": planned.config.n_steps}
    return Ready(method.eval(), facts, trained.about["history"])


def is_trained(request: MethodRequest) -> bool:
    return request.file is not None or request.name in SHIPPED_METHODS


def _load(request: MethodRequest, feature_size: int, device: str) -> Ready:
    """The method of a file, or the one that is shipped."""
    file = request.file or SHIPPED_METHODS[request.name]
    method, about = load_method(file)
    if not isinstance(method, ImageMethod):
        require_feature_size(method, feature_size, str(file))
        method = with_settings(method, request.label, request.settings)
    config = about.get("config", {})
    facts = {"trained_on": config.get("trained_on", config.get("data", ""))} if request.file else {"weights": "shipped"}
    return Ready(method.to(device), facts)


def with_tasks(config: MetaTrainConfig, spec: TaskSpec) -> MetaTrainConfig:
    """The configuration for balanced tasks of these sizes; shots of its own stand above those of `spec`."""
    shot = config.shots[0] if config.shots else spec.n_shot
    return replace(config, tasks=replace(spec, n_shot=shot, protocol="balanced", n_total=None))


def has_weights(method: Method) -> bool:
    return any(True for _ in method.parameters())


def learns(method: Method) -> bool:
    """Whether the method takes something from training classes."""
    return has_weights(method) or method.needs_training_classes


def require_weights(request: MethodRequest, method: Method) -> None:
    """Raises SettingsError where there is nothing to train."""
    if not has_weights(method):
        raise SettingsError(f"{request.label} has nothing to learn; use it as it is.")


def require_name(request: MethodRequest) -> None:
    """Raises SettingsError for the file of a method that is trained already."""
    if request.file:
        raise SettingsError(f"{request.file} is trained already; give the name of a method.")


def require_features(request: MethodRequest) -> None:
    """Raises SettingsError for the name of a method of images, which are trained with their backbone."""
    if not request.file and "backbone" in methods.list_settings(request.name):
        label = request.label
        raise SettingsError(
            f"{label} trains its own feature network; run `onelook train --method {label}` first, and give its file."
        )


def build(
    request: MethodRequest, spec: TaskSpec, feature_size: int = 1, n_classes: int = 1, backbone: Backbone | None = None
) -> Method:
    """Build the untrained method. The same request gives the same first weights.

    n_classes: number of training classes, for methods with parameters for each of them.
    backbone: for a method that owns its backbone; None: a small one, to see whether the settings are possible.
    """
    known = methods.list_settings(request.name)
    given = {"feature_size": feature_size, "n_way": spec.n_way, "n_classes": n_classes}
    settings = RECIPES[request.recipe].settings.get(request.name, {}) | request.settings
    settings |= {key: value for key, value in given.items() if key in known}
    with seeded(spec.seed):
        if "backbone" in known:
            settings["backbone"] = backbone or backbones.create("conv4-64", image_size=16)
        return methods.create(request.name, **settings)


def features_digest(*sets: Views) -> str:
    """Identity of features, or images, and labels."""
    tensors = [tensor for embeddings in sets for tensor in (embeddings.views, embeddings.labels)]
    return digest(*(tensor.contiguous().numpy().data for tensor in tensors)).hex()[:16]
