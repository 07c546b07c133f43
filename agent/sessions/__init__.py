"""Who is in, and what they are told."""
