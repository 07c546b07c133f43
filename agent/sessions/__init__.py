"""Who is in, the tenants' shell, and what is recorded."""
