"""Other systems: the ticket check, hooks, the SIEM. Every URL is the admin's; nothing that somebody typed chooses where we connect."""
