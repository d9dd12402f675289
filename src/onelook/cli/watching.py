"""`onelook label --watch`: label again whenever files came, left or changed."""

import time
from collections.abc import Iterator

from onelook.cli.console import run
from onelook.cli.terminal import say, stop_if_asked
from onelook.data.addresses import stamp_file
from onelook.errors import DataError
from onelook.labelling.label import LabelConfig, Labelled, label_folder, list_images
from onelook.machine import Place

POLL = 2.0
"""Seconds between two looks at the folder."""


def watch_folder(config: LabelConfig, place: Place) -> Iterator[Labelled]:
    """Label the folder, and again whenever something changed; features are cached.

    A folder that cannot be labelled yet is waited for, after one sentence that says why. Ctrl-C while it waits is the
    end; while it labels, it is an interruption as everywhere.
    """
    state = _look(config)
    while True:
        why = state if isinstance(state, str) else ""
        if not why:
            try:
                yield run(label_folder(config, place), "label")
            except DataError as error:
                why = str(error)
        say(
            f"label: {why} Waiting for that; Ctrl-C ends it."
            if why
            else f"label: watching {config.folder} for changes; Ctrl-C ends it."
        )
        before = state
        try:
            while state == before:
                stop_if_asked()
                time.sleep(POLL)
                state = _look(config)
        except KeyboardInterrupt:
            say("label: watching has ended; what was written is whole.")
            return


def _look(config: LabelConfig) -> object:
    """Everything that the labels depend on, found without reading images; or a sentence why there are none."""
    try:
        found = list_images(config)
    except DataError as error:
        return str(error)
    listing = found.listing
    return listing.labels, listing.class_names, [(name, stamp_file(config.folder / name)) for name in listing.names]
