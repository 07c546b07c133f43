"""What all tests share: the test hosts' fixtures."""

pytest_plugins = ["tests.hosts.suites", "tests.hosts.plugin"]
