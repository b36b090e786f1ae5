"""One file a source; the table is in `lwc.data.sources.registry`."""
