"""Images and annotations of a Label Studio. Only the host that the owner named is ever contacted."""

import base64
import binascii
import json
import time
from dataclasses import dataclass, field
from typing import Any

import requests

from onelook.errors import DataError, DownloadError
from onelook.server.settings import LabelStudioConfig

TIMEOUT = (5, 30)
"""Seconds to connect, and between parts of an answer."""
SECONDS = 60
"""Seconds for a whole answer."""
LARGEST = 64 * 2**20
"""Bytes of an image, or of the annotations of a project."""
REFRESH = 240
"""Seconds for which an access token is used; Label Studio's live for five minutes."""


@dataclass
class Host:
    """The Label Studio of the configuration."""

    config: LabelStudioConfig
    _access: tuple[float, str] = field(default=(-REFRESH, ""), init=False)

    def read_image(self, value: Any) -> bytes:
        """Bytes of an image that a task names: a data address, or a file of the Label Studio.

        Raises DataError for this image, DownloadError where the Label Studio does not answer at all.
        """
        if not isinstance(value, str):
            raise DataError("it is named by no text")
        if value.startswith("data:"):
            return _decode(value)
        return self._get(self._address(value))

    def export(self, project: int) -> Any:
        """All annotated tasks of a project, as Label Studio exports them. Raises DataError, DownloadError."""
        content = self._get(self._address(f"/api/projects/{project}/export?exportType=JSON"))
        try:
            return json.loads(content)
        except ValueError as error:
            raise DownloadError("Label Studio sent no JSON for the annotations of the project.") from error

    def _address(self, value: str) -> str:
        """Address of a file of this Label Studio. Raises DataError for one that lies elsewhere."""
        url = self.config.label_studio
        if url is None:
            raise DataError("images of a Label Studio need its address; start the server with --label-studio")
        origin = "/".join(url.split("/")[:3])
        if value.startswith("/") and not value.startswith("//"):
            value = origin + value
        if not value.startswith(f"{origin}/") or not value.isprintable() or "\\" in value:
            raise DataError(f"it does not lie on {origin}, which alone is asked for images")
        return value

    def _get(self, address: str) -> bytes:
        try:
            return self._receive(
                "GET", address, {"Authorization": self._authorise()} if self.config.label_studio_token else {}
            )
        except requests.RequestException as error:
            raise DownloadError(
                f"The Label Studio at {self.config.label_studio} does not answer ({type(error).__name__}); start it, "
                f"or give its address with --label-studio."
            ) from error

    def _authorise(self) -> str:
        token = self.config.label_studio_token or ""
        if token.count(".") != 2:
            return f"Token {token}"
        since, access = self._access
        if time.monotonic() - since > REFRESH:
            content = self._receive("POST", self._address("/api/token/refresh"), {}, {"refresh": token})
            access = str(json.loads(content).get("access", ""))
            self._access = (time.monotonic(), access)
        return f"Bearer {access}"

    def _receive(self, method: str, address: str, headers: dict[str, str], body: Any = None) -> bytes:
        """The answer to one request, without redirects, proxies or passwords of the environment."""
        deadline, parts, size = time.monotonic() + SECONDS, [], 0
        with requests.Session() as session:
            session.trust_env = False
            with session.request(
                method, address, headers=headers, json=body, timeout=TIMEOUT, allow_redirects=False, stream=True
            ) as answer:
                if answer.status_code != 200:
                    raise DataError(f"Label Studio answered with status {answer.status_code}")
                for part in answer.iter_content(2**16):
                    size += len(part)
                    if size > LARGEST or time.monotonic() > deadline:
                        raise DataError(f"it is larger than {LARGEST:,} bytes, or takes more than {SECONDS} s")
                    parts.append(part)
        return b"".join(parts)


def _decode(address: str) -> bytes:
    head, comma, content = address.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64") or len(content) > LARGEST:
        raise DataError("a data address must be an image in base64")
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise DataError("its base64 is damaged") from error
