"""`onelook export`: a saved classifier for programs that know nothing of Onelook."""

from pathlib import Path
from typing import Annotated

from onelook.cli.console import print_json, run
from onelook.cli.options import Fields, Json, options
from onelook.cli.terminal import write
from onelook.errors import quote_name
from onelook.files import Output
from onelook.labelling.onnx_export import ExportConfig, export_classifier

Written = Annotated[Path, "ONNX file to write; its model card, a .md, is written beside it.", Output(beside=(".md",))]


@options
def export(
    config: Annotated[ExportConfig, Fields(arguments=("classifier",))],
    *,
    out: Written = Path("model.onnx"),
    as_json: Json = False,
) -> None:
    """Write a saved classifier, with its network, as an ONNX file that takes pixels.

    Example: onelook export classifier.safetensors --out model.onnx
    """
    done = run(export_classifier(config, out), "export")
    written = [str(out), str(out.parent / f"{out.stem}.md")]
    if as_json:
        print_json({"written": written, "preprocessing": done.card.preprocessing()} | done.card.metadata())
        return
    write(f"{len(done.card.classes)} classes, network {done.card.network}, {len(done.model) / 1e6:.1f} MB")
    write(f"Input: {done.card.preprocessing()}")
    write(*(f"Written: {quote_name(file)}" for file in written))
