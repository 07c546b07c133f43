"""Other systems: the ticket check, hooks, the SIEM. URLs are the admin's alone: nothing that is typed chooses where we connect."""
