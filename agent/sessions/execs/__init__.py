"""What tenants run: every exec of theirs, as the kernel's audit saw it, in one file for each grant.

* `reader` is a program of its own, started by tidegated while a grant with accounts stands: it reads what the kernel sends and
  writes it down. A tenant's storm of execs costs its time, not that of whoever ends grants.
* `sorting` sorts execs, ends and gaps to the grants, pure but for the books; `book` is one grant's file; `lines` what is in it.
* `capture` is tidegated's end: rules, sockets, the reader, and what it says.
"""
