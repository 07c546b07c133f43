"""The kernel's audit (audit(8), NETLINK_AUDIT): our rules, its records, and how processes ended.

* `netlink` speaks to it; `rules` puts our rules in and takes them out, and says why that can't be.
* `records` makes one value of the several records of an exec. Pure.
* `serials` tells from their numbers what never came. Pure.
* `exits` hears of ended processes from the process connector.
"""
