"""Tables of text: built once as columns and rows, rendered to Markdown here and to the terminal by `cli.console`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Columns and rows of text; nothing reads a rendered table back.

    >>> print(Table(("method", "accuracy"), (("sib", "68.7"),)).markdown())
    | method | accuracy |
    | --- | --- |
    | sib | 68.7 |
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
