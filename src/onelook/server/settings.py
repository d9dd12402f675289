"""Settings of a server: where it listens, to whom, and how much it takes. No package of an extra is needed here."""

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from onelook.artifacts import PHOTOGRAPHS
from onelook.errors import Bound, Checked, PositiveFloat, PositiveInt, SettingsError
from onelook.files import place_run


@dataclass(frozen=True)
class Listening(Checked):
    """Where a server listens, the names that it answers to, and the token that it asks for."""

    host: str = "127.0.0.1"
    """Address to listen on; any but one of this machine alone needs a token."""
    port: Annotated[int, Bound(">=", 0), Bound("<=", 65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    token: str | None = field(default_factory=lambda: os.environ.get("ONELOOK_TOKEN"))
    """Secret of 16 characters or more that clients send. Default: $ONELOOK_TOKEN, or none."""
    also_names: tuple[str, ...] = ()
    """Further name of this machine that clients may use, such as that of a proxy; may be given again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token is not None and not re.fullmatch(r"[!-~]{16,256}", self.token):
            raise SettingsError("A token must have 16 to 256 characters of ASCII without spaces; make another one.")
        if not self.is_local and self.token is None:
            raise SettingsError(
                f"Others than this machine can connect to {self.host}, so that a token is needed; give one with "
                f"--token, or listen on 127.0.0.1."
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can connect."""
        return self.host == "localhost" or _is_loopback(self.host)

    def knows_host(self, header: str) -> bool:
        """Whether a Host header names this server: a known name, or an address, which no other site can take."""
        host = split_host(header)
        if host is None:
            return False
        if _is_loopback(host) or host in {"localhost", self.host.lower(), *(name.lower() for name in self.also_names)}:
            return True
        return not self.is_local and _is_address(host)


@dataclass(frozen=True)
class Limits(Checked):
    """Bounds on what clients may ask for at once."""

    body: PositiveInt = 64 * 2**20
    """Largest body of a request, in bytes."""
    bodies: PositiveInt = 512 * 2**20
    """Largest sum of the bodies of the requests under way, in bytes."""
    requests: PositiveInt = 128
    """Requests under way at once."""
    send_seconds: PositiveFloat = 60.0
    """Seconds in which a client must have sent its whole request, or have taken a part of the answer."""


@dataclass(frozen=True)
class ServeConfig(Checked):
    """Folder, network and threads of the service."""

    out: Annotated[Path, place_run()] = Path("onelook-classifiers")
    """Folder of classifiers: files of `onelook label --save`, and those that are made here."""
    network: str = PHOTOGRAPHS
    """Feature network of images; others than it and those that come along are refused."""
    offline: bool = False
    """Download nothing."""
    threads: PositiveInt = 2
    """Requests that are worked on at once."""
    waiting: PositiveInt = 128
    """Requests that may wait or be under way."""
    seconds: PositiveInt = 300
    """Time after which a request is given up."""


@dataclass(frozen=True)
class LabelStudioConfig(Checked):
    """The Label Studio that the service is a backend of, if any."""

    label_studio: str | None = field(default_factory=lambda: os.environ.get("LABEL_STUDIO_URL"))
    """Address of a Label Studio, the only host that images are fetched from. Default: $LABEL_STUDIO_URL."""
    label_studio_token: str | None = field(default_factory=lambda: os.environ.get("LABEL_STUDIO_API_KEY"))
    """Access token of that Label Studio. Default: $LABEL_STUDIO_API_KEY."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_studio is not None and not re.fullmatch(
            r"https?://[0-9A-Za-z._:\[\]-]+(/\S*)?", self.label_studio
        ):
            raise SettingsError(
                f"A Label Studio has an address such as http://localhost:8080, but got {self.label_studio!r}."
            )


def split_host(header: str) -> str | None:
    """Name or address in a Host header, in small letters and without its port; None where it is no such header.

    >>> split_host("LocalHost:8000"), split_host("[::1]:80"), split_host("a@b"), split_host("")
    ('localhost', '::1', None, None)
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+))(?::[0-9]{1,5})?", header)
    return (found[1] or found[2]).lower() if found else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_loopback
