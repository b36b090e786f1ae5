"""The command line, a file for each subject; `lwc.cli.main` puts the commands together."""
