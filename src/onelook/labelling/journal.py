"""The journal of sorting images: the plan, and then a line before and after each operation."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onelook.errors import ArtifactError
from onelook.labelling.plan import Plan, Step


@dataclass
class Journal:
    """An append-only file of JSON lines: it is made for a stop in the middle of a line, so no file takes its place."""

    path: Path
    plan: Plan | None = None
    begun: dict[int, Path] = field(default_factory=dict)
    done: dict[int, str] = field(default_factory=dict)
    """From a step to the SHA-256 of its copy."""
    failed: dict[int, str] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    undoing: bool = False

    def read(self) -> "Journal":
        """What is there; a last line without its end was never acted upon."""
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
            for line in content.split(b"\n")[:-1]:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError("a line without names")
                self._take(entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{self.path} is not a journal of sorted images ({error}); give another.") from error
        except OSError as error:
            raise ArtifactError(f"{self.path} cannot be read ({error.strerror}); give another journal.") from error
        return self

    def _take(self, entry: dict[str, Any]) -> None:
        match entry:
            case {"plan": plan}:
                steps = tuple(Step(**step) for step in plan["steps"])
                self.plan = Plan(plan["mode"], plan["target"], str(self.path), steps)
            case {"folder": folder}:
                self.folders.append(Path(folder))
            case {"begin": step, "target": target}:
                self.begun[step] = Path(target)
            case {"done": step, "sha256": digest}:
                self.done[step] = digest
            case {"failed": step, "reason": reason}:
                self.failed[step] = reason
            case {"undo": _}:
                self.undoing = True
            case _:
                raise KeyError(f"an unknown line {sorted(entry)}")

    def write(self, entry: dict[str, Any]) -> None:
        self._take(entry)
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            # A line that a stop cut short is written over.
            end = os.lseek(handle, 0, os.SEEK_END)
            os.ftruncate(handle, self._whole(handle, end))
            os.lseek(handle, 0, os.SEEK_END)
            line = memoryview((json.dumps(entry) + "\n").encode())
            while line:
                line = line[os.write(handle, line) :]
            os.fsync(handle)
        finally:
            os.close(handle)

    @staticmethod
    def _whole(handle: int, end: int) -> int:
        """The length without a last line that has no end."""
        while end:
            start = max(0, end - 65536)
            os.lseek(handle, start, os.SEEK_SET)
            cut = os.read(handle, end - start).rfind(b"\n")
            if cut >= 0:
                return start + cut + 1
            end = start
        return 0


def read_plan(journal: Path) -> Plan:
    """The plan of a journal, to be carried out to its end or undone. Raises ArtifactError."""
    plan = Journal(journal).read().plan
    if plan is None:
        raise ArtifactError(f"{journal} holds no plan of sorted images; give another, or make the plan again.")
    return plan
