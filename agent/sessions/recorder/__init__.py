"""The recorder: one unprivileged process that holds every tenant's terminal and pipes, passes bytes on and writes them down.

``main`` reads the arguments; ``service`` puts the parts together over one epoll ``loop``; ``door`` takes tidegate-shell's calls;
``opening`` makes a session of one (``terminal``, ``streams``); ``flow`` and ``ends`` move bytes; ``tape`` is one recording on
disk, ``store`` the folder of them; ``port`` asks tidegated; ``keeping`` lets sessions outlive the process (systemd's fd store).
Nothing here waits for a tenant: every read and write either goes at once or is tried again when the kernel says so.
"""
