"""What all tests share: the test hosts' fixtures."""

pytest_plugins = ["tests.hosts.plugin"]
