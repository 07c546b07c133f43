"""What happens here, as OCSF events: the kinds, their mapping, and the ways out to a SIEM."""
