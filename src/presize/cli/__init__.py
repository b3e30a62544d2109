"""The command line: `presize VERB`. Nothing here decides anything about scheduling."""
