"""The Python API, one file a subject. `lwc.__all__` lists the public names; import them from `lwc`."""
