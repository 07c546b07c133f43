"""The courier through everything that may befall it: `make outages`."""
