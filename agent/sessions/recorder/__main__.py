"""``python -m agent.sessions.recorder``."""

from agent.sessions.recorder.main import main

main()
