"""`make survive`: whatever a tenant leaves running, on booted hosts, is looked for from outside after its grant has ended.

One row is one short entry in :mod:`tests.survival.rows`; :mod:`tests.survival.stage` plays it, :mod:`tests.survival.outside` looks.
"""
