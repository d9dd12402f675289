"""The two zero-shot experiments of the SIB paper: tasks without a single label, solved from their inputs alone."""
