"""The command line: parse, call, print. The module of a command is loaded when it is called or asked for its help."""

import signal
import sys

from cyclopts import App

from onelook import __version__
from onelook.cli import terminal, together

COMMANDS = {
    "review": (
        "reviewing:review",
        "Label the images of a folder on a page in the browser, which learns from every answer.",
    ),
    "label": ("labelling:label", "Label the images of a folder, from a few labelled examples in its sub-folders."),
    "predict": ("labelling:predict", "Label new images by a saved classifier, each image by itself."),
    "export": ("exporting:export", "Write a saved classifier, with its network, as an ONNX file that takes pixels."),
    "suggest": ("labelling:suggest", "Suggest which images to label next, with the accuracy to expect from them."),
    "doctor": ("labelling:doctor", "Find unreadable files, duplicates, conflicting labels and odd folders."),
    "serve": ("serving:serve", "Serve classifiers over HTTP, and be an ML backend of Label Studio."),
    "networks": ("networks:networks", "List the feature networks: what each is good for, and how fast it is here."),
    "demo": ("results:demo", "Learn to learn on the built-in glyphs; show what the unlabelled images were worth."),
    "data": ("data:app", "List, fetch and verify the standard image sets."),
    "pretrain": ("training:pretrain", "Train a feature network: a cosine classifier over the training classes."),
    "train": ("training:train", "Meta-train a method on tasks of the training classes."),
    "embed": ("training:embed", "Write the features of images to a file that numpy reads, or by Ray to Parquet files."),
    "benchmark": ("benchmark:app", "Compare methods on the same tasks, after training those that learn."),
    "show": ("results:show", "Show results as a table, or describe a model."),
}
"""Module and attribute of each command, and the first line of its docstring, which is listed before it is loaded."""

app = App(
    name="onelook",
    help="Learn a new classification task from one labelled example per class and the unlabelled examples to classify.",
    help_format="plaintext",  # markdown is loaded for the help of one command only
    version=__version__,
    suppress_keyboard_interrupt=False,
)
for _place, (_name, (_where, _help)) in enumerate(COMMANDS.items()):
    app.command(f"onelook.cli.{_where}", name=_name, help=_help, sort_key=_place)
app.register_install_completion_command()


def main() -> None:
    terminal.prepare_streams()
    signal.signal(signal.SIGTERM, terminal.end)
    sys.exit(together.call(app) if together.is_one_of_several() else terminal.call(app))
