"""The people's API: every operation stands in openapi.yaml, which the server itself obeys."""
