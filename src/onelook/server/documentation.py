"""The page of the service's addresses, from its OpenAPI description: no script, nothing from elsewhere."""

from importlib.resources import files
from typing import Any

from fastapi import FastAPI
from starlette.responses import HTMLResponse, Response

from onelook.html import render_template
from onelook.server.uploads import FORM, JSON, NPZ, ExamplesBody, RowsBody

FOLDER = "server/pages"
BINARY = {"type": "string", "format": "binary"}


def body(labelled: bool) -> dict[str, Any]:
    """OpenAPI description of the body of a request."""
    parts: dict[str, Any] = {"image": {"type": "array", "items": BINARY}}
    if labelled:
        parts |= {"label": {"type": "array", "items": {"type": "string"}}, "unlabelled": parts["image"]}
    kinds = {
        JSON: (ExamplesBody if labelled else RowsBody).model_json_schema(),
        NPZ: BINARY,
        FORM: {"type": "object", "properties": parts},
    }
    return {"requestBody": {"content": {kind: {"schema": schema} for kind, schema in kinds.items()}}}


def add_pages(app: FastAPI) -> None:
    """Add /docs and its style sheet; /openapi.json is there already."""

    @app.get("/docs", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(render_template(f"{FOLDER}/api.html", api=app.openapi(), addresses=list_addresses(app)))

    @app.get("/docs.css", include_in_schema=False)
    async def style() -> Response:
        return Response(files("onelook").joinpath(f"{FOLDER}/api.css").read_bytes(), media_type="text/css")


def list_addresses(app: FastAPI) -> list[dict[str, Any]]:
    """Every address with its method, what it does, its parameters, and what goes in and comes out."""
    api = app.openapi()
    rows = []
    for path, methods in api["paths"].items():
        for method, about in methods.items():
            first, _, rest = about.get("description", "").partition("\n")
            good: dict[str, Any] = next(
                (one for status, one in about["responses"].items() if status.startswith("2")), {}
            )
            rows.append(
                {
                    "method": method.upper(),
                    "path": path,
                    "summary": first,
                    "more": rest.strip(),
                    "parameters": [_parameter(one) for one in about.get("parameters", ())],
                    "bodies": [
                        (kind, _fields(api, one["schema"]))
                        for kind, one in about.get("requestBody", {}).get("content", {}).items()
                    ],
                    "answer": [
                        field
                        for one in good.get("content", {}).values()
                        for field in _fields(api, one.get("schema", {}))
                    ],
                }
            )
    return rows


def _parameter(one: dict[str, Any]) -> tuple[str, str, str]:
    schema = one["schema"]
    kinds = schema.get("enum") or [schema.get("type") or _kind(schema)]
    default = schema.get("default")
    return one["name"], " | ".join(map(str, kinds)), "" if default is None else str(default)


def _fields(api: dict[str, Any], schema: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and kinds of the fields of an object; of anything else its kind."""
    if "$ref" in schema:
        schema = api["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    if "properties" not in schema:
        return [("", _kind(schema))] if schema else []
    return [(name, _kind(one)) for name, one in schema["properties"].items()]


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "anyOf" in schema:
        return " | ".join(_kind(one) for one in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    if schema.get("format") == "binary":
        return "file"
    return str(schema.get("type", "anything"))
