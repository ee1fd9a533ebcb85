"""The command line: one verb a file, the only writer of standard output."""
