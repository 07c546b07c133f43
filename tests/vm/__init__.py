"""Virtual machines, for what test hosts share with the machine that carries them: the clock, the power, the kernel.

* `image` keeps a disk in the cache folder: the Debian root of tests.hosts with a kernel and the agent (`guest`) in it.
* `machine.Machine` is one machine: QEMU without KVM, `qmp` to its control, `channel` to the agent in it.
* `scene` is a machine with tidegated; `inside` what is run in it.
* `cuts`, `clocks` and `execs` are the rounds of `make vm` (`python -m tests.vm`).
"""
