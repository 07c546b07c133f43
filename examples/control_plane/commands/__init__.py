"""The commands people use: `tidegate-request` asks for access and logs in by ssh, `tidegate-cp` administers."""
