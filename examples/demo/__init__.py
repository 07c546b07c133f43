"""`make demo`: one access from grant to receipt on a disposable host, measured as it happens."""
