"""The table of kinds of files in docs/labelling.md, from the kinds that the code knows."""

import re

from onelook.data.formats import FORMATS, IMAGE, KINDS, Kind

BEGIN, END = "<!-- kinds of files, by make docs -->", "<!-- end -->"
PLACE = re.compile(f"(?<={BEGIN}\n).*?(?={END})", re.DOTALL)


def table() -> str:
    rows = (f"| {_name(kind)} | {' '.join(kind.suffixes)} | {_describe(kind)} |\n" for kind in KINDS)
    return f"| files | suffixes | what is done |\n| --- | --- | --- |\n{''.join(rows)}"


def insert(page: str) -> str:
    """The page with the table of today."""
    return PLACE.sub(lambda _: table(), page)


def _name(kind: Kind) -> str:
    return f"{kind.name}: {', '.join(FORMATS)}" if kind is IMAGE else kind.name


def _describe(kind: Kind) -> str:
    if kind is IMAGE:
        return "read"
    return f"read after `{kind.remedy.removesuffix(' reads such files')}`" if kind.package else f"named; {kind.remedy}"
