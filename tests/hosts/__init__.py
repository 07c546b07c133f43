"""The test bed: whole Debian hosts, made in half a second, to test Tidegate on with the real sshd, sudo and systemd.

Start at `machine.Host`. How a host is made, from the outside in:

* `root` keeps one Debian root for each suite in a cache folder, built once by debootstrap.
* `machine.Host` is what tests hold. It starts one `supervisor` process, which owns everything the host is made of
  (`mounts`, `network`, `cgroup`) and takes it all down when its owner goes, however the owner goes.
* `fallback.NamespaceHost` has the same interface where systemd-nspawn cannot boot.
* `suites` says which Debian the hosts of a run are; `layer` adds packages to its root.
* `plugin` holds the pytest fixtures; `python3 -m tests.hosts` the commands for a developer.
"""
