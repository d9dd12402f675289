"""ML backend of Label Studio: predictions for its tasks, and learning from its annotations.

The protocol is that of github.com/HumanSignal/label-studio-ml-backend: /health, /setup, /predict, /webhook, /metrics
and /versions. Annotations are kept when the webhook brings them; the classifier of a project learns when predictions
are asked for and its annotations have changed. It lies beside the others, as label-studio-NUMBER.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.responses import Response

from onelook.data.embed import AVERAGE
from onelook.data.images import Rejected
from onelook.errors import DataError, quote_name
from onelook.estimators.classifier import FewShotClassifier
from onelook.events import Notice, Progress
from onelook.server.label_studio_config import Interface, parse_interface
from onelook.server.label_studio_host import Host
from onelook.server.label_studio_store import Annotation, AnnotationStore
from onelook.server.networks import Picture
from onelook.server.service import Service
from onelook.server.settings import LabelStudioConfig
from onelook.server.uploads import read_json
from onelook.server.work import Work

AT_ONCE = 50
"""Images that are fetched before their features are computed and kept."""
MOST_TASKS = 20_000
"""Tasks of one request."""
POOL = 10_000
"""Unlabelled tasks that a classifier learns from."""
NEARLY_ALL = 1.1
"""Growth of the number of tasks from which a classifier learns again, although no annotation has changed."""
DELETED = {"ANNOTATIONS_DELETED": "annotations", "ANNOTATION_DELETED": "annotation", "TASKS_DELETED": "tasks"}


class AnnotationBody(BaseModel):
    id: int
    result: list[Any] = []
    was_cancelled: bool | None = False


class TaskBody(BaseModel):
    id: int
    data: dict[str, Any] = {}
    annotations: list[AnnotationBody] = []


class PredictBody(BaseModel):
    tasks: Annotated[list[TaskBody], Field(max_length=MOST_TASKS)]
    project: str
    label_config: str


class SetupBody(BaseModel):
    project: str
    schema_: Annotated[str, Field(alias="schema")]


class ProjectBody(BaseModel):
    id: int
    label_config: str = ""


class WebhookBody(BaseModel):
    """An event; `annotation` and `task` are one or several, and what was deleted is named by its numbers."""

    action: str
    project: ProjectBody
    annotation: Any = None
    annotations: Any = None
    task: Any = None
    tasks: Any = None


@dataclass(frozen=True)
class Learnt:
    """A classifier of a project, and what it has learnt from."""

    labels: dict[int, str]
    """Classes of the annotated tasks."""
    classifier: FewShotClassifier
    row_of: dict[int, int]
    """Where the other tasks stand among its unlabelled rows."""

    def knows(self, labels: dict[int, str], n_tasks: int) -> bool:
        """Whether annotations are the same still, and nearly all tasks are among those that it knows."""
        n_known = len(self.labels) + len(self.row_of)
        return self.labels == labels and (n_tasks <= NEARLY_ALL * n_known or len(self.row_of) >= POOL)


@dataclass(frozen=True)
class Backend:
    """Projects of a Label Studio, and the classifiers that learn from them."""

    service: Service
    config: LabelStudioConfig
    host: Host = field(init=False)
    store: AnnotationStore = field(init=False)
    learnt: dict[int, Learnt] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "host", Host(self.config))
        object.__setattr__(self, "store", AnnotationStore(self.service.config.out / "label-studio.sqlite"))

    def routes(self) -> APIRouter:
        router = APIRouter(tags=["Label Studio"])

        @router.get("/health")
        async def health() -> Any:
            """Whether the server is up."""
            return {"status": "UP", "model_class": "Onelook"}

        @router.get("/metrics")
        async def metrics() -> Any:
            """Nothing is measured here."""
            return {}

        @router.get("/versions")
        async def versions() -> Any:
            """Versions follow the annotations, and none is kept."""
            return {"versions": []}

        for path, body, work, lane in (
            ("/setup", SetupBody, self.set_up, "changes"),
            ("/predict", PredictBody, self.predict, "images"),
            ("/webhook", WebhookBody, self.learn, "changes"),
        ):
            router.add_api_route(path, self._endpoint(body, work, lane), methods=["POST"], **_describe(body, work))
        return router

    def set_up(self, body: SetupBody) -> Work[dict[str, Any]]:
        """Check the labelling interface of a project, and tell the version of its classifier."""
        parse_interface(body.schema_)
        yield Progress("setting up", 1, 1)
        return {"model_version": self.store.version(_read_project(body.project))}

    def predict(self, body: PredictBody) -> Work[dict[str, Any]]:
        """Predict the class of each task, having learnt from all annotations so far."""
        project, interface = _read_project(body.project), parse_interface(body.label_config)
        known = self._keep(project, interface, body.tasks)
        return (yield from self._answer(project, interface, [task.id for task in body.tasks], known))

    def learn(self, body: WebhookBody) -> Work[dict[str, Any]]:
        """Take note of annotations. Whatever else happens in a project changes nothing."""
        project = body.project.id
        yield Progress("learning", 0, 1)
        if body.action in DELETED:
            self._forget(project, body)
        elif body.action == "START_TRAINING":
            yield from self._train(project, parse_interface(body.project.label_config))
        elif body.annotation is not None and body.task is not None:
            interface = parse_interface(body.project.label_config)
            notes, tasks = _validate(AnnotationBody, body.annotation), _validate(TaskBody, body.task)
            if len(notes) != len(tasks):
                raise HTTPException(422, "Each annotation needs its task.")
            pairs = zip(notes, tasks, strict=True)
            self._keep(project, interface, [task.model_copy(update={"annotations": [note]}) for note, task in pairs])
        return {"status": "ok", "model_version": self.store.version(project)}

    def _keep(self, project: int, interface: Interface, tasks: Sequence[TaskBody]) -> dict[int, Any]:
        """Keep the annotations of tasks, and return the image of each."""
        known = {task.id: task.data.get(interface.key) for task in tasks}
        found = [note for task in tasks for note in _read_annotations(task.annotations, task.id, interface)]
        self.store.save_annotations(project, found, _name_images(known))
        return known

    def _forget(self, project: int, body: WebhookBody) -> None:
        key = DELETED[body.action]
        ids = [one.id for one in _validate(TaskBody, getattr(body, key))]
        (self.store.delete_tasks if key == "tasks" else self.store.delete_annotations)(project, ids)

    def _train(self, project: int, interface: Interface) -> Work[None]:
        """Fetch all annotations of a project, so that those from before Onelook came count too."""
        yield Progress("fetching annotations", 0, 1)
        if self.config.label_studio is not None and self.config.label_studio_token is not None:
            tasks = _validate(TaskBody, self.host.export(project))
            self._keep(project, interface, tasks)

    def _answer(
        self, project: int, interface: Interface, tasks: Sequence[int], known: dict[int, Any]
    ) -> Work[dict[str, Any]]:
        networks = self.service.learning.networks
        identity = yield from networks.identify(networks.default, AVERAGE)
        labels = {task: label for task, label in self.store.labels(project).items() if label in interface.choices}
        yield from self._see(project, {**self.store.images(project, labels), **known}, identity)
        network = "/".join(identity.values())
        seen = self.store.seen(project, network)
        labels = {task: label for task, label in labels.items() if task in seen}
        if len(set(labels.values())) < 2:
            yield Notice("Two classes must be annotated before anything can be predicted.")
            return {"results": []}
        learnt = self.learnt.get(project)
        if learnt is None or not learnt.knows(labels, len(seen)):
            yield Progress("learning", 0, 1)
            learnt = self.learnt[project] = self._fit(project, labels, identity)
        made, row_of = learnt.classifier, learnt.row_of
        together = made.transduction_proba_
        features = self.store.features(
            project, network, [task for task in tasks if task in seen and task not in row_of]
        )
        version, results = self.store.version(project), list[dict[str, Any]]()
        for task in tasks:
            p = together[row_of[task]] if task in row_of else None
            if p is None and task in features:
                p = made.predict_proba(features[task][None])[0]
            result = [] if p is None else interface.make_result(str(made.classes_[p.argmax()]))
            results.append({"result": result, "score": 0.0 if p is None else float(p.max()), "model_version": version})
        return {"results": results}

    def _fit(self, project: int, labels: dict[int, str], identity: dict[str, str]) -> Learnt:
        """Learn from the annotated tasks and from those that are not, and keep the classifier."""
        features = self.store.features(project, "/".join(identity.values()))
        pool = [task for task in sorted(features) if task not in labels][:POOL]
        made = FewShotClassifier(features="network")
        x, y = np.stack([features[task] for task in labels]), np.array(list(labels.values()))
        made.fit(x, y, unlabeled=np.stack([features[task] for task in pool]) if pool else None)
        classifiers, name = self.service.learning.classifiers, f"label-studio-{project}"
        with classifiers.changing(name):
            classifiers.require_room(name, replace=True)
            classifiers.save(name, made, identity)
        return Learnt(labels, made, {task: i for i, task in enumerate(pool)})

    def _see(self, project: int, images: dict[int, Any], identity: dict[str, str]) -> Work[None]:
        """Compute the features of tasks that have none yet, and keep them as they come."""
        network = "/".join(identity.values())
        seen = self.store.seen(project, network)
        missing = [task for task in images if task not in seen]
        for start in range(0, len(missing), AT_ONCE):
            pictures: dict[int, Picture] = {}
            for task in missing[start : start + AT_ONCE]:
                try:
                    pictures[task] = Picture(str(task), self.host.read_image(images[task]))
                except DataError as error:
                    yield Rejected(f"task {task}", str(error))
            if pictures:
                try:
                    found = yield from self.service.learning.networks.embed(list(pictures.values()), identity)
                except DataError as error:
                    yield Notice(str(error))
                    continue
                order = list(pictures)
                rows = {order[place]: row for place, row in zip(found.rows, found.features, strict=True)}
                self.store.save_features(project, network, rows)
            yield Progress("seeing images", min(start + AT_ONCE, len(missing)), len(missing))

    def _endpoint(self, kind: type[BaseModel], work: Callable[[Any], Work[Any]], lane: str) -> Callable[..., Any]:
        async def answer(request: Request) -> Response:
            if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
                raise HTTPException(415, "Send JSON as application/json.")
            content = await request.body()

            def whole() -> Work[Any]:
                return (yield from work(read_json(kind, content)))

            return await self.service.answer(request, lane, whole(), 201 if kind is WebhookBody else 200)

        return answer


def _describe(body: type[BaseModel], work: Callable[..., Any]) -> dict[str, Any]:
    schema = {"content": {"application/json": {"schema": {"title": body.__name__, "type": "object"}}}}
    return {"description": work.__doc__, "openapi_extra": {"requestBody": schema}, "operation_id": work.__name__}


def _read_project(text: str) -> int:
    """Number of a project, which Label Studio gives with the time of its making: 12.1700000000."""
    number = text.partition(".")[0]
    if not number.isascii() or not number.isdigit() or len(number) > 15:
        raise HTTPException(422, f"A project is a number, but got {quote_name(text[:50])!r}.")
    return int(number)


def _read_annotations(found: Sequence[AnnotationBody], task: int, interface: Interface) -> list[Annotation]:
    return [Annotation(one.id, task, None if one.was_cancelled else interface.read_label(one.result)) for one in found]


def _name_images(images: dict[int, Any]) -> dict[int, str]:
    """Addresses of images; one that holds its image is named by a digest, as it is long."""
    named = {task: one for task, one in images.items() if isinstance(one, str)}
    return {
        task: f"sha256:{hashlib.sha256(one.encode()).hexdigest()}" if one.startswith("data:") else one
        for task, one in named.items()
    }


def _validate(kind: type[Any], found: Any) -> list[Any]:
    """One or several objects of a kind. Raises HTTPException (422)."""
    try:
        return [kind.model_validate(one) for one in (found if isinstance(found, list) else [found])]
    except ValidationError as error:
        raise HTTPException(422, f"Label Studio sent no {kind.__name__.removesuffix('Body').lower()}.") from error
