"""From a request to signed grants. decide.py says what may be (pure); acts.py does it, each act in one transaction."""
