"""The only code that touches the host: commands, files, accounts, processes, clock. Each has a fake for unit tests."""
