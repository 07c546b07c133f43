"""Recordings as other people's programs play them: asciinema's command, and its player in a browser."""
