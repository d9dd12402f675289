"""moto's object store, too busy to answer while a file is there. Runs in the environment of moto, which has no Onelook.

python busy_moto.py PORT FILE
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BUSY = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'


def main(port: int, file: Path) -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    store = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not file.exists():
            return store(environ, start_response)  # type: ignore[no-any-return]
        start_response("503 Slow Down", [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))])
        return [BUSY]

    run_simple("127.0.0.1", port, answer, threaded=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
