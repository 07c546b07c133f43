"""The control socket: how the command line asks the running daemon. One JSON line in, one JSON line out."""
