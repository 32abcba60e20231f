"""The command line: one short file a command. Heavy imports stand inside the commands, so that --help is quick."""
