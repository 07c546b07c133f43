"""The host suite on each Debian that Tidegate is to run on: `make matrix` (tests.matrix.__main__)."""
