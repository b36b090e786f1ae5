"""The commands, a file for each subject; `lwc.cli` puts them together."""
