"""Load on `onelook serve`: many clients that predict with features at once, for a minute.

    python benchmarks/service.py [--seconds 60] [--clients 32] [--json benchmarks/service.json]

The server is a process of its own, with a classifier of 20 classes, 5 examples each and 500 unlabelled rows of 1,280
features; the clients share another process on the same machine, keep their connections, and send one row at a time as
JSON or as .npz. The first seconds are not counted. Memory is that of the server before and after what is counted.
"""

import argparse
import asyncio
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import requests

from onelook.machine import commit, machine

N_CLASSES, N_EXAMPLES, N_UNLABELLED, SIZE = 20, 5, 500, 1280
WARM_UP = 5
"""Seconds that are not counted."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10, help="Seconds that are counted.")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--json", type=Path, help="File to write the records to.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-c",
            "from onelook.cli import main; main()",
            "serve",
            "--port",
            "0",
            "--out",
            folder,
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            url = process.stderr.readline().split()[1]
            rows = make_classifier(url)
            records = [
                measure(url, process.pid, kind, body, options.clients, options.seconds)
                for kind, body in bodies(rows[0]).items()
            ]
        finally:
            process.terminate()
            process.wait()
    print(json.dumps(records, indent=2))
    if options.json:
        options.json.write_text("[\n" + ",\n".join(json.dumps(one) for one in records) + "\n]\n")


def make_classifier(url: str) -> np.ndarray:
    """Fit the classifier; return the unlabelled rows."""
    draw = np.random.default_rng(0)
    means = draw.normal(size=(N_CLASSES, SIZE))
    rows = np.repeat(means, N_EXAMPLES, 0) + draw.normal(size=(N_CLASSES * N_EXAMPLES, SIZE))
    pool = means[draw.integers(0, N_CLASSES, N_UNLABELLED)] + draw.normal(size=(N_UNLABELLED, SIZE))
    labels = np.array([f"class {k:02d}" for k in range(N_CLASSES)]).repeat(N_EXAMPLES)
    content = npz(features=rows, labels=labels, unlabelled=pool)
    headers = {"Content-Type": "application/x-npz"}
    requests.post(f"{url}/v1/classifiers/load", content, headers=headers, timeout=300).raise_for_status()
    return pool


def bodies(row: np.ndarray) -> dict[str, bytes]:
    text = json.dumps({"features": [row.round(6).tolist()]}).encode()
    return {"application/json": text, "application/x-npz": npz(features=row[None].astype(np.float32))}


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def measure(url: str, pid: int, kind: str, body: bytes, clients: int, seconds: float) -> dict[str, Any]:
    host, port = re.fullmatch(r"http://([^:]+):(\d+)", url).groups()  # type: ignore[union-attr]
    head = f"POST /v1/classifiers/load/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    asyncio.run(load(host, int(port), request, clients, WARM_UP))
    before = resident(pid)
    started = time.monotonic()
    times, errors = asyncio.run(load(host, int(port), request, clients, seconds))
    elapsed = time.monotonic() - started
    return {
        "experiment": f"{clients} clients for {seconds:g} s, one row of {SIZE} features as {kind}",
        "requests": len(times),
        "errors": errors,
        "requests_per_second": round(len(times) / elapsed, 1),
        "p50_ms": round(1000 * float(np.quantile(times, 0.5)), 1),
        "p99_ms": round(1000 * float(np.quantile(times, 0.99)), 1),
        "longest_ms": round(1000 * max(times), 1),
        "memory_start_mb": before,
        "memory_end_mb": resident(pid),
        "command": "python benchmarks/service.py --seconds 60",
        "commit": commit(),
        "machine": machine(),
    }


async def load(host: str, port: int, request: bytes, clients: int, seconds: float) -> tuple[list[float], int]:
    """Seconds of each answer, and the number of answers that were none or not right."""
    deadline, times, errors = time.monotonic() + seconds, list[float](), 0

    async def client() -> None:
        nonlocal errors
        while time.monotonic() < deadline:
            try:
                reader, writer = await asyncio.open_connection(host, port)
                while time.monotonic() < deadline:
                    started = time.monotonic()
                    writer.write(request)
                    await writer.drain()
                    head = await reader.readuntil(b"\r\n\r\n")
                    size = re.search(rb"(?i)content-length: (\d+)", head)
                    answer = await reader.readexactly(int(size[1]) if size else 0)
                    times.append(time.monotonic() - started)
                    errors += not head.startswith(b"HTTP/1.1 200") or b'"label":"class ' not in answer
                writer.close()
                await writer.wait_closed()
            except (OSError, EOFError) as error:
                print(repr(error), file=sys.stderr)
                errors += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return times, errors


def resident(pid: int) -> float:
    """Resident memory of a process in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return round(int(status.split("VmRSS:")[1].split()[0]) / 1024, 1)


if __name__ == "__main__":
    main()
